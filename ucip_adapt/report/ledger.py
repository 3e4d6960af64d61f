"""Sections on the ledger of experiments: Table 3, gain over size, forgetting, rates tried.

The numbers are those of :mod:`ucip_adapt.experiments`; nothing is computed here a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType

from ucip_adapt.errors import DataError
from ucip_adapt.report.markup import Html, Row, Section, table
from ucip_adapt.report.plots import Mark, Series, xy_plot
from ucip_adapt.report.sources import EXPECTED, PAPER, Problem, Source

# The classes below are only loaded with the sections: they bring torch along.
from ucip_adapt.experiments.compare import UNTRAINED, Finished  # isort: skip
from ucip_adapt.experiments.sweeps import (
    PROMPTS,
    Point,
    against,
    forgetting,
    pareto,
    points,
    rate_sweep,
)
from ucip_adapt.experiments.tables import (
    Matrix,
    Table,
    belongs,
    choose_rows,
    matrices,
    paper_cells,
    summary,
    table_3,
)

__all__ = ["ledger_sections"]

_NEEDED: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("cell", "codec", "method", "evaluate_on", "train_data"), (str,)),
    **dict.fromkeys(("seed", "max_train_steps", "train_batch_size", "patch_size"), (int,)),
    **dict.fromkeys(("base", "base_kind", "protocol"), (str, NoneType)),
    "learning_rate": (int, float, NoneType),
}
"""What tables read of a cell's configuration; what is not trained has no base or rate."""
_PROMPT_SETS = ("dpm+offset", "dpm", "dpm+offset+spade", "basis")
"""Sets that rows ii and iv may train; the first one that was is shown first."""

Found = Mapping[str, Source]
"""The file of each cell by the cell's name."""


def ledger_sections(
    sources: Sequence[Source], folder: Path, paper: Source | None, off: Source | None = None
) -> tuple[list[Section], list[Problem]]:
    """Everything that finished cells say.

    Args:
        sources: Files of kind ``cell``.
        folder: The results folder, for the paper's numbers.
        paper: Their file, if it could be read.
        off: The file on adapters that are switched off, if there is one.

    Returns:
        Sections, and files or tables that could not be shown.
    """
    problems: list[Problem] = []
    cells: list[Finished] = []
    found: dict[str, Source] = {}
    for source in sources:
        try:
            cell = _finished(source)
            if cell.id in found:
                raise DataError(f"the same cell as {found[cell.id].name}")
        except EXPECTED as error:
            problems.append(Problem(source.name, f"no finished cell: {error!r}"))
        else:
            cells.append(cell)
            found[cell.id] = source
    sections: list[Section] = []
    trained = [cell.config["codec"] for cell in cells if cell.config["method"] not in UNTRAINED]
    asked = folder / PAPER if paper else folder / "none"
    for codec in dict.fromkeys(trained):
        for matrix in matrices([cell.config for cell in cells], codec):
            try:
                sections += _matrix_sections(cells, found, matrix, asked, paper)
                sections += _size_sections(cells, found, matrix, off)
            except EXPECTED as error:
                problems.append(Problem(f"tables of {matrix.text}", repr(error)))
        try:
            sections += _rate_sections(cells, found, codec)
        except EXPECTED as error:
            problems.append(Problem(f"rates of {codec}", repr(error)))
    return sections, problems + _left_over(cells, found, sections)


def _left_over(
    cells: Sequence[Finished], found: Found, sections: Sequence[Section]
) -> list[Problem]:
    """Cells that no section took up. Bicubic's are in no table beside others, whatever is there."""
    used = {source.name for section in sections for source in section.sources}
    return [
        Problem(
            found[cell.id].name,
            "a finished cell that no table shows: a table compares it with another one of the same "
            "codec, base, sets and training (a way of tuning with its base, a row with another)",
        )
        for cell in cells
        if found[cell.id].name not in used and not (sections and cell.config["method"] == "bicubic")
    ]


def _rate_sections(cells: Sequence[Finished], found: Found, codec: str) -> list[Section]:
    rates = rate_sweep(cells, codec)
    if not rates.rows:
        return []
    named = [_row(line, _tuned(cells, found, codec, *line[:2])) for line in rates.rows]
    return [_section(rates.title, [_table(rates, named)], named)]


def _finished(source: Source) -> Finished:
    cell = Finished.from_record(source.record)
    missing = [key for key in _NEEDED if key not in cell.config]
    if missing:
        raise DataError(f"its config lacks {', '.join(missing)}")
    config = cell.config
    not_none = () if config["method"] in UNTRAINED else ("base", "base_kind", "learning_rate")
    for key, kinds in _NEEDED.items():
        if not isinstance(config[key], kinds) or (config[key] is None and key in not_none):
            raise DataError(f"its config says {key} is {config[key]!r}")
    if not cell.places and cell.config["evaluate_on"] != "validation":
        raise DataError("no row holds the scores of its images")
    return cell


