"""Table 3 and its summary from made-up cells: differences by hand, holes, ties, the paper."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
import synthetic_cells as made

from ucip_adapt.errors import DataError
from ucip_adapt.experiments.cells import METHODS, Cell, asked_qualities
from ucip_adapt.experiments.compare import Finished, Place, difference, read_cells
from ucip_adapt.experiments.plan import planned_config
from ucip_adapt.experiments.tables import (
    ROWS,
    PaperCell,
    by_place,
    choose_rows,
    matrices,
    paper_cells,
    summary,
    table_3,
)
from ucip_adapt.training.results import write_results

ROOT = Path(__file__).parents[2]
PLACES = [Place("webp", name, quality) for name in ("Set5", "Set14") for quality in (10, 20)]


def finished(*records):
    return [Finished.from_record(record) for record in records]


def tables(records, paper=None, planned=(), prompts="dpm"):
    cells = finished(*records)
    [matrix] = matrices([cell.config for cell in cells], "webp")
    rows = choose_rows(cells, matrix, prompts)
    main = table_3(rows, matrix, paper=paper or {}, planned=planned, prompts=prompts)
    return main, summary(rows, "webp", paper=paper or {})


def test_difference_is_that_of_a_loop():
    ours = finished(*(made.cell(seed=s, gain=0.3 + s / 100, noise=0.1) for s in (0, 1, 2)))
    other = finished(
        *(made.cell("everything", row="v", seed=s, gain=0.2, noise=0.03) for s in (1, 2, 7))
    )
    found = difference(ours, other, PLACES)
    assert found.seeds.count == 2, "only seeds that both have"
    by_seed = []
    for seed in (1, 2):
        a = next(c for c in ours if c.seed == seed).record["scores"]["rows"]
        b = next(c for c in other if c.seed == seed).record["scores"]["rows"]
        by_seed.append(fmean(x["psnr_db"] - y["psnr_db"] for x, y in zip(a, b, strict=True)))
    assert found.overall.mean == pytest.approx(fmean(by_seed), abs=1e-4)
    assert (found.seeds.low, found.seeds.high) == pytest.approx(tuple(by_seed), abs=1e-4)
    assert found.overall.low < found.overall.mean < found.overall.high
    assert found.overall.images == 19, "an image counts once, whatever number of qualities"


def test_cells_of_a_part_of_the_qualities_have_a_table_of_their_own():
    """Row iv of seed 0 at 10 alone is no other seed of it, whatever it was measured at."""
    part = {"cell": "net-v1_webp_dpm_q10_full_seed3", "qualities": [10]}
    records = [
        *made.table_of_cells(),
        made.cell(seed=3, gain=0.9, qualities=(10,), config=part),
        made.cell("base", row="i", qualities=(10,), config={"cell": "net-v1_webp_base_q10_full"}),
    ]
    cells = finished(*records)
    whole, own = sorted(
        matrices([cell.config for cell in cells], "webp"), key=lambda matrix: matrix.qualities
    )
    assert (whole.qualities, own.qualities) == ((), (10,))
    assert own.text.startswith("webp at 10 alone, net-v1, ")
    assert [cell.seed for cell in choose_rows(cells, whole, "dpm")["iv"]] == [0, 1, 2]
    rows = choose_rows(cells, own, "dpm")
    assert [cell.id for cell in rows["i"] + rows["iv"]] == [records[-1]["config"]["cell"],
                                                            part["cell"]]  # fmt: skip
    assert table_3(rows, own, paper={}, prompts="dpm").header[-1] == "webp 10"


def test_the_summary_says_over_how_many_cells_a_mean_is():
    """Row v was measured on Set5 alone; the paper's difference is then that of Set5 too."""
    records = [
        made.cell("base", row="i"),
        made.cell(gain=0.2),
        made.cell("everything", row="v", gain=0.1, sets={"Set5": 5}),
    ]
    paper = {
        (row, name, quality): PaperCell(26.0 + gain * (name == "Set5"), 0.75)
        for row, gain in (("i", 0.0), ("iv", 0.2))
        for name in ("Set5", "Set14")
        for quality in (10, 20)
    }
    note = "Mean over those of the 4 cells of the table (set and quality) that both rows have ("
    short = tables(records, paper)[1]
    assert short.note.startswith(note)
    lines = {line[0]: dict(zip(short.header, line, strict=True)) for line in short.rows}
    assert (lines["iv - i"]["at least"], lines["iv - v"]["at least"]) == ("4 of 4", "2 of 2")
    assert lines["iv - i"]["paper, dB"] == "+0.100"
    assert tables(records[:2], paper)[1].note.startswith("Mean over the 4 cells of the table (set")
    # Both on Set5 alone beside a base that has more.
    some = [records[0], made.cell(gain=0.2, sets={"Set5": 5})]
    [line] = [line for line in tables(some, paper)[1].rows if line[0] == "iv - i"]
    assert line[-2:] == ("+0.200", "2 of 2")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_qualities_asked_for_are_read_off_any_cell(name):
    for qualities in ((), (10,), (20, 10)):
        cell = Cell("webp", name, "net_q5-v1" if name != "bicubic" else None, qualities=qualities)
        assert asked_qualities(planned_config(cell)) == tuple(sorted(qualities)), cell.id


