"""Fill the pages of results, tables and plots, from the files under results/.

    python docs/make_results.py          # writes
    python docs/make_results.py --check  # fails if a table or a plot is stale

What is not measured yet is a dash, or a line that says so.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pages import fill, finish
from repeats import made_again, several_seeds

from ucip_adapt.experiments.bases import (
    base_records,
    curves,
    gains_by_slot,
    mean_of_slots,
    stages,
    tried,
    tried_records,
)
from ucip_adapt.experiments.charts import Mark, draw_lines, draw_marks
from ucip_adapt.experiments.compare import (
    Difference,
    Finished,
    Place,
    difference,
    read_cells,
)
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.plan import current, planned_config
from ucip_adapt.experiments.sweeps import (
    against,
    forgetting,
    pareto,
    points,
    rate_sweep,
    rates_in_columns,
    rates_over_codecs,
)
from ucip_adapt.experiments.tables import (
    COMPARISONS,
    HOLE,
    Matrix,
    Table,
    belongs,
    by_place,
    choose_rows,
    matrices,
    paper_cells,
    paper_difference,
    places_of,
    row_of,
    summary,
    table_3,
)
from ucip_adapt.training.results import read_results

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
EXPERIMENTS = ROOT / "recipes" / "experiments.toml"
PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("results", "bases", "table_3", "tuning"))
PLOTS = ROOT / "docs"
PROMPTS = ("dpm", "dpm+offset")
TABLE_3 = ("webp", "tiny-elic")
SHORT = (*TABLE_3, "gif")
PAPER = {"webp": "webp", "tiny-elic": "elic"}  # what the paper has in a codec's place
NOTHING = "No cell is finished yet."


# -- the ledger ------------------------------------------------------------------------------------


@functools.cache
def ledger() -> Ledger:
    """The experiments and the folder of finished cells."""
    return Ledger(read_experiments(EXPERIMENTS), RESULTS / "cells")


@functools.cache
def cells() -> tuple[Finished, ...]:
    """Finished cells that still count."""
    return tuple(current(read_cells(RESULTS / "cells"), ledger())[0])


@functools.cache
def planned() -> tuple[dict[str, Any], ...]:
    """Every cell that the experiments ask for."""
    return tuple(planned_config(cell) for cell in ledger().cells().values())


def progress() -> str:
    """Cells by group, finished and asked for."""
    done = {cell.id for cell in cells()}
    known = ledger().cells()
    lines = [
        (
            name,
            group.text,
            f"{sum(cell.id in done for cell in group.cells)} of {len(group.cells)}",
        )
        for name, group in ledger().groups.items()
    ]
    whole = f"{len(done & known.keys())} of {len(known)}"
    lines.append(("**all**", "each cell once", f"**{whole}**"))
    text = Table("", ("group", "what for", "cells"), tuple(lines)).markdown()
    stale = current(read_cells(RESULTS / "cells"), ledger())[1]
    if stale:
        text += f"\n\nMade on another base or at another rate, and left out: {', '.join(stale)}."
    return text


def shown(table: Table) -> str:
    """Title, table and note."""
    return f"**{table.title}**\n\n{table.markdown()}\n\n{table.note}"


def folded(table: Table) -> str:
    """A table that a reader opens."""
    head = f"<details><summary>{table.title}</summary>"
    return "\n\n".join([head, table.markdown(), table.note, "</details>"])


def tables_of(codec: str) -> str:
    """Table 3 and its summary for a codec, with each set of prompts and kind of training.

    Tables of which nothing is finished yet are named at the end.
    """
    paper = paper_cells(RESULTS / "paper.json", codec)
    texts, missing = [], []
    for matrix in matrices(planned(), codec):
        for prompts in PROMPTS:
            asked = [c for c in planned() if belongs(c, matrix) and row_of(c, prompts)]
            if not {"ii", "iii"} <= {row_of(config, prompts) for config in asked}:
                continue  # a sweep, not Table 3
            rows = choose_rows(cells(), matrix, prompts)
            main = table_3(rows, matrix, paper=paper, planned=asked, prompts=prompts)
            trained = {row: runs for row, runs in rows.items() if row != "i"}
            if not any(trained.values()):
                missing.append(f"Not begun, with `{prompts}` in rows ii and iv: {main.title}.")
                continue
            texts.append(f"## {codec}, {matrix.evaluate_on} sets, rows ii and iv train `{prompts}`")
            texts += [shown(main), shown(summary(rows, codec, paper=paper))]
            texts.append(folded(by_place(rows, codec)))
    return "\n\n".join(texts + missing)


def in_short() -> str:
    """The summaries of Table 3, one line for each codec and set of prompts, the paper's below it.

    Of a codec's tables the one with the largest sets is taken.
    """
    header = ("codec", "sets", "seeds", "rows ii, iv", *(" - ".join(pair) for pair in COMPARISONS))
    lines: list[tuple[str, ...]] = []
    for codec in SHORT:
        places: list[Place] = []
        full_first = matrices(planned(), codec)
        for matrix, prompts in itertools.product(full_first[:1], PROMPTS):
            rows = choose_rows(cells(), matrix, prompts)
            places = places_of(rows, codec) or places
            found = [difference(rows[a], rows[b], places) for a, b in COMPARISONS]
            seeds = sorted({each.seeds.count for each in found if each})
            counts = " or ".join(map(str, seeds))
            if found[0]:
                ours = map(short_difference, found)
                lines.append((codec, matrix.evaluate_on, counts, f"`{prompts}`", *ours))
        paper = paper_cells(RESULTS / "paper.json", codec)
        if paper and places:
            theirs = (paper_difference(paper, *pair, places) for pair in COMPARISONS)
            texts = (f"{mean}; {count}" if mean != HOLE else HOLE for mean, count in theirs)
            lines.append((f"*{PAPER[codec]} in the paper*", "full", HOLE, "prompts", *texts))
    if not lines:
        return NOTHING
    note = (
        "Mean difference in dB over the cells of the table (set and quality) with its 95 % "
        "interval over images; then in how many of those cells the first is at least the second."
    )
    return "\n\n".join([Table("", header, tuple(lines)).markdown(), note])


def short_difference(found: Difference | None) -> str:
    """Mean, interval, and the count of places where the first is at least the second."""
    if found is None:
        return HOLE
    return f"{found.overall}; {found.at_least} of {len(found.places)}"


def table3_webp() -> str:
    """WebP."""
    return tables_of("webp")


def table3_tiny_elic() -> str:
    """The learned codec that stands for ELIC."""
    return tables_of("tiny-elic")


def table3_gif() -> str:
    """GIF, which the paper does not have: what nothing of the base's suite resembles."""
    return tables_of("gif")


