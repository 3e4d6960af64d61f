"""What is left of an adapter when it is switched off: compare with the base, value by value.

    python benchmarks/switched_off.py --out results/switched_off.json

For every way of tuning that leaves an adapter (those of recipes/experiments.toml), the adapter is
filled with random numbers, large enough to be seen, and pictures are restored by the base alone,
with the adapter, and with the adapter switched off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from ucip_adapt.assets import ALIASES
from ucip_adapt.data import load_eval_set
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.experiments.cells import read_method
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import command_line, environment, write_results
from ucip_adapt.tuning import (
    DynamicPromptConfig,
    add_prompt_adapter,
    count_adapter,
    lora_config,
    trainable_parameters,
)

EXPERIMENTS = Path(__file__).parent.parent / "recipes" / "experiments.toml"
SIDE = 48  # LQ pixels of each picture


def methods() -> list[str]:
    """Every way of tuning in the experiments that leaves an adapter."""
    groups = read_experiments(EXPERIMENTS).values()
    names = dict.fromkeys(cell.method for group in groups for cell in group.cells)
    return [name for name in names if read_method(name)[0].recipe == "tune_prompts.py"]


def adapted(base: str, name: str) -> PeftModel:
    """A base with an adapter of random values."""
    model = UCIP.from_pretrained(base)
    method, blocks = read_method(name)
    flags = dict(zip(method.flags[::2], method.flags[1::2], strict=True))
    config = DynamicPromptConfig(trainable_set=flags["--trainable"], trainable_blocks=blocks)
    kind = flags.get("--peft_method")
    if kind is None:
        wrapped = add_prompt_adapter(model, config)
    else:
        budget = count_adapter(model.config, config)
        other = lora_config(model, budget=budget, dora=kind == "dora", trainable_blocks=blocks)
        wrapped = get_peft_model(model, other)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in trainable_parameters(wrapped):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return wrapped.eval()


def restore(model: Any, pictures: list[Tensor]) -> list[np.ndarray]:  # noqa: ANN401 - UCIP or PEFT's
    """Restore pictures; the network's own floating-point numbers, not yet rounded to 8 bits."""
    with torch.no_grad():
        return [model(picture).numpy() for picture in pictures]


def measure(base: str, pictures: list[Tensor]) -> dict[str, Any]:
    """How many values differ from the base's, with an adapter switched on and off."""
    before = restore(UCIP.from_pretrained(base).eval(), pictures)
    found = {}
    for name in methods():
        model = adapted(base, name)
        on = restore(model, pictures)
        with model.disable_adapter():
            off = restore(model, pictures)
        pairs = list(zip(before, off, strict=True))
        found[name] = {
            "values": sum(a.size for a, _ in pairs),
            "different": sum(int((a.view(np.uint32) != b.view(np.uint32)).sum()) for a, b in pairs),
            "largest": max(float(np.abs(a - b).max()) for a, b in pairs),
            "largest_on": max(float(np.abs(a - b).max()) for a, b in zip(before, on, strict=True)),
        }
        print(name, json.dumps(found[name]))
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="ucip-tiny")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images = load_eval_set("GB82-val", limit=options.images).images
    pictures = [to_tensor(image.lr[:SIDE, :SIDE])[None] for image in images]
    found = measure(options.base, pictures)
    record = {
        "kind": "switched_off",
        "command": command_line(),
        "config": {
            "base": ALIASES.get(options.base, options.base),
            "images": options.images,
            "side": SIDE,
        },
        "environment": environment(),
        "scores": {"methods": found},
    }
    write_results(options.out, record)


if __name__ == "__main__":
    main()
