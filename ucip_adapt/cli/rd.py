"""Measure rate and distortion of codecs on a folder: alone, and followed by an upscaler.

Writes rd.json (points and BD-rates) and rd.png to the output folder.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ucip_adapt.cli.table import render_table
from ucip_adapt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ucip_adapt.evaluation import Upscale

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt rd`."""
    parser.add_argument(
        "--codecs",
        nargs="+",
        action="extend",
        required=True,
        metavar="CODEC",
        help="Names, each with its suite's qualities or with others: webp or webp:10,20,30; "
        "'available' means every codec that works here.",
    )
    parser.add_argument(
        "--images",
        required=True,
        metavar="FOLDER",
        help="Folder of high-resolution images, GB82-val (in the package), or Set5, ... with "
        "--data.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Output folder.")
    parser.add_argument("--anchor", metavar="CODEC", help="BD-rate's reference [default: jpeg].")
    parser.add_argument("--base", metavar="BASE", help="Also after this network (ucip-tiny, ...).")
    parser.add_argument(
        "--adapter",
        metavar="ADAPTER",
        help="Also after this adapter on its base: name, folder, or user/repository.",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="Data root; default: UCIP_DATA.")
    parser.add_argument("--max-images", type=int, metavar="INT", help="Only the first images.")
    parser.add_argument("--quiet", action="store_true", help="No progress bar.")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print the table."""
    from ucip_adapt.codecs import get_codec
    from ucip_adapt.codecs.streams import use_streams
    from ucip_adapt.data import data_root, load_eval_set
    from ucip_adapt.rate_distortion import (
        bd_rates,
        check_known_rates,
        measure_rates,
        plot_rates,
        require_plots,
    )

    require_plots()
    started = time.perf_counter()
    root = data_root(arguments.data)
    codecs = _codecs(arguments.codecs)
    anchor = arguments.anchor or ("jpeg" if "jpeg" in codecs else next(iter(codecs)))
    if anchor not in codecs:
        raise ConfigError(f"--anchor {anchor} is not among the codecs: {', '.join(codecs)}")
    image_set = load_eval_set(arguments.images, root, limit=arguments.max_images)
    methods = _methods(arguments.base, arguments.adapter)
    try:  # before the measurement, which would be lost
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {arguments.out}: {error}") from error
    use_streams(codecs, root)  # HM and VTM: what is stored of their streams
    points, left_out = measure_rates(codecs, image_set, methods, progress=not arguments.quiet)
    check_known_rates(anchor, points, left_out)
    rates = {
        "psnr_db": bd_rates(points, anchor, metric="psnr_db"),
        "ssim": bd_rates(points, anchor, metric="ssim"),
    }
    count = len(image_set.images)
    scores = {
        "images": {"set": image_set.name, "count": count, "reduced": image_set.lr_source},
        "points": [point.to_dict() for point in points],
        "anchor": anchor,
        "bd_rate_percent": rates,
        "left_out": left_out,
        "codecs": {name: get_codec(name).fingerprint() for name in codecs if name not in left_out},
    }
    _write(arguments, scores, seconds=time.perf_counter() - started)
    plot_rates(points, arguments.out / "rd.png", title=f"{image_set.name}, {count} images, x4")
    _show(rates, anchor, left_out)
    return 0


def _codecs(words: list[str]) -> dict[str, tuple[int, ...]]:
    """Qualities by codec; an empty tuple stands for those of its suite."""
    from ucip_adapt.codecs import get_codec, list_codecs

    found: dict[str, tuple[int, ...]] = {}
    named: set[str] = set()
    for word in words:
        if word == "available":
            # Whoever names a codec beside it, before or after, means the qualities given there.
            works = [spec.name for spec, state in list_codecs() if state.ok]
            found |= {name: found.get(name, ()) for name in works}
            continue
        name, colon, text = word.partition(":")
        spec = get_codec(name).spec  # an unknown one is an error now
        if name in named:
            raise ConfigError(
                f"--codecs names {name} twice: write all its qualities in one word, {name}:10,20,30"
            )
        named.add(name)
        try:
            qualities = tuple(int(part) for part in text.split(",")) if colon else ()
        except ValueError:
            raise ConfigError(f"--codecs {word}: write qualities as {name}:10,20,30") from None
        for quality in qualities:
            spec.check_quality(quality)
        found[name] = qualities
    return found


def _methods(base: str | None, adapter: str | None) -> dict[str, Upscale]:
    import torch

    from ucip_adapt.evaluation import bicubic, network_upscaler
    from ucip_adapt.hub.library import locate_adapter
    from ucip_adapt.models import UCIP
    from ucip_adapt.tuning import load_prompt_adapter

    methods: dict[str, Upscale] = {"bicubic": bicubic}
    device = torch.device("cpu")
    if base is not None:
        network = UCIP.from_pretrained(base).eval()
        name = Path(base).name  # a folder may be called bicubic
        methods[f"base {name}" if name in methods else name] = network_upscaler(
            network.upscale, device
        )
    if adapter is not None:
        folder = locate_adapter(adapter)
        start = None if base is None else UCIP.from_pretrained(base)
        tuned = cast("UCIP", load_prompt_adapter(folder, start).eval().get_base_model())
        methods[f"adapter {Path(adapter).name}"] = network_upscaler(tuned.upscale, device)
    return methods


def _write(arguments: argparse.Namespace, scores: Mapping[str, Any], *, seconds: float) -> None:
    from ucip_adapt.training.results import environment, portable, write_results

    words = ["ucip-adapt", "rd", "--codecs", *arguments.codecs]
    for flag in ("images", "out", "anchor", "base", "adapter", "data", "max_images"):
        value = getattr(arguments, flag)
        if value is not None:
            words += [f"--{flag.replace('_', '-')}", str(portable(value))]
    record = {
        "kind": "rate_distortion",
        "command": shlex.join(words),
        "environment": environment(),
        "seconds": {"all": round(seconds, 1)},
        "scores": scores,
    }
    write_results(arguments.out / "rd.json", record)


def _show(
    rates: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    anchor: str,
    left_out: Mapping[str, str],
) -> None:
    curves = list(rates["psnr_db"])
    header = ["codec", *(f"{metric}, {curve}" for curve in curves for metric in ("PSNR", "SSIM"))]
    rows = [
        [codec, *(_percent(rates[m][c].get(codec)) for c in curves for m in ("psnr_db", "ssim"))]
        for codec in rates["psnr_db"][curves[0]]
    ]
    sys.stdout.write(f"BD-rate over {anchor}: bits at equal quality, negative is better\n")
    sys.stdout.write(render_table(header, rows))
    for codec, reason in left_out.items():
        sys.stdout.write(f"left out: {codec}: {reason}\n")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"