def rates() -> str:
    """Rates tried, by codec."""
    codecs = dict.fromkeys(c["codec"] for c in planned() if c["evaluate_on"] == "validation")
    found = [rate_sweep(cells(), codec) for codec in codecs]
    texts = [shown(table) if table.rows else f"**{table.title}**\n\n{NOTHING}" for table in found]
    return "\n\n".join(texts)


def default_rates() -> str:
    """Rates by their mean gain over the codecs: the best is the recipes' default."""
    found = {
        method: means
        for method, means in rates_over_codecs(cells()).items()
        if "@" not in method and ":" not in method and method != "control"
    }
    columns = sorted({rate for means in found.values() for rate in means})
    lines = [
        (method, *rates_in_columns(means, columns, digits=4)) for method, means in found.items()
    ]
    header = ("method", *(f"{rate:g}" for rate in columns))
    return Table("", header, tuple(lines)).markdown()


# -- what is worth tuning --------------------------------------------------------------------------


def sweep() -> Matrix | None:
    """The matrix of the Pareto table: WebP on the short sets, at the steps that have most cells."""
    found = [m for m in matrices(planned(), "webp") if m.evaluate_on == "short"]
    return max(found, key=lambda matrix: len(points(cells(), matrix)), default=None)


def count_of(matrix: Matrix) -> str:
    """Finished and asked for, of the tuned cells of a matrix and its base."""
    asked = {c["cell"] for c in planned() if belongs(c, matrix) and c["base_kind"] == "prompted"}
    done = {cell.id for cell in cells()}
    return f"{len(asked & done)} of {len(asked)} cells"


