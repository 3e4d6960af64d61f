"""Time and memory of one tuning step, by what is trained.

    python benchmarks/tuning_step.py --out results/benchmarks/tuning_step.json

Methods take turns, so that a change of the machine's speed meets all of them; the median over the
rounds is given, and its ratio to tuning everything. Memory is what the forward pass keeps for the
backward pass, parameters left out. One thread, unless ``--threads`` says otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from peft import get_peft_model
from torch import Tensor, nn

from ucip_adapt.models import UCIP
from ucip_adapt.training.results import command_line, environment
from ucip_adapt.tuning import (
    TRAINABLE_SETS,
    DynamicPromptConfig,
    add_prompt_adapter,
    count_adapter,
    full_tuning,
    lora_config,
    trainable_parameters,
)


def build(name: str, base: str) -> nn.Module:
    """A base prepared for one way of tuning."""
    model = UCIP.from_pretrained(base)
    if name == "everything":
        full_tuning(model)
        return model
    if name == "lora":
        budget = count_adapter(model.config, DynamicPromptConfig(trainable_set="dpm+offset"))
        return get_peft_model(model, lora_config(model, budget=budget))
    return add_prompt_adapter(model, DynamicPromptConfig(trainable_set=name))


def kept_mib(model: nn.Module, lq: Tensor, gt: Tensor) -> float:
    """Memory that autograd keeps between forward and backward, in MiB."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = (model(lq) - gt).abs().mean()
    total = sum(sizes.values()) / 2**20
    loss.backward()
    return total


def stepper(model: nn.Module, lq: Tensor, gt: Tensor) -> Callable[[], None]:
    """One step: forward, backward, Adam."""
    optimizer = torch.optim.Adam([p for _, p in trainable_parameters(model)], lr=1e-4)

    def step() -> None:
        loss = (model(lq) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="ucip-tiny-v1")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=64, help="side of a crop in LQ pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/tuning_step.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    lq = torch.rand(options.batch, 3, options.patch, options.patch)
    gt = torch.rand(options.batch, 3, 4 * options.patch, 4 * options.patch)
    models = {name: build(name, options.base) for name in ("everything", *TRAINABLE_SETS, "lora")}
    memory = {name: round(kept_mib(model, lq, gt), 1) for name, model in models.items()}
    steps = {name: stepper(model, lq, gt) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    whole = median(seconds["everything"])
    table = {
        name: {
            "cpu_seconds": round(median(values), 4),
            "spread": [round(min(values), 4), round(max(values), 4)],
            "ratio": round(median(values) / whole, 3),
            "kept_mib": memory[name],
            "trained": sum(p.numel() for _, p in trainable_parameters(models[name])),
        }
        for name, values in seconds.items()
    }
    record = {
        "format_version": "1.0",
        "kind": "benchmark",
        "command": command_line(),
        "config": {k: v for k, v in vars(options).items() if k != "out"},
        "environment": environment(),
        "scores": table,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, row in table.items():
        print(
            f"{name:18} {row['cpu_seconds']:.3f} s  x{row['ratio']:.2f}  {row['kept_mib']:7.1f} MiB"
        )


if __name__ == "__main__":
    main()
