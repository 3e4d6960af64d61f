"""Table 3 of the paper from finished cells, the paper's numbers beside ours, and what it comes to.

Rows i to v and the control share images, crops, order and steps:

========= ==================================================================
``i``       the prompted base as it is
``ii``      prompt-free base, prompts added, only they are trained
``iii``     prompt-free base, prompts added, everything is trained
``iv``      prompted base, only prompts are trained
``v``       prompted base, everything is trained: the same start as iv
``control`` the prompted base trained on for as many steps on its own codecs
========= ==================================================================

What was not measured is a dash. Nothing is filled in.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ucip_adapt.experiments.cells import asked_qualities
from ucip_adapt.experiments.compare import UNTRAINED, Difference, Finished, Place, difference
from ucip_adapt.experiments.statistics import spread

__all__ = [
    "COMPARISONS",
    "HOLE",
    "ROWS",
    "Matrix",
    "PaperCell",
    "Table",
    "best_rate",
    "by_place",
    "choose_rows",
    "matrices",
    "paper_cells",
    "paper_difference",
    "places_of",
    "row_of",
    "summary",
    "table_3",
]

HOLE = "-"
"""What was not measured."""

ROWS = ("i", "ii", "iii", "iv", "v", "control")
COMPARISONS = (
    ("iv", "i"),
    ("iv", "ii"),
    ("iv", "iii"),
    ("iv", "v"),
    ("v", "control"),
    ("control", "i"),
)
"""What the summary subtracts."""

_PAPER = {"webp": "table_3_webp", "elic": "table_3_elic", "tiny-elic": "table_3_elic"}
"""Where the paper has a codec; tiny-elic is a miniature that stands in the place of ELIC."""


@dataclass(frozen=True)
class Table:
    """A table as text: a title, columns, rows, and a line on how to read it.

    Attributes:
        title: What it shows, with "n of m cells" where cells of the ledger are missing or not.
        header: Column titles.
        rows: Cells, as many per row as there are titles.
        note: What the columns mean.

    Example:
        >>> print(Table("One", ("set", "dB"), (("Set5", "26.20"),)).markdown())
        | set | dB |
        |---|---|
        | Set5 | 26.20 |
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table alone, for a page."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        shown = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([shown[0], shown[1].replace(" ", ""), *shown[2:]])

    def text(self) -> str:
        """Title, lined-up columns and note, for a terminal; ends with a line feed."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = (
            "  ".join(map(str.ljust, line, widths)).rstrip() for line in (self.header, *self.rows)
        )
        return "\n".join([self.title, *lines, *textwrap.wrap(self.note, 100)]) + "\n"


class Matrix(NamedTuple):
    """What all cells of one table share."""

    codec: str
    base: str
    evaluate_on: str
    max_train_steps: int
    train_batch_size: int
    patch_size: int
    train_data: str
    qualities: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """In words, for a title."""
        part = f" at {', '.join(map(str, self.qualities))} alone" if self.qualities else ""
        crops = f"{self.train_batch_size} crops of {self.patch_size} LQ pixels"
        return (
            f"{self.codec}{part}, {self.base}, {self.max_train_steps} steps of {crops} "
            f"from {self.train_data}, {self.evaluate_on} sets"
        )


_TRAINING = Matrix._fields[2:-1]
"""Fields that a cell's configuration has under the same name."""


class PaperCell(NamedTuple):
    """A cell of the paper's Table 3."""

    psnr_db: float
    ssim: float


def row_of(config: Mapping[str, Any], prompts: str) -> str | None:
    """The row of Table 3 that a cell belongs to.

    Args:
        config: The cell's specification.
        prompts: The set that rows ii and iv train, such as ``"dpm+offset"``.

    Returns:
        One of :data:`ROWS`; None for other ways of tuning.

    Example:
        >>> row_of({"method": "dpm", "protocol": "iv"}, "dpm")
        'iv'
        >>> row_of({"method": "lora", "protocol": None}, "dpm") is None
        True
    """
    wanted = {
        "i": "base",
        "ii": prompts,
        "iii": "everything",
        "iv": prompts,
        "v": "everything",
        "control": "control",
    }
    protocol = "control" if config["method"] == "control" else config.get("protocol")
    return protocol if wanted.get(str(protocol)) == config["method"] else None