def gain_over_size() -> str:
    """The Pareto table."""
    matrix = sweep()
    found = points(cells(), matrix) if matrix else []
    if matrix is None or not found:
        return NOTHING if matrix else "The experiments ask for none."
    text = shown(pareto(found, matrix, count_of(matrix)))
    text += beside_prompts(matrix)
    return f"![Gain over the base by size of the file](results_pareto.svg)\n\n{text}"


def beside_prompts(matrix: Matrix) -> str:
    """Every way of tuning less row iv, where there are several."""
    table = against(cells(), matrix)
    return f"\n\n{shown(table)}" if len(table.rows) > 1 else ""


def forgotten() -> str:
    """What tuning on WebP does to other codecs."""
    matrix = sweep()
    table = forgetting(cells(), matrix, switched_off=switched_off()) if matrix else None
    return shown(table) if table and table.rows else NOTHING


def switched_off() -> dict[str, str]:
    """By method, the largest change with the adapter switched off, as it was measured."""
    path = RESULTS / "switched_off.json"
    if not path.is_file():
        return {}
    found = read_results(path)["scores"]["methods"]
    return {
        method: "0, bit for bit" if not about["different"] else f"{about['largest']:.2g}"
        for method, about in found.items()
    }


def other_codecs() -> str:
    """Gain of prompt adapters on codecs that have no Table 3 here."""
    texts = []
    for codec in dict.fromkeys(c["codec"] for c in planned()):
        for matrix in matrices(planned(), codec) if codec not in TABLE_3 else ():
            found = points(cells(), matrix)
            table = pareto(found, matrix, count_of(matrix))
            more = beside_prompts(matrix)
            texts.append(shown(table) + more if found else f"**{table.title}**\n\n{NOTHING}")
    return "\n\n".join(texts) or "The experiments ask for none."


# -- the bases -------------------------------------------------------------------------------------


@functools.cache
def base_runs() -> dict[str, dict[str, Any]]:
    """Trainings of the bases that the experiments start from."""
    return base_records(dict.fromkeys(cell.base for cell in ledger().cells().values() if cell.base))


def base_stages() -> str:
    """How the bases were trained, stage by stage."""
    return stages(base_runs()).markdown() if base_runs() else "No base is here."


def base_tried() -> str:
    """Trainings beside the bases' own, and those: what each gained on validation images."""
    runs = {**tried_records(RESULTS), **base_runs(), **base_records(["ucip-tiny-v3-long-stage"])}
    return tried(runs).markdown() if runs else "None is kept."


def base_curves() -> str:
    """The plot of the learning curves."""
    if not curves(base_runs()):
        return "No curve is kept."
    return "![Gain over bicubic by training steps](results_curves.svg)"


def base_suite() -> str:
    """The base over bicubic by slot of the suite, beside its twin, whole and as configured."""
    path = RESULTS / "base_suite.json"
    if not path.is_file():
        return "Not measured yet."
    record = read_results(path)
    table = gains_by_slot(record, RESULTS / "paper.json")
    hours = record["seconds"]["evaluation"] / 3600
    hardware = f"{record['environment']['cpu']}, {record['environment']['cpu_cores']} cores"
    made = f"Made by `{record['command']}` in {hours:.1f} h ({hardware})."
    return "\n\n".join([table.markdown(), f"{table.note} {made}"])


