"""The bases that experiments start from: how they were trained, what they gain over bicubic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ucip_adapt.assets import shipped_base_folder
from ucip_adapt.experiments.statistics import bootstrap_sets
from ucip_adapt.experiments.tables import HOLE, Table, read_json
from ucip_adapt.hub.stages import image_sets
from ucip_adapt.training.results import read_results

__all__ = [
    "base_records",
    "curves",
    "gains_by_slot",
    "mean_of_slots",
    "stages",
    "tried",
    "tried_records",
]

_SHAPE = ("steps", "batch", "crop", "rate")
_NAMES = {"base": "base, as configured", "base whole": "base, whole image"}
_Place = tuple[str, str, int]
_Rows = Mapping[tuple[str, str, str, int], Mapping[str, Any]]
_Pairs = list[tuple[Mapping[str, Any], Mapping[str, Any]]]


def base_records(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Records of the trainings of bases.

    Args:
        names: Names of bases; those that are not shipped are left out.

    Returns:
        What each base's ``results.json`` holds, by name.

    Example:
        >>> base_records(["ucip-tiny-v1", "no such base"])["ucip-tiny-v1"]["kind"]
        'pretrain_base'
    """
    folders = {name: shipped_base_folder(name) for name in names}
    files = {name: folder / "results.json" for name, folder in folders.items() if folder}
    return {name: read_results(path) for name, path in files.items() if path.is_file()}


def tried_records(results: Path) -> dict[str, dict[str, Any]]:
    """Records of trainings that decided something, and whose weights are not kept.

    Args:
        results: The folder ``results``; those under ``base_sweep`` and ``base_stages`` are taken.

    Example:
        >>> tried_records(Path("no/such/folder"))
        {}
    """
    files = [
        path
        for folder in ("base_sweep", "base_stages")
        for path in sorted((results / folder).glob("*.json"))
    ]
    return {path.stem: read_results(path) for path in files}


def stages(records: Mapping[str, Mapping[str, Any]]) -> Table:
    """How bases were trained, stage by stage.

    Args:
        records: See :func:`base_records`.

    Example:
        >>> stages(base_records(["ucip-tiny-v1"])).rows[0][:3]
        ('ucip-tiny-v1', '1', '4')
    """
    lines = [
        (
            name,
            str(number),
            str(len(stage["settings"])),
            " + ".join(image_sets(stage)),
            *_shape(stage),
        )
        for name, record in records.items()
        for number, stage in enumerate(record["parameters"]["stages"], 1)
    ]
    header = ("base", "stage", "settings", "images", *_SHAPE, "training")
    return Table("Stages of the bases", header, tuple(lines))


def _shape(stage: Mapping[str, Any]) -> tuple[str, ...]:
    minutes, threads = stage["training_seconds"] / 60, stage["threads"]
    return (
        f"{stage['max_train_steps']:,}",
        str(stage["train_batch_size"]),
        str(stage["patch_size"]),
        f"{stage['learning_rate']:g}",
        f"{minutes:.0f} min, {stage['hardware']}, {threads} thread{'s' if threads > 1 else ''}",
    )


def tried(records: Mapping[str, Mapping[str, Any]]) -> Table:
    """What trainings gained on the validation images that they were judged by.

    Args:
        records: See :func:`tried_records` and :func:`base_records`.

    Returns:
        A row each: its last stage, and its gain over bicubic on whole images and as configured.
    """
    lines = []
    for name, record in records.items():
        rows = record["scores"]["rows"]
        images = f"{rows[0]['images']} of {rows[0]['dataset']}" if rows else HOLE
        gains = [_validation_gain(rows, method) for method in ("whole", "base")]
        lines.append((name, *_shape(record["parameters"]["stages"][-1]), images, *gains))
    header = ("run", *_SHAPE, "training", "images", "gain, whole image", "gain, as configured")
    return Table("Trainings of bases", header, tuple(lines))


def _validation_gain(rows: Iterable[Mapping[str, Any]], method: str) -> str:
    """Gain over bicubic, codecs counted alike."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["protocol"] == "y-c4":
            scores.setdefault(row["codec"], {}).setdefault(row["method"], []).append(row["psnr_db"])
    gains = [
        fmean(found[method]) - fmean(found["bicubic"])
        for found in scores.values()
        if {method, "bicubic"} <= found.keys()
    ]
    return f"{fmean(gains):+.3f}" if gains else HOLE


def curves(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Gain over bicubic on whole validation images by the steps of the last stage.

    Args:
        records: See :func:`base_records`.

    Returns:
        Points (step, dB) by name, of those that were validated on the way.

    Example:
        >>> [step for step, _ in curves(base_records(["ucip-tiny-v1"]))["ucip-tiny-v1"]]
        [300.0, 600.0, 900.0, 1200.0]
    """
    found = {
        name: [
            (float(point["step"]), float(point["val_gain_db"]))
            for point in record["scores"].get("curve", [])
        ]
        for name, record in records.items()
    }
    return {name: line for name, line in found.items() if line}