def _family(base: str | None) -> str:
    """A base and its prompt-free twin have one name here; bicubic has none."""
    return (base or "").replace("-noprompt", "")


def matrices(configs: Iterable[Mapping[str, Any]], codec: str) -> list[Matrix]:
    """What tables can be made for a codec: one for each base, sets of images and kind of training.

    Args:
        configs: Specifications of cells, finished or planned.
        codec: The codec.

    Returns:
        Those measured on the full sets first, then the longest training; sweeps that are measured
        on validation images alone are left out.
    """
    found = {
        Matrix(
            codec=codec,
            base=_family(config["base"]),
            qualities=asked_qualities(config),
            **{name: config[name] for name in _TRAINING},
        )
        for config in configs
        if config["codec"] == codec
        and config["method"] not in UNTRAINED
        and config["evaluate_on"] != "validation"
    }
    return sorted(found, key=lambda m: (m.evaluate_on, -m.max_train_steps, *m))


def belongs(config: Mapping[str, Any], matrix: Matrix) -> bool:
    """Whether a cell is one of a table's: same codec, qualities, base, images and training.

    Args:
        config: The cell's specification. One that trains nothing has no training to compare.
        matrix: What the table's cells share.
    """
    names = ("evaluate_on",) if config["method"] in UNTRAINED else _TRAINING
    return (
        (config["codec"], _family(config["base"])) == matrix[:2]
        and asked_qualities(config) == matrix.qualities
        and all(config[name] == getattr(matrix, name) for name in names)
    )


def choose_rows(
    cells: Sequence[Finished], matrix: Matrix, prompts: str
) -> dict[str, list[Finished]]:
    """The cells of every row of a table, one per seed.

    Args:
        cells: Finished cells, also of other tables.
        matrix: What the table's cells share.
        prompts: The set that rows ii and iv train.

    Returns:
        Cells by row, for every row of :data:`ROWS`; a row may be empty.
    """
    own = [cell for cell in cells if belongs(cell.config, matrix)]
    return {
        row: best_rate([cell for cell in own if row_of(cell.config, prompts) == row])
        for row in ROWS
    }


def best_rate(cells: Sequence[Finished]) -> list[Finished]:
    """Of one method tuned at several rates, the cells of the rate with the best validation gain.

    Args:
        cells: Cells that differ in rate and seed.

    Returns:
        Those of one rate, in order of their seeds; of a run that is there twice, the one that was
        measured at more places. Scores on test sets play no part.
    """
    rates: dict[Any, list[Finished]] = {}
    for cell in cells:
        rates.setdefault(cell.config.get("learning_rate"), []).append(cell)
    if len(rates) > 1:
        gains = {
            rate: [c.validation_gain_db for c in found if c.validation_gain_db is not None]
            for rate, found in rates.items()
        }
        rates = {rate: rates[rate] for rate, values in gains.items() if values} or rates
        best = max(rates, key=lambda rate: fmean(gains[rate]) if gains[rate] else 0.0)
        rates = {best: rates[best]}
    chosen = sorted(next(iter(rates.values()), []), key=lambda cell: len(cell.places))
    by_seed = {-1 if cell.seed is None else cell.seed: cell for cell in chosen}
    return [cell for _, cell in sorted(by_seed.items())]


def read_json(path: Path) -> Any:  # noqa: ANN401 - the paper's numbers are no results file
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def paper_cells(path: Path, codec: str) -> dict[tuple[str, str, int], PaperCell]:
    """The paper's Table 3 for a codec.

    Args:
        path: ``results/paper.json``.
        codec: The codec.

    Returns:
        PSNR and SSIM by row, set and quality; nothing where the paper does not have the codec, or
        there is no such file.

    Example:
        >>> paper_cells(Path("results/paper.json"), "avif")
        {}
    """
    key = _PAPER.get(codec)
    if key is None or not path.is_file():
        return {}
    table = read_json(path)[key]
    return {
        (row["protocol"], row["dataset"], row["quality"]): PaperCell(row["psnr_db"], row["ssim"])
        for row in table
    }


