"""Rate and distortion of the tiny codecs beside WebP and x265; plot and pictures for the docs.

    UCIP_DATA=... python benchmarks/tiny_codecs.py measure   # results/tiny_codecs.json
    python benchmarks/tiny_codecs.py plot                     # docs/tiny_codecs.png, from that file
    python benchmarks/tiny_codecs.py pictures                 # docs/tiny_codecs_damage.png
    python benchmarks/tiny_codecs.py tables                   # the tables of docs/tiny_codecs.md

The stored low-resolution images of BSD100 are coded. What a training took is read from the results
file that the recipe left (``results/tiny_codecs/NAME.json``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.learned import TINY_CODECS
from ucip_adapt.codecs.learned.scoring import score_codec
from ucip_adapt.codecs.learned.weights import load_codec
from ucip_adapt.data import bicubic_down4, load_eval_set, read_rgb
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.errors import DataError
from ucip_adapt.training.results import command_line, environment, read_results, write_results

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "results" / "tiny_codecs.json"
PAGE = ROOT / "docs" / "tiny_codecs.md"
TRAININGS = ROOT / "results" / "tiny_codecs"
# Wider than the suites' settings, so that every tiny rate lies between two of theirs.
REFERENCES = {"webp": (0, 1, 5, 10, 20, 30, 40, 50), "hevc-x265": (47, 42, 37, 32, 29, 27)}
DISTORTIONS = ("psnr_rgb", "psnr_y", "ms_ssim")


def rows_of(name: str, images: list[np.ndarray], qualities: tuple[int, ...]) -> list[dict]:
    """Scores of one codec."""
    scores = score_codec(get_codec(name), images, qualities)
    return [{"codec": name, **dataclasses.asdict(score)} for score in scores]


def at_equal_rate(rows: list[dict], other: str) -> dict[str, dict[str, list[float | None]]]:
    """What each rate of a tiny codec has over another codec at the same mean bpp.

    The other codec's means are joined by straight lines over the logarithm of bpp; None outside.
    """
    line = sorted((row for row in rows if row["codec"] == other), key=lambda row: row["bpp"])
    rates = np.log([row["bpp"] for row in line])
    gains: dict[str, dict[str, list[float | None]]] = {}
    for name in TINY_CODECS:
        own = [row for row in rows if row["codec"] == name and name != other]
        for kind in DISTORTIONS if own else ():
            values = [row[kind] for row in line]
            found = np.interp(
                np.log([row["bpp"] for row in own]), rates, values, left=np.nan, right=np.nan
            )
            differences = [row[kind] - float(value) for row, value in zip(own, found, strict=True)]
            gains.setdefault(name, {})[kind] = [
                None if np.isnan(value) else round(value, 5) for value in differences
            ]
    return gains


def describe(name: str) -> dict[str, Any]:
    """Size of a shipped codec, and what its training took."""
    codec = TINY_CODECS[name]
    training = read_results(TRAININGS / f"{name}.json")
    stored = load_codec(codec.path)
    sha256 = codec.fingerprint()["weights_sha256"]
    if training["files"][codec.path.name] != sha256:
        raise DataError(f"results/tiny_codecs/{name}.json describes another file than the shipped")
    return {
        "parameters": sum(p.numel() for p in stored.network.parameters()),
        "bytes": codec.path.stat().st_size,
        "sha256": sha256,
        "steps": stored.training["steps"],
        "training_seconds": training["seconds"]["training"],
        "cpu": training["environment"]["cpu"],
        "torch_threads": training["environment"]["torch_threads"],
        "commit": training["environment"]["commit"],
    }


def measure() -> None:
    """Code all images with all codecs and write the results file."""
    loaded = load_eval_set("BSD100", data_root())
    if loaded.lr_source != "stored":
        raise DataError("BSD100 has no stored LRbicx4: the rates would be of other images")
    images = [image.lr for image in loaded.images]
    rows: list[dict] = []
    for name, qualities in tqdm(REFERENCES.items(), desc="references"):
        rows += rows_of(name, images, qualities)
    for name, codec in tqdm(TINY_CODECS.items(), desc="tiny codecs"):
        rows += rows_of(name, images, codec.spec.qualities)
    write_results(
        OUT,
        {
            "kind": "tiny_codecs",
            "command": command_line(),
            "config": {"set": "BSD100", "lr": "stored", "images": len(images)},
            "environment": environment(),
            "parameters": {name: describe(name) for name in TINY_CODECS},
            "scores": {
                "rows": rows,
                "over": {name: at_equal_rate(rows, name) for name in (*REFERENCES, "tiny-mse")},
                "fingerprints": {
                    name: get_codec(name).fingerprint() for name in (*REFERENCES, *TINY_CODECS)
                },
            },
        },
    )


def plot() -> None:
    """Draw PSNR and MS-SSIM over bpp."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = json.loads(OUT.read_text(encoding="utf-8"))["scores"]["rows"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for axis, kind, label in zip(
        axes, ("psnr_rgb", "ms_ssim"), ("PSNR of RGB in dB", "-10 log10(1 - MS-SSIM)"), strict=True
    ):
        for name in (*REFERENCES, *TINY_CODECS):
            own = [row for row in rows if row["codec"] == name and row["bpp"] < 1.45]
            values = np.array([row[kind] for row in own])
            if kind == "ms_ssim":
                values = -10 * np.log10(1 - values)
            style = "--" if name in REFERENCES else "-"
            axis.plot([row["bpp"] for row in own], values, f"{style}o", ms=4, label=name)
        axis.set_xlabel("bits per pixel, whole streams")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle("Mean over the 100 LR images of BSD100 (120 x 80 pixels)")
    figure.savefig(ROOT / "docs" / "tiny_codecs.png", dpi=110, metadata={"Software": None})


