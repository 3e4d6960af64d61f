"""Restore and enlarge pictures four times: files, folders, patterns, or standard input."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt upscale`."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="Files, folders, patterns, or -.")
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="A folder; for a single input also a file; - is standard output.",
    )
    add(
        "--adapter",
        default="auto",
        help="auto (by the codec of the file, or of its pixels), none, or the name, folder or Hub "
        "id of one. Default: auto.",
    )
    add(
        "--no-pixel-detection",
        dest="pixels",
        action="store_false",
        help="auto: go by the file alone, not by its pixels where it does not say its codec.",
    )
    add("--base", help="Base network: name, folder or Hub id. Default: the adapter's own.")
    add("--revision", help="Branch, tag or commit of an adapter on the Hub.")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 or mps. Default: cpu.")
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="Precision of the network. Default: float32.",
    )
    add(
        "--max-memory",
        metavar="SIZE",
        help="What the network may use, such as 4GB; larger pictures go through in fewer windows "
        "at a time or in strips, with the same result. Default: no limit.",
    )
    add(
        "--sampler",
        choices=["grid", "gather", "fused"],
        help="How tokens are fetched, with the same result; fused is a kernel that is compiled the "
        "first time and helps large networks in bfloat16. Default: what the base says: grid.",
    )
    add(
        "--self-ensemble",
        action="store_true",
        help="Restore each picture in eight orientations and take the mean: a little sharper, in "
        "eight times the time.",
    )
    add("--jobs", type=int, default=1, metavar="N", help="Pictures at once. Default: 1.")
    add(
        "--format",
        choices=["png", "webp", "tiff", "jpeg"],
        help="Format of the results; all but jpeg are lossless. Default: what OUT ends in, or png.",
    )
    add("--suffix", default="_x4", help="Put behind the name of each result. Default: _x4.")
    add("--recursive", action="store_true", help="Take the pictures of sub-folders too.")
    add("--overwrite", action="store_true", help="Replace results that are there.")
    add(
        "--max-pixels",
        type=int,
        default=16_000_000,
        metavar="N",
        help="Refuse pictures with more pixels; results have 16 times as many. Default: 16000000.",
    )
    add("--json", action="store_true", help="Print one JSON object per picture, for programs.")
    add("--quiet", action="store_true", help="No progress bar, no line per picture.")


def run(arguments: argparse.Namespace) -> int:
    """Enlarge everything; 0 if all went well, 3 if some pictures failed."""
    from ucip_adapt.imaging.batch import BatchOptions, run_jobs
    from ucip_adapt.imaging.jobs import collect_jobs
    from ucip_adapt.models.bounded.plan import parse_memory

    if arguments.max_memory is not None:
        parse_memory(arguments.max_memory)  # before the first picture: it is wrong for all
    jobs = collect_jobs(
        arguments.inputs,
        arguments.output,
        file_format=arguments.format,
        suffix=arguments.suffix,
        recursive=arguments.recursive,
    )
    options = BatchOptions(
        adapter=arguments.adapter,
        pixels=arguments.pixels,
        base=arguments.base,
        revision=arguments.revision,
        device=arguments.device,
        dtype=arguments.dtype,
        max_memory=arguments.max_memory,
        sampler=arguments.sampler,
        self_ensemble=arguments.self_ensemble,
        workers=arguments.jobs,
        file_format=arguments.format,
        overwrite=arguments.overwrite,
        max_pixels=arguments.max_pixels,
        as_json=arguments.json,
        quiet=arguments.quiet,
    )
    return run_jobs(jobs, options)
