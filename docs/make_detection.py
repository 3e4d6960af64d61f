"""Fill the tables of docs/detection.md from results/detection.json.

python docs/make_detection.py          # writes
python docs/make_detection.py --check  # fails if a table is stale
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pages import fill, finish

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/detection.md"
UNKNOWN = "unknown"


def read(name: str = "detection.json") -> Any:  # noqa: ANN401 - JSON
    """Read a results file."""
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def share(part: float, whole: float) -> str:
    """A percentage to three digits, a dash of nothing."""
    return f"{100 * part / whole:.3g} %" if whole else "-"


def or_dash(value: float | None) -> str:
    """A number, or a dash where nothing was measured."""
    return "-" if value is None else f"{value:g}"


def measured() -> str:
    """What was measured on."""
    record = read()
    config = record["config"]
    sets = ", ".join(f"{count} of {name}" for name, count in config["sets"].items())
    adapters = ", ".join(config["adapters"])
    return (
        f"`{record['command']}`: {config['pictures']} pictures ({sets}); shipped adapters: "
        f"{adapters}; threshold {config['threshold']}."
    )


def container() -> str:
    """Codec and quality by the file."""
    lines = [
        "| codec | quality | pictures | codec right | quality told | off by, mean | at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in read()["scores"]["container"].items():
        codec, quality = key.split()
        lines.append(
            f"| {codec} | {quality} | {row['pictures']} | {share(row['right'], row['pictures'])} "
            f"| {share(row['with_quality'], row['pictures'])} | {or_dash(row['quality_error'])} "
            f"| {or_dash(row['quality_worst'])} |"
        )
    return "\n".join(lines)


def pixels() -> str:
    """Codec and quality by the pixels."""
    lines = [
        "| pictures | count | right | wrong | unknown | most like the right one | quality off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in read()["scores"]["pixels"].items():
        count = row["pictures"]
        lines.append(
            f"| {key.replace('none', 'clean')} | {count} | {share(row['right'], count)} "
            f"| {share(row['wrong'], count)} | {share(row['unknown'], count)} "
            f"| {share(row['most_like_right'], count)} | {or_dash(row['quality_error'])} |"
        )
    return "\n".join(lines)


def confusion() -> str:
    """What is said of whole pictures of each codec."""
    found: dict[str, Counter[str]] = {}
    for key, row in read()["scores"]["pixels"].items():
        if not key.endswith("cropped"):
            found.setdefault(key.split()[0], Counter()).update(row["said"])
    said = [name for name in found if any(counts[name] for counts in found.values())]
    columns = [*said, UNKNOWN]
    lines = [
        f"| pictures of | {' | '.join(columns)} |".replace("none", "no codec"),
        "|---|" + "---|" * len(columns),
    ]
    for name, counts in found.items():
        cells = (str(counts[column] or "") for column in columns)
        lines.append(f"| {name.replace('none', 'clean')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary() -> str:
    """The codecs with files that the detector knows: overall shares by pixels."""
    record = read()
    names = record["config"]["in_files"]
    rows = record["scores"]["pixels"]
    lines = [
        "| pictures | count | right | wrong | unknown | right where something is said |",
        "|---|---|---|---|---|---|",
    ]
    for label, ending in (("whole", ""), ("cropped by 3 and 5 pixels", " cropped")):
        own = [
            row
            for key, row in rows.items()
            if key.split()[0] in names
            and row["truth"] != "none"
            and key.endswith("cropped") == bool(ending)
        ]
        total = {k: sum(row[k] for row in own) for k in ("pictures", "right", "wrong", "unknown")}
        shares = (share(total[k], total["pictures"]) for k in ("right", "wrong", "unknown"))
        lines.append(
            f"| {label} | {total['pictures']} | {' | '.join(shares)} "
            f"| {share(total['right'], total['right'] + total['wrong'])} |"
        )
    return "\n".join(lines)


def unlike() -> str:
    """What is said of pictures that it was not trained on."""
    lines = [
        "| pictures | count | codec that came last | right | wrong | unknown | said instead |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in read()["scores"]["unlike"].items():
        count, truth = row["pictures"], row["truth"]
        others = [
            f"{said.replace('none', 'no codec')} {times}"
            for said, times in row["said"].items()
            if said not in {truth, UNKNOWN}
        ]
        lines.append(
            f"| {name} | {count} | {truth.replace('none', 'no codec')} "
            f"| {share(row['right'], count)} | {share(row['wrong'], count)} "
            f"| {share(row['unknown'], count)} "
            f"| {', '.join(others) or '-'} |"
        )
    return "\n".join(lines)


def loss() -> str:
    """What choosing by each way costs against choosing right."""
    lines = [
        "| codec | pictures | by container | by pixels | worst | other choice | never an adapter |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in read()["scores"]["loss_db"]:
        file, seen, base = row["container"], row["pixels"], row["base"]
        lines.append(
            f"| {row['codec'].replace('none', 'clean')} | {row['count']} "
            f"| {'-' if file is None else format(file['mean'], '.4f')} | {seen['mean']:.4f} "
            f"| {seen['worst']:.3f} | {seen['differ']} "
            f"| {'-' if base is None else format(base['mean'], '.4f')} |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "measured": measured,
    "container": container,
    "summary": summary,
    "confusion": confusion,
    "pixels": pixels,
    "unlike": unlike,
    "loss": loss,
}


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it."""
    filled = fill(PAGE.read_text(encoding="utf-8"), TABLES)
    return finish({PAGE: filled}, arguments, "python docs/make_detection.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
