"""From the specification of a cell to the recipes that make it, and from their files to its own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ucip_adapt.config import to_dict
from ucip_adapt.errors import DataError
from ucip_adapt.experiments.cells import SETS, Cell, read_method, row_of_table_3
from ucip_adapt.experiments.ledger import BaseFacts
from ucip_adapt.experiments.own_codec import OwnCodec, flags_of, is_own_codec
from ucip_adapt.experiments.pictures import is_there
from ucip_adapt.training.results import portable, read_results

__all__ = ["Stage", "assemble", "stages_of"]

_WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
_ALSO_MEASURED_ON = SETS["small"][0]


@dataclass(frozen=True)
class Stage:
    """One recipe that a cell is made by.

    Attributes:
        name: ``"training"`` or what is evaluated.
        arguments: The recipe's file and its flags.
        folder: Where it leaves its ``results.json``.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path

    @property
    def results(self) -> Path:
        """The file that says that the stage is done."""
        return self.folder / "results.json"

    @property
    def log(self) -> Path:
        """What the recipe printed."""
        return self.folder.parent / f"{self.folder.name}.log"


def stages_of(
    cell: Cell,
    base: BaseFacts | None,
    rate: float | None,
    folder: Path,
    data: Path | None,
    codec: OwnCodec | None = None,
) -> list[Stage]:
    """What has to be run, in this order.

    Args:
        cell: The cell.
        base: Its base; None for bicubic.
        rate: Peak learning rate.
        folder: The cell's own folder.
        data: Data root.
        codec: The cell's codec, where it is one of the user's own.

    Example:
        >>> from ucip_adapt.experiments.cells import Cell
        >>> for stage in stages_of(Cell("webp", "bicubic"), None, None, Path("c"), None):
        ...     print(stage.name, *stage.arguments[:3])
        webp-1 evaluate.py --codec webp
        webp-2 evaluate.py --codec webp
    """
    shared = ("--data", str(data)) if data is not None else ()
    stages = []
    if cell.trained:
        stages.append(_training(cell, base, rate, folder / "training", shared, codec))
    if cell.method == "control":
        # The base's own training does not look at the codec that the other methods adapt to.
        limit = ("--max_images", str(cell.validation_images))
        own = ("validation", cell.codec, ("GB82-val",))
        stages.append(_evaluation(*own, cell, base, folder, shared, codec, limit))
    pieces: list[tuple[str, tuple[str, ...]]] = [
        (cell.codec, sets) for sets in SETS[cell.evaluate_on]
    ]
    pieces += [(codec, _ALSO_MEASURED_ON) for codec in cell.also_measure]
    numbers: dict[str, int] = {}
    for measured, wanted in pieces:
        sets = tuple(name for name in wanted if is_there(name, data))
        if sets:
            numbers[measured] = numbers.get(measured, 0) + 1
            name = f"{measured}-{numbers[measured]}"
            stages.append(_evaluation(name, measured, sets, cell, base, folder, shared, codec))
    return stages


def _training(
    cell: Cell,
    base: BaseFacts | None,
    rate: float | None,
    folder: Path,
    shared: tuple[str, ...],
    codec: OwnCodec | None,
) -> Stage:
    assert base is not None  # noqa: S101 - make_cell wants a base for whatever is trained
    method, blocks = read_method(cell.method)
    flags = [
        *("--pretrained_model_name_or_path", base.location, *shared),
        *("--train_data_dir", *cell.train_data.split("+")),
        *("--max_train_steps", str(cell.max_train_steps)),
        *("--train_batch_size", str(cell.train_batch_size)),
        *("--patch_size", str(cell.patch_size)),
        *("--learning_rate", f"{rate:g}", "--seed", str(cell.seed)),
        *("--max_eval_images", str(cell.validation_images), "--output_dir", str(folder)),
        # A stop after the last step, while the scores are taken, costs no training this way.
        *("--checkpointing_steps", str(_part_of(cell.max_train_steps))),
        *("--checkpoints_total_limit", "1"),
    ]
    if method.recipe == "pretrain_base.py":
        flags += ["--suite", cell.suite, "--prompt", base.prompt]
        # Its own scores are not used: one image is the least that it measures.
        flags[flags.index("--max_eval_images") + 1] = "1"
    else:
        flags += [*flags_of(cell.codec, codec), *_qualities(cell, cell.codec)]
    if blocks != "all":
        flags += ["--trainable_blocks", blocks]
    return Stage("training", (method.recipe, *method.flags, *flags), folder)


