"""Compress a folder of images by every codec of a suite, into parquet files for training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ucip_adapt.cli.table import render_table
from ucip_adapt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ucip_adapt.data.bicubic import EdgeRule
    from ucip_adapt.suites.build import Part
    from ucip_adapt.suites.plan import BuildPlan
    from ucip_adapt.suites.suite import Suite

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt build-suite`."""
    add = parser.add_argument
    add(
        "--suite",
        metavar="NAME|FILE",
        help="ucsr, ucsr-open, ucsr-streams, webp, elic, or a file.toml.",
    )
    add("--hr", type=Path, metavar="DIR", help="High-resolution images; folders below count too.")
    add("--out", type=Path, required=True, metavar="DIR", help="Folder for the shards.")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="Folder with reference_streams of HM and VTM; default: UCIP_DATA.",
    )
    add(
        "--hr-mode",
        choices=("reference", "bytes"),
        default="reference",
        help="Whether shards name the high-resolution images, or hold their files.",
    )
    add(
        "--edge", choices=("symmetric", "edge"), default="symmetric", help="Edges of the reduction."
    )
    add("--images-per-shard", type=int, metavar="N", help="Default: a 64th of all, 16 to 256.")
    add("--workers", type=int, metavar="N", help="Local processes; default: one per core.")
    add("--engine", choices=("processes", "dask"), default="processes", help="Who works.")
    add("--scheduler", metavar="ADDRESS", help="Dask's scheduler, for --engine dask.")
    add("--num-shards", type=int, default=1, metavar="N", help="Jobs that share this build.")
    add("--shard-index", type=int, default=0, metavar="I", help="Number of this job, from 0.")
    add("--max-quarantined", type=int, default=100, metavar="N", help="Unusable images allowed.")
    add("--retry-quarantined", action="store_true", help="Make shards that lack images again.")
    add("--ignore-free-space", action="store_true", help="Begin although the disk looks too small.")
    add("--strict", action="store_true", help="Refuse stand-ins, also where the suite allows them.")
    add("--substitute", action="store_true", help="Allow stand-ins, also where the suite does not.")
    add("--allow-command", action="store_true", help="Run commands that your own suite file names.")
    add("--dry-run", action="store_true", help="Say what would be done, and stop.")
    add("--verify", action="store_true", help="Only compare the shards in OUT with the manifest.")
    add("--push-to-hub", metavar="REPO", help="Upload the finished folder as a data set.")
    add("--private", action="store_true", help="Make a new repository private.")


def run(arguments: argparse.Namespace) -> int:
    """Plan and build, or verify what is there."""
    if arguments.verify:
        from ucip_adapt.suites.records import verify_suite

        count = verify_suite(arguments.out)
        sys.stdout.write(f"{count} shards in {arguments.out}: all as the manifest says\n")
        return 0
    for flag in ("suite", "hr"):
        if getattr(arguments, flag) is None:
            raise ConfigError(f"--{flag} is required, except with --verify")
    if arguments.strict and arguments.substitute:
        raise ConfigError("--strict and --substitute exclude each other")
    for flag, least in (("images_per_shard", 1), ("workers", 0), ("max_quarantined", 0)):
        value = getattr(arguments, flag)
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at least {least}, not {value}")
    if arguments.engine == "dask" and arguments.workers is not None:
        raise ConfigError("--workers are local processes; a Dask cluster has its own workers")
    if arguments.private and not arguments.push_to_hub:
        raise ConfigError("--private belongs to --push-to-hub")
    return _build(arguments)