def _matrix_sections(
    cells: Sequence[Finished], found: Found, matrix: Matrix, asked: Path, paper: Source | None
) -> list[Section]:
    own = [cell for cell in cells if belongs(cell.config, matrix)]
    published = paper_cells(asked, matrix.codec)
    beside = [paper] if paper and published else []
    sections = []
    methods = {cell.config["method"] for cell in own if cell.config["protocol"] in ("ii", "iv")}
    for prompts in [name for name in _PROMPT_SETS if name in methods][:2]:
        rows = choose_rows(cells, matrix, prompts)
        if len([row for row in rows.values() if row]) < 2:
            continue
        whole = table_3(rows, matrix, paper=published, prompts=prompts)
        differences = summary(rows, matrix.codec, paper=published)
        by_row = {row: [found[cell.id] for cell in made] for row, made in rows.items()}
        lines = [_row(line, [*by_row[line[1]], *beside]) for line in whole.rows]
        named = [
            _row(line, [s for row in line[0].split(" - ") for s in by_row[row]] + beside)
            for line in differences.rows
        ]
        title = f"Table 3 with prompts {prompts}: {matrix.text}"
        sections.append(
            _section(title, [_table(whole, lines), _table(differences, named)], [*lines, *named])
        )
    return sections


def _size_sections(
    cells: Sequence[Finished], found: Found, matrix: Matrix, off: Source | None
) -> list[Section]:
    sections = []
    own = [cell for cell in cells if belongs(cell.config, matrix)]
    by_method = {
        cell.config["method"]: [
            found[c.id]
            for c in own
            if c.config["method"] in (cell.config["method"], "base")
            and c.config["base_kind"] == "prompted"
        ]
        for cell in own
    }
    tuned = points(cells, matrix)
    if tuned:
        whole = pareto(tuned, matrix)
        marks = [
            Mark(
                point.num_bytes,
                point.gain.overall.mean,
                f"{point.method}: {point.gain.overall} dB, {point.num_bytes:,} bytes, "
                f"{point.gain.seeds.count} seeds{_part_of(point)}. "
                f"{by_method[point.method][0].hover}",
                point.gain.overall.low,
                point.gain.overall.high,
                point.method,
            )
            for point in tuned
        ]
        front = {point.method for point in tuned if point.on_front}
        series = [
            Series("nothing smaller gains as much", [m for m in marks if m.label in front], True),
            Series("others", [m for m in marks if m.label not in front]),
        ]
        plot = xy_plot(series, x="bytes of the file", y="gain over the base, dB", log_x=True)
        lines = [_row(line, by_method[line[0]]) for line in whole.rows]
        paired = against(cells, matrix)
        others = [_row(line, [*by_method[line[0]], *by_method[PROMPTS]]) for line in paired.rows]
        tables = [_table(whole, lines), *([_table(paired, others)] if others else [])]
        sections.append(_section(whole.title, [plot, *tables], [*lines, *others]))
    lost = forgetting(cells, matrix, switched_off=_switched_off(off) if off else None)
    if lost.rows:
        beside = [off] if off else []
        lines = [_row(line, [*by_method[line[0]], *beside]) for line in lost.rows]
        sections.append(_section(lost.title, [_table(lost, lines)], lines))
    return sections


def _part_of(point: Point) -> str:
    """What a mark says of a gain that is not over the same places as the others."""
    if point.complete:
        return ""
    return f", at {len(point.gain.images)} of {point.everywhere} places"


def _switched_off(source: Source) -> dict[str, str]:
    """By method, the largest change of a value that is left with the adapter switched off."""
    return {
        method: "0, bit for bit" if not about["different"] else f"{about['largest']:.2g}"
        for method, about in source.scores["methods"].items()
    }


def _tuned(
    cells: Iterable[Finished], found: Found, codec: str, base: str, method: str
) -> list[Source]:
    return [
        found[cell.id]
        for cell in cells
        if (cell.config["codec"], cell.config["base"], cell.config["method"])
        == (codec, base, method)
        and cell.config["evaluate_on"] == "validation"
    ]


def _row(line: Sequence[str], sources: Sequence[Source]) -> Row:
    return Row(line, sources)


def _table(made: Table, rows: Sequence[Row]) -> Html:
    return table(made.header, rows, made.note)


def _section(title: str, parts: Sequence[Html], rows: Sequence[Row]) -> Section:
    used = dict.fromkeys(source for row in rows for source in row.sources)
    return Section(title, parts, list(used), "Experiments")
