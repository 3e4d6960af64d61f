"""Fill the tables of docs/performance.md from the files under results/benchmarks/.

python docs/make_performance.py          # writes
python docs/make_performance.py --check  # fails if a table is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pages import fill, finish

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
INFERENCE = ("inference.json", "inference_large.json")
EARLIER = ("inference_amd.json", "sampling_amd.json")
"""Measured on another processor before; what the page says of it."""
MEMORY = ("inference_memory.json", "inference_640x480.json")
EXPORTS = ("exports.json", "exports_compile.json")
FILES = (
    "sampling.json",
    *INFERENCE,
    *EARLIER,
    *MEMORY,
    "profile.json",
    "training_step.json",
    "depthwise.json",
    "tuning_full.json",
    "data_loading.json",
    *EXPORTS,
)


def read(name: str) -> Any:  # noqa: ANN401 - JSON
    """Read a benchmark's results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def inference() -> str:
    """Every network by size and precision; ratios are UCIP's time over the network's."""
    lines = [
        (
            "| LQ pixels | precision | network | CPU s | min to max | ms per pixel "
            "| UCIP / it | of minima | fused / it |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sizes: dict[str, Any] = {}
    for name in INFERENCE:
        sizes |= read(name)["scores"]["sizes"]
    for size, found in sizes.items():
        for row in found["rows"].values():
            low, high = row["spread"]
            lines.append(
                f"| {size} | {row['precision']} | {row['network']} | {row['cpu_seconds']:.2f} "
                f"| {low:.2f} to {high:.2f} | {row['ms_per_pixel']:.3f} "
                f"| {row['ucip_ratio']:.2f} | {row['ucip_ratio_of_minima']:.2f} "
                f"| {_optional(row.get('fused_ratio'))} |"
            )
    return "\n".join(lines)


def _optional(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def memory() -> str:
    """Peak memory of a process that restores one image."""
    lines = [
        "| LQ pixels | network | peak MiB | added by the pass | CPU s of that pass |",
        "|---|---|---|---|---|",
    ]
    for file in MEMORY:
        for size, found in read(file)["scores"]["memory"].items():
            lines += [
                f"| {size} | {name} | {row['peak_mib']:.0f} | {row['added_mib']:.0f} "
                f"| {row['cpu_seconds']:.2f} |"
                for name, row in found.items()
            ]
    return "\n".join(lines)


def profile() -> str:
    """Share of the time by kind of operation, and how quick the arithmetic is."""
    scores = read("profile.json")["scores"]
    lines = [
        f"| kind | {' | '.join(f'{name}: share | CPU s | GFLOP/s' for name in scores)} |",
        "|---" * (1 + 3 * len(scores)) + "|",
    ]
    kinds = dict.fromkeys(kind for found in scores.values() for kind in found["kinds"])
    for kind in sorted(kinds, key=lambda kind: kind == "rest"):  # the rest last
        cells = [kind]
        for found in scores.values():
            share = found["kinds"].get(kind, 0.0)
            seconds = share * found["cpu_seconds"]
            rate = f"{found['gflop'][kind] / seconds:.0f}" if kind in found["gflop"] else ""
            cells += [f"{100 * share:.1f} %", f"{seconds:.3f}", rate]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences() -> str:
    """What the quicker precisions change in UCIP's output."""
    lines = ["| LQ pixels | matmul precision medium | bfloat16 autocast |", "|---|---|---|"]
    for size, found in read("inference.json")["scores"]["sizes"].items():
        if found["differences"]:
            by = found["differences"]
            lines.append(f"| {size} | {by['medium']:.1e} | {by['bf16']:.1e} |")
    return "\n".join(lines)


def samplers() -> str:
    """A full training step of the small networks, by sampler, today and before."""
    lines = [
        "| network, sampler | CPU s | steps / s | / gather | kept MiB |",
        "|---|---|---|---|---|",
    ]
    for name, row in read("training_step.json")["scores"]["samplers"].items():
        kept = f"{row['kept_mib']:.0f}" if "kept_mib" in row else ""
        lines.append(
            f"| {name} | {row['cpu_seconds']:.3f} | {row['steps_per_second']:.2f} "
            f"| {row['ratio']:.2f} | {kept} |"
        )
    return "\n".join(lines)


def depthwise() -> str:
    """Gradients of one depth-wise convolution, PyTorch's own way and ours."""
    lines = ["| kernel, precision | PyTorch, ms | ours, ms | ours / PyTorch |", "|---|---|---|---|"]
    found = read("depthwise.json")["scores"]["gradients"]
    for name, row in found.items():
        case, _, whose = name.rpartition(" ")
        if whose == "ours":
            own, other = (
                1000 * found[f"{case} {who}"]["cpu_seconds"] for who in ("ours", "pytorch")
            )
            lines.append(f"| {case} | {other:.2f} | {own:.2f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def tuning() -> str:
    """A step of the full network by what is tuned."""
    lines = [
        (
            "| tuned | parameters | CPU s | / everything | kept MiB | / everything "
            "| peak MiB | added MiB |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in read("tuning_full.json")["scores"]["tuning"].items():
        lines.append(
            f"| {name} | {row['trained']:,} | {row['cpu_seconds']:.2f} | {row['ratio']:.2f} "
            f"| {row['kept_mib']:.0f} | {row['kept_ratio']:.3f} "
            f"| {row['peak_mib']:.0f} | {row['added_mib']:.0f} |"
        )
    return "\n".join(lines)


def exports() -> str:
    """The shipped networks compiled and exported, beside eager."""
    lines = [
        (
            "| network | form | ready, CPU s | 64 x 64, CPU s | / eager | 128 x 128, CPU s "
            "| / eager | difference |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in EXPORTS:
        for network, forms in read(file)["scores"]["networks"].items():
            for form, row in forms.items():
                reason = row.get("failed") or row.get("skipped")
                if reason:
                    lines.append(f"| {network} | {form} | {reason} | | | | | |")
                    continue
                small, large = row["sides"]["64"], row["sides"]["128"]
                ready = f"{row['ready_cpu_seconds']:.0f}" if "ready_cpu_seconds" in row else ""
                apart = max(small["max_difference"], large["max_difference"])
                lines.append(
                    f"| {network} | {form} | {ready} | {small['cpu_seconds']:.3f} "
                    f"| {small['ratio']:.2f} | {large['cpu_seconds']:.3f} | {large['ratio']:.2f} "
                    f"| {apart:.1e} |"
                )
    return "\n".join(lines)


def loading() -> str:
    """Seconds per batch of training crops, beside the step that takes them."""
    lines = [
        "| batch | workers | first batch, s | s per batch | min to max | step, CPU s | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in read("data_loading.json")["scores"]["batches"]:
        low, high = row["spread"]
        lines.append(
            f"| {row['crops']} of {row['side']} | {row['workers']} | {row['first_seconds']:.3f} "
            f"| {row['seconds']:.4f} | {low:.4f} to {high:.4f} | {row['step_seconds']:.2f} "
            f"| {row['share']:.1%} |"
        )
    return "\n".join(lines)


def degrading() -> str:
    """Seconds per image that degrading takes, and that the cache takes."""
    lines = [
        "| codec | images | megapixels in all | qualities | s per image | from the cache |",
        "|---|---|---|---|---|---|",
    ]
    for codec, row in read("data_loading.json")["scores"]["degrading"].items():
        lines.append(
            f"| {codec} | {row['images']} | {row['megapixels']:.2f} | {row['qualities']} "
            f"| {row['first_seconds']:.3f} | {row['cached_seconds']:.4f} |"
        )
    return "\n".join(lines)


def commit_of(about: dict[str, Any]) -> str:
    """The commit in short, with the mark of changes that were not committed."""
    commit, mark, _ = str(about["commit"]).partition("+dirty")
    return commit[:12] + mark


def machines() -> str:
    """Command, hardware and commit of each file."""
    lines = ["| file | command | hardware | torch | commit |", "|---|---|---|---|---|"]
    for name in FILES:
        record = read(name)
        about = record["environment"]
        threads = record["config"]["threads"]
        lines.append(
            f"| {name} | `{record['command']}` | {about['cpu']}, {threads} of {about['cpu_cores']} "
            f"cores | {about['versions']['torch']} | {commit_of(about)} |"
        )
    return "\n".join(lines)


def sampling() -> str:
    """The sampling alone: each way, beside torchvision's operator where that was measured."""
    lines = [
        (
            "| size, S, precision | method | sampling, ms | with maps, ms "
            "| times faster than `deform_conv2d` | kept |"
        ),
        "|---|---|---|---|---|---|",
    ]
    scores = read("sampling.json")["scores"]
    for case, methods in scores.items():
        if not isinstance(methods, dict):
            continue
        size, share, dtype = case.split()
        title = f"{size.replace('x', ' x ')} {share} {_PRECISIONS[dtype]}"
        compared = "deform_conv2d" in methods
        for name, found in methods.items():
            maps = found["map"]
            # Ratios are to deform_conv2d where there is one.
            times = f"{1 / maps['both']['ratio']:.1f}" if compared else "-"
            alone = found.get("sample")
            kept = maps if alone is None else alone
            lines.append(
                f"| {title} | {name} | {_pair(alone)} | {_pair(maps)} | {times} "
                f"| {kept['kept']:.0f} |"
            )
    return "\n".join(lines)


_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def _pair(found: dict[str, Any] | None) -> str:
    """Milliseconds forward / forward and backward."""
    if found is None:
        return "- / -"
    forward, both = (1000 * found[part]["cpu_seconds"] for part in ("forward", "both"))
    return f"{forward:.0f} / {both:.0f}"


TABLES: dict[str, Callable[[], str]] = {
    "sampling": sampling,
    "inference": inference,
    "differences": differences,
    "memory": memory,
    "profile": profile,
    "samplers": samplers,
    "depthwise": depthwise,
    "tuning": tuning,
    "exports": exports,
    "loading": loading,
    "degrading": degrading,
    "machines": machines,
}


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it."""
    filled = fill(PAGE.read_text(encoding="utf-8"), TABLES)
    return finish({PAGE: filled}, arguments, "python docs/make_performance.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
