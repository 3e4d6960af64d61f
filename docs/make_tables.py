"""Fill the tables of README.md and other pages from the files under results/.

python docs/make_tables.py          # writes
python docs/make_tables.py --check  # fails if a table is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pages import fill, finish

from ucip_adapt.assets import shipped_bases
from ucip_adapt.experiments.bases import base_records, gains_by_slot
from ucip_adapt.experiments.compare import read_cells
from ucip_adapt.experiments.statistics import bootstrap_sets
from ucip_adapt.experiments.sweeps import points
from ucip_adapt.experiments.tables import matrices

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
PAGES = (
    ROOT / "README.md",
    ROOT / "adapters/README.md",
    ROOT / "docs/codecs.md",
    ROOT / "docs/first_base.md",
    ROOT / "docs/large_images.md",
    ROOT / "docs/use_an_adapter.md",
)
SETS = ("Set5", "Set14", "BSD100")
UNSEEN = ("gif", "jpeg2000", "tiny-elic", "jpegxl", "avif", "webp")
GAINS = ("dpm", "dpm+offset", "lora", "everything", "control")
SIZES = "| parameters | bytes | step | kept |"


def read(name: str) -> Any:  # noqa: ANN401 - JSON
    """Read a results file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def cells(
    record: Any,  # noqa: ANN401 - JSON
    *,
    value: str = "psnr_db",
    protocol: str = "y-c4",
) -> dict[tuple[str, int, str], float]:
    """PSNR or SSIM by set, quality and method."""
    return {
        (row["dataset"], row["quality"], row["method"]): row[value]
        for row in record["scores"]["rows"]
        if row["protocol"] == protocol
    }