def pictures() -> None:
    """Show what each codec does to three embedded validation images at about 0.4 bpp."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = [("webp", 1), ("hevc-x265", 42), *((name, 2) for name in TINY_CODECS)]
    names = ("girl", "house", "nyc")
    figure, axes = plt.subplots(
        len(names), 1 + len(columns), figsize=(14.2, 6.6), layout="constrained"
    )
    for line, name in zip(axes, names, strict=True):
        image = bicubic_down4(read_rgb(image_folder("validation") / f"{name}.webp"))
        image = np.ascontiguousarray(image[20:116, 20:116])
        line[0].imshow(image, interpolation="nearest")
        line[0].set_title("original", fontsize=8)
        for axis, (codec, quality) in zip(line[1:], columns, strict=True):
            coded = get_codec(codec).roundtrip(image, quality)
            axis.imshow(coded.pixels, interpolation="nearest")
            axis.set_title(f"{codec} {quality}: {coded.bpp:.2f} bpp", fontsize=8)
        for axis in line:
            axis.axis("off")
    figure.savefig(ROOT / "docs" / "tiny_codecs_damage.png", dpi=110, metadata={"Software": None})


def rates_table(record: dict[str, Any]) -> str:
    """Every measured point."""
    lines = [
        "| codec | setting | bpp | PSNR RGB | PSNR Y | MS-SSIM | detail kept |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['codec']} | {row['quality']} | {row['bpp']:.3f} | {row['psnr_rgb']:.2f} | "
        f"{row['psnr_y']:.2f} | {row['ms_ssim']:.4f} | {row['detail_kept']:.2f} |"
        for row in record["scores"]["rows"]
    ]
    return "\n".join(lines)


def over_table(record: dict[str, Any]) -> str:
    """Differences at equal rate, a cell for each rate of a codec."""
    lines = [
        "| codec | over | PSNR RGB in dB | PSNR Y in dB | MS-SSIM |",
        "|---|---|---|---|---|",
    ]
    for other, codecs in record["scores"]["over"].items():
        for name, kinds in codecs.items():
            cells = (
                ", ".join(
                    "-" if value is None else f"{value:+.{4 if kind == 'ms_ssim' else 2}f}"
                    for value in kinds[kind]
                )
                for kind in DISTORTIONS
            )
            lines.append(f"| {name} | {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def training_table(record: dict[str, Any]) -> str:
    """Sizes, and what the training took."""
    lines = [
        "| codec | parameters | bytes of the file | steps | seconds of training | commit |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['parameters']:,} | {row['bytes']:,} | {row['steps']:,} | "
        f"{row['training_seconds']:,.0f} | {row['commit'][:7]} |"
        for name, row in record["parameters"].items()
    ]
    return "\n".join(lines)


TABLES = {"rates": rates_table, "over": over_table, "training": training_table}


def fill(page: str) -> str:
    """Replace the tables of the page by those of the results file."""
    record = json.loads(OUT.read_text(encoding="utf-8"))

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]](record)}\n{match[3]}"

    return re.sub(r"(<!-- table:(\w+) -->)\n.*?(<!-- end -->)", table, page, flags=re.DOTALL)


def tables() -> None:
    """Fill the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "plot", "pictures", "tables"))
    steps = {"measure": measure, "plot": plot, "pictures": pictures, "tables": tables}
    steps[parser.parse_args().what]()