def places_of(rows: Mapping[str, Sequence[Finished]], codec: str) -> list[Place]:
    """Every place that any row was measured at, in the order of measuring."""
    found = (
        place
        for cells in rows.values()
        for cell in cells
        for place in cell.places
        if place.codec == codec
    )
    order = {"Set5": 0, "Set14": 1, "BSD100": 2, "Urban100": 3, "Manga109": 4}
    return sorted(set(found), key=lambda p: (order.get(_whole(p.dataset), 9), p))


def _whole(dataset: str) -> str:
    """The set that a part is of: the paper has no others."""
    return dataset.partition("/")[0]


def table_3(
    rows: Mapping[str, Sequence[Finished]],
    matrix: Matrix,
    *,
    paper: Mapping[tuple[str, str, int], PaperCell],
    planned: Iterable[Mapping[str, Any]] = (),
    prompts: str,
) -> Table:
    """Sets by qualities by rows, as in the paper, its cell beside each of ours.

    Args:
        rows: See :func:`choose_rows`.
        matrix: What the cells share.
        paper: See :func:`paper_cells`.
        planned: Specifications of the cells the ledger asks for, for "n of m".
        prompts: The set that rows ii and iv train.

    Returns:
        A table; with no cell at all, one without rows.
    """
    places = places_of(rows, matrix.codec)
    qualities = sorted({place.quality for place in places})
    header = ["set", "row", "seeds"]
    for quality in qualities:
        header += [f"{matrix.codec} {quality}", *(["paper"] if paper else [])]
    datasets = list(dict.fromkeys(place.dataset for place in places))
    lines = []
    for dataset in datasets:
        for row in ROWS:
            line = [dataset, row, _seeds(rows[row])]
            for quality in qualities:
                line.append(_cell(rows[row], Place(matrix.codec, dataset, quality)))
                if paper:
                    line.append(_paper_text(paper.get((row, _whole(dataset), quality))))
            lines.append(tuple(line))
    note = (
        "PSNR in dB / SSIM under y-c4; ± is half the range over seeds. Rows ii and iv train "
        f"{prompts}. A dash: not measured."
    )
    if paper and any("/" in dataset for dataset in datasets):
        note += " The paper's numbers are of the whole sets."
    title = f"Table 3: {matrix.text}; {_count(rows, matrix, planned, prompts)}"
    return Table(title, tuple(header), tuple(lines), note)


def _count(
    rows: Mapping[str, Sequence[Finished]],
    matrix: Matrix,
    planned: Iterable[Mapping[str, Any]],
    prompts: str,
) -> str:
    found = {cell.id for cells in rows.values() for cell in cells}
    asked = found | {
        str(config["cell"])
        for config in planned
        if belongs(config, matrix) and row_of(config, prompts)
    }
    return f"{len(found)} of {len(asked)} cells"


def _seeds(cells: Sequence[Finished]) -> str:
    return str(len(cells)) if any(cell.seed is not None for cell in cells) else HOLE


def _cell(cells: Sequence[Finished], place: Place) -> str:
    measured = [cell for cell in cells if place in cell.places]
    if not measured:
        return HOLE
    psnr = spread([cell.mean(place) for cell in measured])
    ssim = fmean(cell.mean(place, "ssim") for cell in measured)
    half = f" ±{(psnr.high - psnr.low) / 2:.2f}" if psnr.count > 1 else ""
    return f"{psnr.mean:.2f}{half} / {ssim:.3f}"


def _paper_text(cell: PaperCell | None) -> str:
    return HOLE if cell is None else f"{cell.psnr_db:.2f} / {cell.ssim:.3f}"