def gains_by_slot(
    record: Mapping[str, Any],
    paper: Path,
    *,
    reference: str = "bicubic",
    names: Mapping[str, str] = _NAMES,
) -> Table:
    """Networks over bicubic, or over another network, by slot of the suite they were trained on.

    Args:
        record: What ``evaluate.py --suite`` left.
        paper: ``results/paper.json``: its network's scores on JPEG, HM and VTM.
        reference: What gains are over: a method of the record.
        names: What the columns are called, by method.

    Returns:
        A row for each slot and one for the mean over slots; where the scores of single images are
        kept, gains have their interval over images.
    """
    rows = [row for row in record["scores"]["rows"] if row["protocol"] == "y-c4" and row["images"]]
    found = {(r["method"], r["dataset"], r["codec"], r["quality"]): r for r in rows}
    methods = [
        m for m in dict.fromkeys(r["method"] for r in rows) if m not in {"bicubic", reference}
    ]
    datasets = list(dict.fromkeys(r["dataset"] for r in rows))
    lines = []
    by_slot: dict[str, list[_Pairs]] = {method: [] for method in methods}
    complete = dict.fromkeys(methods, True)
    for slot in record["parameters"]["slots"]:
        places = [(d, slot["codec"], q) for d in datasets for q in slot["qualities"]]
        for method in methods:
            pairs = _pairs(found, method, reference, places)
            by_slot[method].append(pairs)
            complete[method] &= len(pairs) == len(places)
        texts = [_gain([by_slot[method][-1]]) for method in methods]
        qualities = " ".join(map(str, slot["qualities"]))
        beside = _paper_gain(found, places, paper) if reference == "bicubic" else HOLE
        lines.append((slot["name"], slot["codec"], qualities, *texts, beside))
    # Slots count alike, whatever number of qualities they have; with a hole there is no mean.
    overall = [f"**{_gain(by_slot[m])}**" if complete[m] else HOLE for m in methods]
    lines.append(("**mean of slots**", "", "", *overall, HOLE))
    header = ("slot", "codec", "qualities", *(names.get(m, m) for m in methods), "paper")
    note = (
        f"Gain over {names.get(reference, reference)} in dB (y-c4), mean over "
        f"{', '.join(datasets)} and the qualities."
    )
    if reference == "bicubic":
        note += " The paper: its network's gain on the same cells, over the same bicubic."
    else:
        header, lines = header[:-1], [line[:-1] for line in lines]
    return Table("The bases over bicubic", header, tuple(lines), note)


def mean_of_slots(record: Mapping[str, Any], dataset: str, method: str = "base") -> float:
    """PSNR (y-c4) of a network on a set, slots of the suite counted alike, in dB.

    Args:
        record: What ``evaluate.py --suite`` left.
        dataset: The set.
        method: The network's name in the record.

    Raises:
        StatisticsError: If a slot was not measured.
    """
    rows = [
        row
        for row in record["scores"]["rows"]
        if (row["method"], row["dataset"], row["protocol"]) == (method, dataset, "y-c4")
    ]
    return fmean(
        fmean(row["psnr_db"] for row in rows if row["codec"] == slot["codec"])
        for slot in record["parameters"]["slots"]
    )


def _pairs(found: _Rows, method: str, reference: str, places: Sequence[_Place]) -> _Pairs:
    keys = [((method, *place), (reference, *place)) for place in places]
    return [(found[a], found[b]) for a, b in keys if a in found and b in found]


def _gain(slots: Sequence[_Pairs]) -> str:
    """Mean over slots of the mean over a slot's pairs, with its interval where images are kept."""
    if not all(slots):
        return HOLE
    pairs = [pair for slot in slots for pair in slot]
    if not all(a.get("names") and a["names"] == b.get("names") for a, b in pairs):
        return (
            f"{fmean(fmean(a['psnr_db'] - b['psnr_db'] for a, b in slot) for slot in slots):+.3f}"
        )
    datasets = dict.fromkeys(a["dataset"] for a, _ in pairs)
    # An image that is drawn brings its gains in all slots and qualities.
    images = [
        _mean_by_image(
            [
                _mean_by_image([_by_image(a, b) for a, b in slot if a["dataset"] == dataset])
                for slot in slots
            ]
        )
        for dataset in datasets
    ]
    qualities = [sum(a["dataset"] == dataset for a, _ in pairs) for dataset in datasets]
    return str(bootstrap_sets(images, qualities))


def _by_image(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[float]:
    return [x - y for x, y in zip(a["psnr_db_images"], b["psnr_db_images"], strict=True)]


def _mean_by_image(lists: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(image) for image in zip(*lists, strict=True)]


def _paper_gain(found: _Rows, places: Sequence[_Place], paper: Path) -> str:
    table = read_json(paper)["table_1_ucip"] if paper.is_file() else []
    theirs = {(row["dataset"], row["codec"], row["quality"]): row["psnr_db"] for row in table}
    gains = [
        theirs[place] - found["bicubic", *place]["psnr_db"]
        for place in places
        if place in theirs and ("bicubic", *place) in found
    ]
    # Only over the very same cells: a part of a benchmark is none of the paper's.
    return f"{fmean(gains):+.3f}" if len(gains) == len(places) else HOLE