def more_images() -> str:
    """Two last stages alike but for their images, by slot: one over the other."""
    path = RESULTS / "more_images.json"
    if not path.is_file():
        return "Not measured yet."
    record = read_results(path)
    names = {"base": "the stage on CID22 alone", "more-images": "with BSDS500 added"}
    table = gains_by_slot(record, RESULTS / "paper.json", reference="base", names=names)
    before = read_results(RESULTS / "base_suite.json")
    further = mean_of_slots(record, "Set14") - mean_of_slots(before, "Set14")
    note = f"The stage on CID22 alone ends {further:+.3f} dB from the base that it started from."
    return "\n\n".join([table.markdown(), f"{table.note} {note} Made by `{record['command']}`."])


def longer_stage() -> str:
    """The base and a long stage after it over bicubic, by slot, and one over the other."""
    path = RESULTS / "longer_stage.json"
    if not path.is_file():
        return "Not measured yet."
    record, paper = read_results(path), RESULTS / "paper.json"
    names = {"base": "`ucip-tiny-v3`", "longer": "after the long stage"}
    table = gains_by_slot(record, paper, names=names)
    ahead = gains_by_slot(record, paper, reference="base", names=names).rows[-1][-1].strip("*")
    note = f"The mean of slots after the long stage less that of `ucip-tiny-v3`: {ahead} dB."
    return "\n\n".join([table.markdown(), f"{table.note} {note} Made by `{record['command']}`."])


# -- doing it again --------------------------------------------------------------------------------


def repeat() -> str:
    """For the rows of Table 3 with several seeds: a cell, its time, its number, the spread."""
    return several_seeds(cells(), planned(), TABLE_3)


def repeated() -> str:
    """Cells that were made once more, elsewhere."""
    return made_again(RESULTS / "repeated")


TABLES: dict[str, Callable[[], str]] = {
    "base_curves": base_curves,
    "base_stages": base_stages,
    "base_suite": base_suite,
    "base_tried": base_tried,
    "default_rates": default_rates,
    "forgotten": forgotten,
    "gain_over_size": gain_over_size,
    "in_short": in_short,
    "longer_stage": longer_stage,
    "more_images": more_images,
    "other_codecs": other_codecs,
    "progress": progress,
    "rates": rates,
    "repeat": repeat,
    "repeated": repeated,
    "table3_gif": table3_gif,
    "table3_tiny_elic": table3_tiny_elic,
    "table3_webp": table3_webp,
}


def plots() -> dict[str, str]:
    """Plots by file name, those that there is something to draw for."""
    drawn = {}
    matrix = sweep()
    found = points(cells(), matrix) if matrix else []
    if found:
        marks = [
            Mark(p.method, p.num_bytes, p.gain.overall.mean, p.gain.overall.low,
                 p.gain.overall.high, p.on_front)
            for p in found
        ]  # fmt: skip
        drawn["results_pareto.svg"] = draw_marks(
            marks,
            title=f"WebP: gain of what is tuned, {count_of(matrix) if matrix else ''}",
            x_label="bytes of the file that is passed on",
            y_label="gain over the base, dB (y-c4)",
        )
    if curves(base_runs()):
        drawn["results_curves.svg"] = draw_lines(
            curves(base_runs()),
            title="Learning curves of the bases: whole validation images",
            x_label="optimizer steps of the last stage",
            y_label="gain over bicubic, dB (y-c4)",
        )
    return drawn


def main(arguments: Sequence[str]) -> int:
    """Write the pages and their plots, or compare them."""
    drawn = {PLOTS / name: plot for name, plot in plots().items()}
    left = [path for path in PLOTS.glob("results_*.svg") if path not in drawn]
    if left and "--check" in arguments:
        names = ", ".join(path.name for path in left)
        sys.stderr.write(f"left over: {names}: run python docs/make_results.py\n")
        return 1
    for path in left:
        path.unlink()
    filled = {page: fill(page.read_text(encoding="utf-8"), TABLES) for page in PAGES}
    return finish({**filled, **drawn}, arguments, "python docs/make_results.py")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