def summary(
    rows: Mapping[str, Sequence[Finished]],
    codec: str,
    *,
    paper: Mapping[tuple[str, str, int], PaperCell],
) -> Table:
    """Mean differences of rows with their intervals, and in how many cells of the table they hold.

    Args:
        rows: See :func:`choose_rows`.
        codec: The codec.
        paper: See :func:`paper_cells`; the same sets and qualities are taken from it.

    Returns:
        A table with one row per entry of :data:`COMPARISONS`.
    """
    places = places_of(rows, codec)
    header = ["difference", "dB [95 %]", "by seed", "seeds", "SSIM", "at least"]
    header += ["higher", "tie", "lower", *(["paper, dB", "paper, at least"] if paper else [])]
    lines, measured = [], set()
    for first, second in COMPARISONS:
        found = difference(rows[first], rows[second], places)
        line = [f"{first} - {second}", *difference_cells(found)]
        measured.add(len(found.images) if found else len(places))
        if paper:
            line += paper_difference(paper, first, second, list(found.images) if found else places)
        lines.append(tuple(line))
    of = f"the {len(places)} cells of the table (set and quality)"
    if measured != {len(places)}:
        of = f"those of {of} that both rows have ('at least' says of how many)"
    note = (
        f"Mean over {of}. [95 %]: bootstrap over "
        "images, drawn within their set; both rows restored the same images. By seed: smallest to "
        "largest; with 0 between them, seeds disagree. At least: cells whose mean difference is "
        "not below 0. A cell whose own interval holds 0 is a tie, else it is higher or lower."
    )
    return Table(f"Summary: {codec}", tuple(header), tuple(lines), note)


def by_place(rows: Mapping[str, Sequence[Finished]], codec: str) -> Table:
    """The summary's differences in every cell of the table.

    Args:
        rows: See :func:`choose_rows`.
        codec: The codec.

    Returns:
        A row for each set and quality; ties are named.
    """
    places = places_of(rows, codec)
    found = [difference(rows[first], rows[second], places) for first, second in COMPARISONS]
    lines = []
    for place in places:
        line = [place.dataset, str(place.quality)]
        for one in found:
            interval = one.places.get(place) if one else None
            tie = " tie" if interval is not None and interval.verdict == "tie" else ""
            line.append(HOLE if interval is None else f"{interval}{tie}")
        lines.append(tuple(line))
    header = ("set", f"{codec}", *(f"{first} - {second}" for first, second in COMPARISONS))
    return Table(f"Cell by cell: {codec}", header, tuple(lines), "dB [95 %] over the set's images.")


def difference_cells(found: Difference | None) -> list[str]:
    """A difference as the eight columns of the summary; dashes where there is none."""
    if found is None:
        return [HOLE] * 8
    seeds = found.seeds
    by_seed = f"{seeds.low:+.3f} to {seeds.high:+.3f}" if seeds.count > 1 else HOLE
    return [
        str(found.overall),
        by_seed,
        str(seeds.count),
        f"{found.ssim:+.4f}",
        f"{found.at_least} of {len(found.places)}",
        *(str(found.count(verdict)) for verdict in ("higher", "tie", "lower")),
    ]


def paper_difference(
    paper: Mapping[tuple[str, str, int], PaperCell],
    first: str,
    second: str,
    places: Sequence[Place],
) -> list[str]:
    """The paper's difference of two rows as the last two columns of the summary.

    Args:
        paper: See :func:`paper_cells`.
        first: The row that is subtracted from.
        second: The row that is subtracted.
        places: Sets and qualities; a part of a set is compared with the paper's whole one.

    Returns:
        Mean difference in dB, and in how many places the first is at least the second; dashes
        where the paper lacks a row.
    """
    pairs = [
        (paper.get((first, *key)), paper.get((second, *key)))
        for key in ((_whole(place.dataset), place.quality) for place in places)
    ]
    # In hundredths, as printed: 26.55 - 26.54 must not become less than 0.01.
    gains = [
        round(100 * a.psnr_db) - round(100 * b.psnr_db)
        for a, b in pairs
        if a is not None and b is not None
    ]
    if not gains:
        return [HOLE, HOLE]
    at_least = sum(gain >= 0 for gain in gains)
    return [f"{fmean(gains) / 100:+.3f}", f"{at_least} of {len(gains)}"]
