"""Measure a base, alone or with an adapter, on benchmark sets (Table 3, row i, and any other).

    python recipes/evaluate.py --codec webp --evaluate_on Set5 Set14 --data DATA
    python recipes/evaluate.py --codec webp --adapter runs/webp

Prints a table and writes results.json: bicubic, the base and, if given, the base with the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from ucip_adapt.config import option, run_recipe
from ucip_adapt.data import ArrayCache, default_cache_dir, load_eval_set, parse_settings
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import require_codec
from ucip_adapt.errors import ConfigError
from ucip_adapt.evaluation import Upscale, bicubic, evaluate_sets, network_upscaler, summarise
from ucip_adapt.metrics import get_protocol
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import run_record, write_results
from ucip_adapt.training.run import Clock, say
from ucip_adapt.tuning import load_prompt_adapter, protocol_for


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    pretrained_model_name_or_path: str = option(
        "ucip-tiny", "Base network: a shipped name, a folder, or a repository on the Hub."
    )
    revision: str | None = option(None, "Revision of the base on the Hub.")
    adapter: str | None = option(None, "Adapter: a folder or a repository on the Hub.")
    codec: str = option("webp", "Codec to measure on.")
    qualities: tuple[int, ...] = option((), "Its qualities; default: those of its suite.")
    protocol: Literal["i"] | None = option(None, "Row i of Table 3 asks for a prompted base.")
    evaluate_on: tuple[str, ...] = option(
        ("GB82-val",), "Sets: GB82-val, benchmarks under DATA, folders."
    )
    max_images: int | None = option(None, "Only the first images of each set.", minimum=1)
    metric_protocols: tuple[str, ...] = option(("y-c4", "rgb-c4"), "Protocols to score under.")
    window: str = option(
        "config", "'config', 'whole', a side in LQ pixels, or 'both': whole and config."
    )
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    cache_dir: Path | None = option(None, "Folder for decoded images.")
    output_dir: Path = option(Path("runs/evaluate"), "Folder that results.json goes to.")


def read_window(text: str) -> int | str | None:
    """Turn the option into what :meth:`UCIP.upscale` takes."""
    if text == "config":
        return "config"
    if text == "whole":
        return None
    if text.isdecimal() and int(text) >= 8:
        return int(text)
    raise ConfigError(f"--window {text}: give config, whole, both, or a number from 8")


def build_methods(
    cfg: Options,
    base: UCIP,
    device: torch.device,
    *,
    prefix: str,
    adapter: Any,  # noqa: ANN401
) -> dict[str, Upscale]:
    """The base, and the base with the adapter, in each way asked for."""
    ways = {"": cfg.window} if cfg.window != "both" else {" whole": "whole", "": "config"}
    methods: dict[str, Upscale] = {}
    for suffix, way in ways.items():
        run = network_upscaler(base.upscale, device, window=read_window(way))

        def plain(lq: NDArray[np.uint8], run: Upscale = run) -> NDArray[np.uint8]:
            if adapter is None:
                return run(lq)
            with adapter.disable_adapter():
                return run(lq)

        methods[prefix + suffix] = plain
        if adapter is not None:
            methods["adapter" + suffix] = run
    return methods


def main(cfg: Options) -> dict[str, Any]:
    """Measure; returns what results.json holds."""
    clock = Clock()
    require_codec(cfg.codec)
    settings = parse_settings(cfg.codec, cfg.qualities or None)
    for name in cfg.metric_protocols:
        get_protocol(name)
    root = data_root(cfg.data)
    sets = [load_eval_set(name, root, limit=cfg.max_images) for name in cfg.evaluate_on]
    accelerator = Accelerator()
    base = UCIP.from_pretrained(cfg.pretrained_model_name_or_path, revision=cfg.revision)
    if cfg.protocol is not None:
        protocol_for(base, cfg.protocol, everything=False)
    adapter = None if cfg.adapter is None else load_prompt_adapter(cfg.adapter, base)
    base.to(accelerator.device)
    clock.lap("data")
    methods = build_methods(cfg, base, accelerator.device, prefix="base", adapter=adapter)
    rows = evaluate_sets(
        {"bicubic": bicubic, **methods},
        sets,
        settings,
        cfg.metric_protocols,
        cache=ArrayCache(cfg.cache_dir or default_cache_dir()),
        accelerator=accelerator,
        progress=accelerator.is_local_main_process,
    )
    clock.lap("evaluation")
    for name in cfg.metric_protocols:
        say(accelerator, summarise(rows, protocol=name, reference="bicubic"), "")
    record = run_record(
        "evaluate",
        cfg,
        seconds=clock.seconds,
        parameters={"total": base.num_parameters(), "base_fingerprint": base.fingerprint},
        scores={"rows": [row.to_dict() for row in rows]},
    )
    if accelerator.is_main_process:
        cfg.output_dir.mkdir(parents=True, exist_ok=True)
        write_results(cfg.output_dir / "results.json", record)
        say(accelerator, f"wrote {cfg.output_dir / 'results.json'}")
    accelerator.wait_for_everyone()
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