def base_jpeg() -> str:
    """Gain of the base over bicubic on JPEG, whole and windowed, the paper's gain beside it."""
    found = cells(read("base_jpeg.json"))
    paper = {
        (row["dataset"], row["quality"]): row["psnr_db"]
        for row in read("paper.json")["table_1_ucip"]
        if row["codec"] == "jpeg"
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


def base_slots() -> str:
    """Gain of the newest base over bicubic by slot of its suite, beside its twin."""
    return gains_by_slot(read("base_suite.json"), RESULTS / "paper.json").markdown()


def gains() -> str:
    """What tuning brings on codecs that the base has not seen, from the ledger's cells."""
    found = read_cells(RESULTS / "cells")
    lines = [
        f"| codec | {' | '.join(f'`{name}`' for name in GAINS)} |",
        f"|---|{'---|' * len(GAINS)}",
    ]
    sizes: dict[str, int] = {}
    for codec in UNSEEN:
        planned = matrices([cell.config for cell in found], codec)
        shared = [m for m in planned if (m.evaluate_on, m.max_train_steps) == ("short", 1000)]
        by_method = {point.method: point for matrix in shared for point in points(found, matrix)}
        sizes |= {name: point.num_bytes for name, point in by_method.items()}
        values = {name: f"{by_method[name].gain.overall.mean:+.3f}" for name in by_method}
        lines.append(f"| {codec} | {' | '.join(values.get(name, '-') for name in GAINS)} |")
    bytes_of = (f"{sizes[name]:,}" if name in sizes else "-" for name in GAINS)
    return "\n".join([*lines, f"| bytes | {' | '.join(bytes_of)} |"])


def webp20() -> str:
    """Pictures compressed as WebP 20: bicubic, base, adapter, with time and memory of the run."""
    record = read("webp20.json")
    rows = [row for row in record["scores"]["rows"] if row["protocol"] == "y-c4"]
    found = {(row["dataset"], row["method"]): row for row in rows}
    images = {row["dataset"]: row["images"] for row in rows}
    methods = ("bicubic", "base", "webp")
    lines = [
        "| pictures | bicubic | base | base with adapter `webp` |",
        "|---|---|---|---|",
    ]
    for dataset, count in images.items():
        scores = [found[dataset, method] for method in methods]
        start = scores[0]["psnr_db"]
        texts = [
            f"{score['psnr_db']:.3f} ({score['psnr_db'] - start:+.3f}) / {score['ssim']:.4f}"
            for score in scores
        ]
        lines.append(f"| {dataset}, {count} | {' | '.join(texts)} |")
    seconds = record["seconds"]["evaluation"] / sum(images.values())
    environment = record["environment"]
    return "\n".join(lines) + (
        f"\n\nPSNR in dB (gain over bicubic) / SSIM. Compressing, two networks and scoring took "
        f"{seconds:.1f} s a picture on {environment['torch_threads']} thread "
        f"of {environment['cpu']}, and {record['peak_memory_mib']:.0f} MiB at most."
    )


def webp_methods() -> str:
    """Every way of tuning: mean gain over the base by set, in SSIM, size, time."""
    record = read("webp_methods.json")
    psnr, ssim = cells(record), cells(record, value="ssim")
    steps = read("benchmarks/tuning_step.json")["scores"]
    datasets = list(dict.fromkeys(key[0] for key in psnr))
    lines = [
        f"| tuned (images) | rate | {' | '.join(datasets)} | worst | SSIM {SIZES}",
        "|---|" + "---|" * (len(datasets) + 7),
    ]
    for label, about in record["parameters"]["methods"].items():
        gain = gains_over_base(psnr, label)
        means = [mean_or_dash([g for k, g in gain.items() if k[0] == name]) for name in datasets]
        qualities = sorted({key[1] for key in gain})
        worst = min(fmean(g for k, g in gain.items() if k[1] == q) for q in qualities)
        method, _, images = label.partition("@")
        step = steps[method]
        lines.append(
            f"| {method} ({images}) | {about['learning_rate']:g} "
            f"| {' | '.join(means)} | {worst:+.3f} "
            f"| {fmean(gains_over_base(ssim, label).values()):+.4f} "
            f"| {about['trained']:,} | {about['bytes']:,} "
            f"| x{step['ratio']:.2f} | {step['kept_mib']:.0f} MiB |"
        )
    return "\n".join(lines)


def gains_over_base(
    found: dict[tuple[str, int, str], float], method: str
) -> dict[tuple[str, int], float]:
    """Gain over the base in every cell that the method was measured in."""
    return {
        key[:2]: value - found[(*key[:2], "base")]
        for key, value in found.items()
        if key[2] == method
    }


def mean_or_dash(values: list[float]) -> str:
    """A signed mean, or a dash where nothing was measured."""
    return f"{fmean(values):+.3f}" if values else "-"


def webp_paper() -> str:
    """WebP by quality: bicubic, base, the best prompt adapter, and the paper's rows i and iv."""
    record = read("webp_methods.json")
    found = cells(record)
    wanted = {(dataset, quality) for dataset in SETS for quality in (10, 20, 30, 40)}
    prompts = [m for m in record["parameters"]["methods"] if m.startswith("dpm")]
    complete = [m for m in prompts if wanted <= set(gains_over_base(found, m))]
    best = max(complete, key=lambda m: fmean(gains_over_base(found, m).values()))
    title = best.replace("@", ", tuned on ")
    paper = {
        (row["dataset"], row["protocol"], row["quality"]): row["psnr_db"]
        for row in read("paper.json")["table_3_webp"]
    }
    lines = [
        f"| set | WebP | bicubic | base (i) | {title} (iv) | paper i | paper iv |",
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


def adapters() -> str:
    """The shipped adapters, from their own files."""
    lines = [
        "| name | codec and qualities | base | trained | parameters | bytes | gain over the base |",
        "|---|---|---|---|---|---|---|",
    ]
    for folder in sorted(path.parent for path in (ROOT / "adapters").glob("*/results.json")):
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        gains = ", ".join(
            f"{score['adapter'] - score['base']:+.2f} dB on {name}"
            for name, score in config["metrics"]["psnr_db"].items()
        )
        lines.append(
            f"| [{folder.name}]({folder.name}/README.md) | {config['codec']} "
            f"{', '.join(map(str, config['qualities']))} | {config['base_model_name_or_path']} "
            f"| {config['trainable_set']} | {record['parameters']['trained']:,} "
            f"| {record['parameters']['adapter_bytes']:,} | {gains} |"
        )
    return "\n".join(lines)


def codecs_set14() -> str:
    """Every setting that runs: rate, fidelity and time on the low-resolution images of Set14."""
    record = read("codecs_set14.json")
    lines = [
        "| codec | setting | bpp | PSNR y-c0 | PSNR rgb-c0 | encoder, ms | round trip, CPU ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["scores"]["rows"]:
        times = [row["encode_seconds"], row["roundtrip_cpu_seconds"]]
        shown = ["-" if time is None else f"{1000 * time:.1f}" for time in times]
        source = f" ({row['source']})" if row["source"].startswith("streams ") else ""
        lines.append(
            f"| {row['codec']}{source} | {row['parameter']} {row['quality']} | {row['bpp']:.3f} "
            f"| {row['psnr_db y-c0']:.2f} | {row['psnr_db rgb-c0']:.2f} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def matched_rates() -> str:
    """Settings of other codecs at the rates of WebP."""
    record = read("matched_rates.json")["scores"]["settings"]
    columns = list(record["webp"])
    lines = [
        f"| codec | {' | '.join(f'as WebP {quality}' for quality in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name, rows in record.items():
        cells_of = (
            f"{row['setting']}: {row['bpp']:.3f}, {row['psnr_rgb_db']:.2f} dB"
            for row in (rows[quality] for quality in columns)
        )
        lines.append(f"| {name} | {' | '.join(cells_of)} |")
    return "\n".join(lines)


def large_images() -> str:
    """Memory and time of large images by way of working, and time against the whole image."""
    rows = read("benchmarks/large_images.json")["scores"]
    whole = {
        (r["network"], r["megapixels"]): r["cpu_seconds"] for r in rows if r["mode"] == "whole"
    }
    lines = [
        "| network | LQ image | way | memory added | planned | files | us per LQ pixel | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        start = whole.get((r["network"], r["megapixels"]))
        ratio = "-" if start is None else f"x{r['cpu_seconds'] / start:.2f}"
        way = r["mode"].replace("batch 1", "windows, one by one").replace("batch auto", "windows")
        planned, files = (
            "-" if r[name] is None else f"{r[name]:,.0f} MB" for name in ("planned_mb", "file_mb")
        )
        lines.append(
            f"| {r['network']} | {r['width']} x {r['height']} | {way} | {r['added_mb']:,.0f} MB "
            f"| {planned} | {files} | {r['microseconds_per_pixel']:.1f} | {ratio} |"
        )
    return "\n".join(lines)


def base_of(record: Any) -> str:  # noqa: ANN401 - JSON
    """The base's own name, also where it was asked for by one that moves on."""
    known = base_records(shipped_bases())
    made_on = record["parameters"]["base_fingerprint"]
    return next(n for n, own in known.items() if own["parameters"]["fingerprint"] == made_on)


def self_ensemble() -> str:
    """What the mean over eight orientations gains on WebP, image by image."""
    record = read("self_ensemble.json")
    rows = record["scores"]["rows"]
    found = {(row["dataset"], row["quality"], row["method"]): row for row in rows}
    lines = [
        "| pictures | webp | once | eight orientations | difference [95 %] |",
        "|---|---|---|---|---|",
    ]
    for dataset, quality in dict.fromkeys((row["dataset"], row["quality"]) for row in rows):
        once, mean = (found[dataset, quality, way] for way in ("base", "base ensemble"))
        pairs = zip(mean["psnr_db_images"], once["psnr_db_images"], strict=True)
        gain = bootstrap_sets([[a - b for a, b in pairs]], [1])
        lines.append(
            f"| {dataset}, {once['images']} | {quality} | {once['psnr_db']:.3f} "
            f"| {mean['psnr_db']:.3f} | {gain} |"
        )
    return "\n".join(lines) + (
        f"\n\nPSNR in dB (y-c4) of `{base_of(record)}`; the interval is over pictures. Made by "
        f"`{record['command']}`."
    )


def gif_variants() -> str:
    """The adapter for GIF on GIFs that other programs make, and on drawings."""
    record = read("gif_variants.json")
    lines = [
        "| pictures | made GIFs by | base | with `gif-photo` | worst of them | worse |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['pictures']} | {row['way']} | {row['base_psnr_db']:.2f} | {row['gain_db']:+.2f} "
        f"| {row['least_db']:+.2f} | {row['worse']} of {row['count']} |"
        for row in record["scores"]["rows"]
    ]
    return "\n".join(lines) + (
        f"\n\nPSNR in dB (y-c4) of the base and change with the adapter; `{record['command']}`, "
        f"`results/gif_variants.json`."
    )


TABLES: dict[str, Callable[[], str]] = {
    "adapters": adapters,
    "base_jpeg": base_jpeg,
    "base_slots": base_slots,
    "large_images": large_images,
    "matched_rates": matched_rates,
    "codecs_set14": codecs_set14,
    "gains": gains,
    "gif_variants": gif_variants,
    "self_ensemble": self_ensemble,
    "webp20": webp20,
    "webp_methods": webp_methods,
    "webp_paper": webp_paper,
}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them."""
    filled = {path: fill(path.read_text(encoding="utf-8"), TABLES) for path in PAGES}
    return finish(filled, arguments, "python docs/make_tables.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