def test_interval_of_a_difference_is_paired():
    """Images are 1 dB apart from one another; the methods differ by 0.02 on each."""
    found = difference(finished(made.cell(gain=0.02)), finished(made.cell("base", row="i")), PLACES)
    assert (found.overall.low, found.overall.high) == pytest.approx((0.02, 0.02), abs=1e-6)
    assert found.count("higher") == len(PLACES)


def test_images_must_be_the_same():
    other = made.cell("base", row="i")
    other["scores"]["rows"][0]["names"].reverse()
    with pytest.raises(DataError, match="not measured on the same images"):
        difference(finished(made.cell(gain=0.1)), finished(other), PLACES)


def test_table_and_summary():
    records = made.table_of_cells()
    for k, record in enumerate(r for r in records if r["config"]["protocol"] == "iii"):
        # iii: 0.02 under iv, but at one place exactly iv, image by image
        iv = [r for r in records if r["config"]["protocol"] == "iv"][k]
        record["scores"]["rows"][0] |= {
            key: iv["scores"]["rows"][0][key] for key in ("psnr_db_images", "psnr_db")
        }
    paper = {
        (row, name, quality): PaperCell(26.0 + 0.01 * k, 0.75)
        for k, row in enumerate(("i", "ii", "iv", "iii"))
        for name in ("Set5", "Set14")
        for quality in (10, 20)
    }
    table, short = tables(records, paper)
    assert table.header == ("set", "row", "seeds", "webp 10", "paper", "webp 20", "paper")
    assert [line[1] for line in table.rows] == [*ROWS, *ROWS]
    # Set5 at 10: 25 + mean of 0 to 4; three seeds 0.001 apart: half the range is 0.001
    assert table.rows[0] == ("Set5", "i", "-", "27.00 / 0.700", "26.00 / 0.750",
                             "28.00 / 0.700", "26.00 / 0.750")  # fmt: skip
    assert table.rows[3][2:5] == ("3", "27.22 ±0.00 / 0.702", "26.02 / 0.750")
    assert table.rows[4][4] == "-", "the paper has no row v"
    assert "16 of 16 cells" in table.title
    lines = {line[0]: dict(zip(short.header, line, strict=True)) for line in short.rows}
    assert lines["iv - i"]["dB [95 %]"].startswith("+0.221 [")
    assert lines["iv - i"]["by seed"] == "+0.220 to +0.222"
    assert lines["iv - i"]["higher"] == lines["iv - i"]["at least"][0] == "4"
    assert lines["iv - iii"]["dB [95 %]"].startswith("+0.015 [")
    assert (lines["iv - iii"]["at least"], lines["iv - iii"]["tie"]) == ("4 of 4", "1")
    assert lines["iv - v"]["lower"] == "4"
    assert lines["iv - v"]["at least"] == "0 of 4"
    assert (lines["iv - i"]["paper, dB"], lines["iv - i"]["paper, at least"]) == (
        "+0.020",
        "4 of 4",
    )
    assert (lines["iv - iii"]["paper, dB"], lines["iv - iii"]["paper, at least"]) == (
        "-0.010",
        "0 of 4",
    )
    assert lines["v - control"]["dB [95 %]"].startswith("+0.230 [")
    cells = finished(*records)
    rows = choose_rows(cells, matrices([cell.config for cell in cells], "webp")[0], "dpm")
    detail = by_place(rows, "webp")
    assert [line[:2] for line in detail.rows] == [(p.dataset, str(p.quality)) for p in PLACES]
    against_iii = [dict(zip(detail.header, line, strict=True))["iv - iii"] for line in detail.rows]
    assert against_iii[0] == "+0.000 [+0.000, +0.000] tie"
    assert all(text.startswith("+0.020 [") and "tie" not in text for text in against_iii[1:])
    for made_table in (table, short, detail):
        assert len({line.count("|") for line in made_table.markdown().splitlines()}) == 1


def test_holes_stay_holes():
    records = [r for r in made.table_of_cells(seeds=(0,)) if r["config"]["protocol"] != "iii"]
    del records[1]["scores"]["rows"][1]  # row ii was not measured on Set5 at 20
    wanted = {**records[-1]["config"], "cell": "missing", "method": "everything", "protocol": "iii"}
    elsewhere = {**wanted, "cell": "other", "max_train_steps": 999}
    table, short = tables(records, planned=[wanted, elsewhere])
    assert "5 of 6 cells" in table.title
    assert [line[3:] for line in table.rows if line[1] == "iii"] == [("-", "-"), ("-", "-")]
    assert [line[4] for line in table.rows if line[:2] == ("Set5", "ii")] == ["-"]
    lines = {line[0]: line[1:] for line in short.rows}
    assert set(lines["iv - iii"]) == {"-"}
    assert lines["iv - ii"][4] == "3 of 3"
    assert lines["iv - i"][1] == "-", "one seed has no spread"