def _part_of(steps: int) -> int:
    """A divisor, so that the last step is one that leaves a checkpoint: the largest up to 50."""
    return next((part for part in range(min(50, steps), 9, -1) if steps % part == 0), steps)


def _evaluation(
    name: str,
    measured: str,
    sets: Iterable[str],
    cell: Cell,
    base: BaseFacts | None,
    folder: Path,
    shared: tuple[str, ...],
    codec: OwnCodec | None,
    limit: tuple[str, ...] = (),
) -> Stage:
    own = folder / f"evaluation-{name}"
    flags = [*flags_of(measured, codec), *_qualities(cell, measured)]
    flags += ["--evaluate_on", *sets, *limit]
    flags += ["--metric_protocols", "y-c4", "--per_image", *shared, "--output_dir", str(own)]
    if base is not None:
        flags += ["--pretrained_model_name_or_path", base.location]
    if cell.trained:
        flags += ["--adapter", f"tuned={folder / 'training'}"]
        flags += [] if name == "validation" else ["--skip_base"]
    else:
        flags += ["--baselines", cell.method]
    return Stage(name, ("evaluate.py", *flags), own)


def _qualities(cell: Cell, codec: str) -> tuple[str, ...]:
    """Qualities of the cell's own codec; other codecs have scales of their own."""
    if codec != cell.codec or not cell.qualities:
        return ()
    return ("--qualities", *map(str, cell.qualities))