def _build(arguments: argparse.Namespace) -> int:
    from ucip_adapt.data import data_root
    from ucip_adapt.data.images import image_names
    from ucip_adapt.suites import fill_suite, load_suite
    from ucip_adapt.suites.build import Part, build_suite
    from ucip_adapt.suites.engines import open_engine
    from ucip_adapt.suites.plan import BuildPlan

    part = Part(arguments.shard_index, arguments.num_shards)
    allowed = arguments.allow_command
    strict = True if arguments.strict else False if arguments.substitute else None
    suite = load_suite(arguments.suite, allow_command=allowed)
    images, root = image_names(arguments.hr), data_root(arguments.data)
    streams = _stored_streams(suite, arguments.hr / images[0], arguments.edge, root)
    plan = BuildPlan.make(
        fill_suite(suite, strict=strict, allow_command=allowed),
        images,
        images_per_shard=arguments.images_per_shard,
        edge=arguments.edge,
        hr_mode=arguments.hr_mode,
    )
    for line in plan.suite.substitutions:
        sys.stderr.write(f"note: {line}\n")
    if arguments.dry_run:
        return _describe(plan, part, arguments)
    workers = (os.cpu_count() or 1) if arguments.workers is None else arguments.workers
    with open_engine(arguments.engine, workers=workers, scheduler=arguments.scheduler) as engine:
        report = build_suite(
            plan,
            arguments.hr,
            arguments.out,
            engine,
            part=part,
            max_quarantined=arguments.max_quarantined,
            retry_quarantined=arguments.retry_quarantined,
            check_space=not arguments.ignore_free_space,
            allow_command=allowed,
            streams=streams,
            data_root=root,
            progress=sys.stderr.isatty(),
        )
    bad = f", {report.quarantined} images left out" if report.quarantined else ""
    sys.stdout.write(f"{report.made} shards made, {report.kept} kept{bad}\n")
    if not report.complete:
        sys.stdout.write(f"{arguments.out} still lacks the shards of other jobs\n")
        return 0
    return _finish(arguments)


def _stored_streams(suite: Suite, first: Path, edge: EdgeRule, root: Path | None) -> list[str]:
    """Reference codecs by stored streams, where the first image has one."""
    from ucip_adapt.codecs.streams import REFERENCE, use_streams_of
    from ucip_adapt.data.bicubic import bicubic_down4
    from ucip_adapt.data.degrade import read_gt

    if not any(slot.codec in REFERENCE for slot in suite.slots):
        return []
    try:
        lr = bicubic_down4(read_gt(first), edge=edge)
    except DataError:  # the build says so, or leaves it out
        return []
    return use_streams_of(lr, root)


def _finish(arguments: argparse.Namespace) -> int:
    from ucip_adapt.suites.hub import push_suite, write_suite_card
    from ucip_adapt.suites.read import open_suite

    built = open_suite(arguments.out)
    write_suite_card(built)
    if arguments.push_to_hub:
        repository = push_suite(built, arguments.push_to_hub, private=arguments.private)
        sys.stdout.write(f"uploaded to the data set {repository}\n")
    sys.stdout.write(
        f"wrote {arguments.out}: {built.manifest['rows']:,} rows, "
        f"{built.manifest['bytes']:,} bytes, suite.json\n"
    )
    return 0


def _describe(plan: BuildPlan, part: Part, arguments: argparse.Namespace) -> int:
    from ucip_adapt.suites.build import estimate_bytes

    table = [
        [slot.slot.name, slot.codec, " ".join(map(str, slot.slot.qualities)), slot.slot.asked]
        for slot in plan.suite.slots
    ]
    sys.stdout.write(render_table(["slot", "codec", "qualities", "stands for"], table))
    blocks = sum(map(part.has, range(plan.num_blocks)))
    shards = blocks * len(plan.settings)
    size = estimate_bytes(plan, arguments.hr, shards)
    lines = [
        "",
        f"{len(plan.images):,} images x {len(plan.settings)} settings",
        f"shards    {plan.num_shards:,} of {plan.images_per_shard} images, {shards:,} in this job",
        f"disk      {f'about {size / 1e9:.2f} GB' if size else 'no sample could be read'}",
        f"plan      {plan.digest}",
    ]
    if arguments.push_to_hub:
        lines.append(
            f"upload    README.md, suite.json and data/*/*.parquet to {arguments.push_to_hub}"
        )
    sys.stdout.write("\n".join([*lines, "nothing was written", ""]))
    return 0
