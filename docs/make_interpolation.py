"""Fill the table of docs/adapter_arithmetic.md and draw its plot, from the measured results.

    python docs/make_interpolation.py          # writes both
    python docs/make_interpolation.py --check  # fails if the table is stale

The numbers are those of results/adapter_interpolation.json, made by
benchmarks/adapter_interpolation.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import fill, finish

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "adapter_interpolation.json"
PAGE = ROOT / "docs" / "adapter_arithmetic.md"
PLOT = ROOT / "docs" / "adapter_interpolation.png"


def gains(record: dict[str, Any]) -> dict[int, dict[float, float]]:
    """Gain over the base in dB, by quality and t."""
    rows = {(row["method"], row["quality"]): row["psnr_db"] for row in record["scores"]["rows"]}
    config = record["config"]
    return {
        quality: {
            t: rows[f"t={t:g}", quality] - rows["base", quality] for t in sorted(config["ts"])
        }
        for quality in config["qualities"]
    }


def text(record: dict[str, Any]) -> str:
    """The paragraph, the table and the plot of the page."""
    config, found = record["config"], gains(record)
    low, high = config["ends"]
    ts = sorted(config["ts"])
    images = record["scores"]["rows"][0]["images"]
    description = (
        f"Two adapters `{config['trainable']}` on `{record['scores']['base']}`, tuned for "
        f"{config['codec']} {low} and {config['codec']} {high} in {config['steps']} steps of "
        f"{config['batch_size']} crops of {config['patch_size']} x {config['patch_size']} pixels, "
        f"seed {config['seed']}; gain over the base in dB, y-c4, mean of {images} images of "
        f"{config['evaluate_on']}. The best of a row is bold."
    )
    lines = [
        f"![gain over the base between two adapters]({PLOT.name})",
        "",
        description,
        "",
        f"| quality | {' | '.join(f't = {t:g}' for t in ts)} |",
        "|---" * (1 + len(ts)) + "|",
    ]
    for quality, by_t in found.items():
        best = max(by_t.values())
        cells = [
            f"**{value:+.3f}**" if value == best else f"{value:+.3f}" for value in by_t.values()
        ]
        lines.append(f"| {config['codec']} {quality} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Made by `{record['command']}`."])


def draw(record: dict[str, Any]) -> None:
    """One line per quality, from the first adapter to the second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for quality, by_t in gains(record).items():
        label = f"{record['config']['codec']} {quality}"
        axes.plot(list(by_t), list(by_t.values()), marker="o", label=label)
    axes.axhline(0, color="0.6", linewidth=1)
    low, high = record["config"]["ends"]
    axes.set_xlabel(f"t: 0 is the adapter tuned at {low}, 1 the one tuned at {high}")
    axes.set_ylabel("gain over the base (dB)")
    axes.legend(title="images compressed at")
    figure.savefig(PLOT, dpi=110, metadata={"Software": None})


def main(arguments: Sequence[str]) -> int:
    """Write the page and the plot, or compare the page."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    filled = fill(PAGE.read_text(encoding="utf-8"), {"interpolation": lambda: text(record)})
    if "--check" not in arguments:
        draw(record)
    return finish({PAGE: filled}, arguments, "python docs/make_interpolation.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