def assemble(
    cell: Cell,
    base: BaseFacts | None,
    rate: float | None,
    groups: Iterable[str],
    stages: Iterable[Stage],
    *,
    command: str,
    codec: OwnCodec | None = None,
) -> dict[str, Any]:
    """Put what the recipes left together as the file of a finished cell.

    Args:
        cell: The cell.
        base: Its base.
        rate: The rate it was made at.
        groups: Names of its groups.
        stages: Its stages, all of them done.
        command: What makes the cell.
        codec: The cell's codec, where it is one of the user's own.

    Raises:
        ResultsError: If a stage's file cannot be read.
        DataError: If a stage was made on another base.
    """
    done = {stage.name: (stage, read_results(stage.results)) for stage in stages}
    measured = [record for name, (_, record) in done.items() if name != "training"]
    training = done["training"][1] if "training" in done else None
    own = cell.method if not cell.trained else "tuned"
    rows = [
        row
        for name, (_, record) in done.items()
        if name not in {"training", "validation"}
        for row in record["scores"]["rows"]
        if row["method"] == own
    ]
    scores: dict[str, Any] = {"rows": rows}
    parameters: dict[str, Any] = {"trained": 0, "total": base.total if base else 0, "bytes": 0}
    parameters["base_fingerprint"] = base.fingerprint if base else None
    files = {}
    if training is not None:
        _check_base(cell, base, [*measured, training])
        judged = done["validation"][1] if "validation" in done else training
        scores["validation_gain_db"] = _validation_gain(judged)
        if not SETS[cell.evaluate_on]:
            scores["rows"] = _tuned_rows(judged)
        weights = _weights(done["training"][0].folder)
        content = weights.read_bytes()
        files[weights.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        parameters |= {"trained": training["parameters"]["trained"], "bytes": len(content)}
        parameters["total"] = training["parameters"]["total"]
    else:
        _check_base(cell, base, measured)
    if codec is not None:  # recipes know it by what it is
        scores["rows"] = [
            {**row, "codec": codec.name} if is_own_codec(row["codec"]) else row
            for row in scores["rows"]
        ]
    everything = [record for _, record in done.values()]
    return {
        "kind": "cell",
        "command": command,
        "config": _config(cell, base, rate, groups, scores["rows"]) | _facts_of_codec(codec),
        "environment": (training or measured[0])["environment"],
        "seconds": {
            "training": round(training["seconds"]["training"], 2) if training else 0.0,
            "evaluation": round(
                sum(record["seconds"].get("evaluation", 0.0) for record in everything), 2
            ),
        },
        "peak_memory_mib": max((record["peak_memory_mib"] or 0 for record in everything), default=0)
        or None,
        "parameters": parameters,
        "scores": scores,
        "files": files,
    }


def _config(
    cell: Cell,
    base: BaseFacts | None,
    rate: float | None,
    groups: Iterable[str],
    rows: Iterable[dict[str, Any]],
) -> dict[str, Any]:
    method, blocks = read_method(cell.method)
    flags = dict(zip(method.flags[::2], method.flags[1::2], strict=True))
    trained_on = {"tune_full.py": "everything", "pretrain_base.py": "everything"}
    qualities = dict.fromkeys(row["quality"] for row in rows if row["codec"] == cell.codec)
    config = {"cell": cell.id, "groups": list(groups), **to_dict(cell)}
    return config | {
        "base_kind": base.kind if base else None,
        "qualities": list(cell.qualities) or list(qualities),
        "protocol": row_of_table_3(cell.method, base.kind if base else None),
        "trainable": flags.get("--trainable", trained_on.get(method.recipe)),
        "trainable_blocks": blocks if cell.trained else None,
        "peft_method": flags.get("--peft_method", "prompts")
        if method.recipe == "tune_prompts.py"
        else None,
        "suite": cell.suite if cell.method == "control" else None,
        "learning_rate": rate,
        "best_rate": cell.trained and cell.learning_rate is None,
    }


def _facts_of_codec(codec: OwnCodec | None) -> dict[str, str | None]:
    if codec is None:
        return {}
    return {"codec_location": portable(codec.location), "codec_digest": codec.digest}


def _check_base(cell: Cell, base: BaseFacts | None, records: Iterable[dict[str, Any]]) -> None:
    """Parts of a cell may be made days apart; the base must have been the same throughout."""
    for record in records:
        made_on = record["parameters"].get("base_fingerprint")
        if base is not None and made_on is not None and made_on != base.fingerprint:
            raise DataError(f"{cell.id}: a part was made on another {cell.base}; remove its folder")


def _validation_gain(record: dict[str, Any]) -> float:
    """Mean gain over the base on the validation images under y-c4, in dB."""
    rows = [row for row in record["scores"]["rows"] if row["protocol"] == "y-c4"]
    base = [row["psnr_db"] for row in rows if row["method"] == "base"]
    tuned = [row["psnr_db"] for row in rows if row["method"] not in {"bicubic", "base"}]
    return round(fmean(tuned) - fmean(base), 4)


def _tuned_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**row, "method": "tuned"}
        for row in record["scores"]["rows"]
        if row["protocol"] == "y-c4" and row["method"] not in {"bicubic", "base"}
    ]


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no weights in {folder}: neither {' nor '.join(_WEIGHTS)}")


def spec_of(
    cell: Cell, base: BaseFacts | None, rate: float | None, codec: OwnCodec | None = None
) -> dict[str, Any]:
    """What the parts of a cell under way must share: its specification, base, rate and codec."""
    values = to_dict(dataclasses.replace(cell, learning_rate=rate))
    values["base_fingerprint"] = base.fingerprint if base else None
    return values if codec is None else {**values, "codec_digest": codec.digest}