def test_rows_take_the_rate_that_validation_chose():
    good = made.cell(gain=0.1, config={"learning_rate": 0.03})
    good["scores"]["validation_gain_db"] = 0.5
    lucky = made.cell(gain=0.9, config={"learning_rate": 0.01})
    lucky["scores"]["validation_gain_db"] = 0.4
    other = made.cell(gain=0.4, config={"max_train_steps": 900})
    cells = finished(lucky, good, other, made.cell("base", row="i"))
    long, short = matrices([cell.config for cell in cells], "webp")
    assert (long.max_train_steps, short.max_train_steps) == (900, 200)
    rows = choose_rows(cells, short, "dpm")
    assert [cell.config["learning_rate"] for cell in rows["iv"]] == [0.03]
    assert [cell.id for cell in rows["i"]] == [cells[-1].id]


def test_no_cells_at_all(tmp_path):
    assert read_cells(tmp_path / "none") == []
    assert matrices([], "webp") == []
    assert difference([], finished(made.cell("base", row="i")), PLACES) is None


def test_cells_are_read_from_their_files(tmp_path):
    record = made.cell(gain=0.1)
    write_results(tmp_path / "one.json", record)
    [cell] = read_cells(tmp_path)
    assert cell.id == record["config"]["cell"]
    write_results(tmp_path / "two.json", {"kind": "evaluate"})
    with pytest.raises(DataError, match="kind evaluate is no cell"):
        read_cells(tmp_path)


@pytest.mark.parametrize(
    ("codec", "wanted"),
    [
        ("webp", {("i", 16): 0.297, ("ii", 16): 0.282, ("iii", 13): 0.024}),
        ("elic", {("i", 15): 0.121, ("ii", None): 0.043, ("iii", 14): 0.021}),
    ],
)
def test_the_papers_summary(codec, wanted):
    """What the project says of the paper's 16 cells without Manga109."""
    paper = paper_cells(ROOT / "results" / "paper.json", codec)
    assert len(paper) == 80
    sets = {"Set5": 1, "Set14": 1, "BSD100": 1, "Urban100": 1}
    qualities = (10, 20, 30, 40) if codec == "webp" else (1, 2, 3, 4)
    base = made.cell("base", row="i", sets=sets, qualities=qualities, config={"codec": codec})
    rows = {row: [] for row in ROWS} | {"i": finished(base)}
    short = summary(rows, codec, paper=paper)
    lines = {line[0]: dict(zip(short.header, line, strict=True)) for line in short.rows}
    for (row, count), gain in wanted.items():
        line = lines[f"iv - {row}"]
        assert float(line["paper, dB"]) == pytest.approx(gain, abs=6e-4)
        if row == "iii":
            assert line["paper, at least"] == f"{count} of 16"


def published(data_root, name):
    """Rows of a table of the paper, as it lies beside the data."""
    source = data_root.parent / "paper" / name
    if not source.is_file():
        pytest.skip(f"no paper/{name} beside UCIP_DATA to compare with")
    with source.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_paper_json_is_the_table(data_root):
    rows = published(data_root, "table_3.csv")
    for codec, step in (("webp", 10), ("elic", 1)):
        own = {
            (r["protocol"], r["dataset"], step * int(r["quality"][1:])): PaperCell(
                float(r["psnr_db"]), float(r["ssim"])
            )
            for r in rows
            if r["codec"] == codec
        }
        assert paper_cells(ROOT / "results" / "paper.json", codec) == own


def test_the_networks_of_table_1_are_those_of_the_table(data_root):
    rows = published(data_root, "tables_1_2.csv")
    own = {
        (r["dataset"], r["codec"], int(r["quality"])): (float(r["psnr_db"]), float(r["ssim"]))
        for r in rows
        if (r["table"], r["method"]) == ("1", "UCIP")
        and r["dataset"] in ("Set5", "Set14", "BSD100")
    }
    kept = json.loads((ROOT / "results" / "paper.json").read_text())["table_1_ucip"]
    assert len(kept) == 36
    assert {
        (r["dataset"], r["codec"], r["quality"]): (r["psnr_db"], r["ssim"]) for r in kept
    } == own


def test_a_mean_over_cells_weighs_a_set_by_its_qualities():
    """Two qualities of one set and one of another: three cells, each a third."""
    places = [Place("webp", "Set5", 10), Place("webp", "Set5", 20), Place("webp", "Set14", 10)]
    gain = {"Set5": 0.3, "Set14": 0.9}

    def finished(method, gains):
        record = made.cell(method, row="iv" if gains else "i")
        for row in record["scores"]["rows"]:
            more = gains.get(row["dataset"], 0.0)
            row["psnr_db_images"] = [value + more for value in row["psnr_db_images"]]
        return Finished.from_record(record)

    found = difference([finished("dpm", gain)], [finished("base", {})], places)
    assert found.overall.mean == pytest.approx((0.3 + 0.3 + 0.9) / 3, abs=1e-6)
    assert found.seeds.mean == pytest.approx(found.overall.mean, abs=1e-6)
