"""Fill the tables of README.md from the files under results/.

    python docs/make_tables.py          # writes
    python docs/make_tables.py --check  # fails if a table is stale

A table stands between ``<!-- table:NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
PAGES = (ROOT / "README.md",)
SETS = ("Set5", "Set14", "BSD100")


def read(name: str) -> Any:  # noqa: ANN401 - JSON
    """Read a results file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def cells(record: Any, protocol: str = "y-c4") -> dict[tuple[str, int, str], float]:  # noqa: ANN401
    """PSNR by set, quality and method."""
    return {
        (row["dataset"], row["quality"], row["method"]): row["psnr_db"]
        for row in record["scores"]["rows"]
        if row["protocol"] == protocol
    }


def base_jpeg() -> str:
    """Gain of the base over bicubic on JPEG, whole and windowed, the paper's gain beside it."""
    found = cells(read("base_jpeg.json"))
    paper = {
        (row["dataset"], row["quality"]): row["psnr_db"]
        for row in read("paper.json")["table_1_jpeg_ucip"]
    }
    lines = [
        "| set | JPEG | bicubic | base, whole image | base, as configured | UCIP in the paper |",
        "|---|---|---|---|---|---|",
    ]
    gains: dict[str, list[float]] = {"whole": [], "base": []}
    for dataset in SETS:
        for quality in (10, 20, 30, 40):
            start = found[dataset, quality, "bicubic"]
            ours = {
                way: found[dataset, quality, key] - start
                for way, key in (("whole", "base whole"), ("base", "base"))
            }
            for way, gain in ours.items():
                gains[way].append(gain)
            lines.append(
                f"| {dataset} | {quality} | {start:.2f} "
                f"| {start + ours['whole']:.2f} ({ours['whole']:+.2f}) "
                f"| {start + ours['base']:.2f} ({ours['base']:+.2f}) "
                f"| {paper[dataset, quality]:.2f} ({paper[dataset, quality] - start:+.2f}) |"
            )
    lines.append(
        f"| mean gain | | | {fmean(gains['whole']):+.3f} | {fmean(gains['base']):+.3f} | |"
    )
    return "\n".join(lines)


def webp_methods() -> str:
    """Every way of tuning: mean gain over the base by set, size, time."""
    record = read("webp_methods.json")
    found = cells(record)
    datasets = list(dict.fromkeys(key[0] for key in found))
    lines = [
        f"| tuned (images) | {' | '.join(datasets)} | worst | parameters | bytes | s/step | MiB |",
        "|---|" + "---|" * (len(datasets) + 5),
    ]
    for label, about in record["parameters"]["methods"].items():
        gains = {
            key[:2]: found[(*key[:2], label)] - value
            for key, value in found.items()
            if key[2] == "base"
        }
        means = [fmean(g for k, g in gains.items() if k[0] == name) for name in datasets]
        by_quality = [
            fmean(g for k, g in gains.items() if k[1] == quality) for quality in (10, 20, 30, 40)
        ]
        lines.append(
            f"| {label} | {' | '.join(f'{mean:+.3f}' for mean in means)} | {min(by_quality):+.3f} "
            f"| {about['trained']:,} | {about['bytes']:,} | {about['seconds_per_step']:.2f} "
            f"| {about['peak_memory_mib']:,} |"
        )
    return "\n".join(lines)


def webp_paper() -> str:
    """WebP by quality: bicubic, base, the best adapter, and the paper's rows i and iv."""
    record = read("webp_methods.json")
    found = cells(record)
    adapters = [m for m in record["parameters"]["methods"] if not m.startswith("everything")]
    best = max(adapters, key=lambda m: fmean(v for k, v in found.items() if k[2] == m))
    paper = {
        (row["dataset"], row["protocol"], row["quality"]): row["psnr_db"]
        for row in read("paper.json")["table_3_webp"]
    }
    lines = [
        f"| set | WebP | bicubic | base (i) | adapter: {best} (iv) | paper i | paper iv |",
        "|---|---|---|---|---|---|---|",
    ]
    for dataset in SETS:
        for quality in (10, 20, 30, 40):
            start, base, tuned = (
                found[dataset, quality, method] for method in ("bicubic", "base", best)
            )
            before, after = (paper[dataset, row, quality] for row in ("i", "iv"))
            lines.append(
                f"| {dataset} | {quality} | {start:.2f} | {base:.2f} ({base - start:+.2f}) "
                f"| {tuned:.2f} ({tuned - base:+.2f}) | {before:.2f} ({before - start:+.2f}) "
                f"| {after:.2f} ({after - before:+.2f}) |"
            )
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "base_jpeg": base_jpeg,
    "webp_methods": webp_methods,
    "webp_paper": webp_paper,
}


def fill(page: str) -> str:
    """Replace the tables of a page by new ones."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table:(\w+) -->)\n.*?(<!-- end -->)", table, page, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    stale = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled == text:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.write_text(filled, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"stale tables in {', '.join(stale)}: run python docs/make_tables.py\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
