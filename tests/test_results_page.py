"""The pages of results hold what results/ says; with no cell, some or all of them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import synthetic_cells as made

from ucip_adapt.training.results import write_results

ROOT = Path(__file__).parents[1]
EXPERIMENTS = """
[defaults]
base = "net-v1"
codec = "webp"
[groups.rates]
text = "rates"
matrix = [
  { evaluate_on = "validation", method = "dpm", learning_rate = [1e-2, 3e-2] },
]
[groups.table3]
text = "rows"
learning_rate = 1e-2
seed = [0, 1]
matrix = [
  { method = ["base", "dpm", "everything", "control"] },
  { base = "net-noprompt-v1", method = ["dpm", "everything"] },
]
[groups.pareto]
text = "sizes"
evaluate_on = "short"
learning_rate = 1e-2
method = ["base", "dpm", "everything"]
[groups.more]
text = "others"
evaluate_on = "short"
learning_rate = 1e-2
matrix = [{ codec = "avif", method = ["base", "dpm"] }]
"""


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maker():
    """A fresh one: it remembers what it has read."""
    return load(ROOT / "docs" / "make_results.py")


@pytest.fixture
def elsewhere(tmp_path):
    """The maker on pages and results of its own; what it wrote comes as one text."""
    (tmp_path / "experiments.toml").write_text(EXPERIMENTS, "utf-8")
    (tmp_path / "results" / "cells").mkdir(parents=True)
    pages = []
    for source in load(ROOT / "docs" / "make_results.py").PAGES:
        text = source.read_text(encoding="utf-8")
        pages.append(tmp_path / source.name)
        empty = re.sub(r"(<!-- table:\w+ -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
        pages[-1].write_text(empty, "utf-8")

    def go(*arguments):
        maker = load(ROOT / "docs" / "make_results.py")
        maker.RESULTS, maker.EXPERIMENTS = tmp_path / "results", tmp_path / "experiments.toml"
        maker.PAGES, maker.PLOTS = pages, tmp_path
        code = maker.main(list(arguments))
        return code, "".join(page.read_text(encoding="utf-8") for page in pages)

    go.folder = tmp_path
    return go


def finish(folder, *records):
    for record in records:
        write_results(folder / "results" / "cells" / f"{record['config']['cell']}.json", record)


def spec(codec, method, evaluate_on, seed="", base="net-v1"):
    rate = "" if method == "base" else "_rate-0.01"
    seed = "" if method == "base" else f"_seed{seed}"
    return {"cell": f"{base}_{codec}_{method}_{evaluate_on}{rate}{seed}",
            "codec": codec, "evaluate_on": evaluate_on}  # fmt: skip


def test_page_is_fresh(maker, capsys):
    page = "".join(page.read_text(encoding="utf-8") for page in maker.PAGES)
    assert sorted(re.findall(r"<!-- table:(\w+) -->", page)) == sorted(maker.TABLES)
    assert maker.main(["--check"]) == 0, capsys.readouterr().err
    shown = set(re.findall(r"\((results_\w+\.svg)\)", page))
    assert shown == set(maker.plots())


def test_no_cell_some_cells_and_a_stale_page(elsewhere):
    code, page = elsewhere()
    assert code == 0
    assert "| **all** | each cell once | **0 of 18** |" in page
    assert page.count("No cell is finished yet.") >= 4
    assert not list(elsewhere.folder.glob("*.svg"))
    finish(
        elsewhere.folder,
        made.cell("base", row="i", config=spec("webp", "base", "full")),
        made.cell(gain=0.2, config=spec("webp", "dpm", "full", 0)),
        made.cell(gain=0.3, seed=1, config=spec("webp", "dpm", "full", 1)),
        made.cell("base", row="i", config=spec("webp", "base", "short"), also={"jpeg": 0.0}),
        made.cell(gain=0.1, config=spec("webp", "dpm", "short", 0), also={"jpeg": -0.3}),
        made.cell("base", row="i", config=spec("avif", "base", "short")),
        made.cell(gain=0.4, config=spec("avif", "dpm", "short", 0)),
    )
    assert elsewhere("--check")[0] == 1
    _, page = elsewhere()
    assert "| **all** | each cell once | **7 of 18** |" in page
    assert "| table3 | rows | 3 of 11 |" in page
    assert re.search(r"\| Set5 \| iv \| 2 \| 27\.25 ±0\.05 / 0\.70. \| 28\.25 ±0\.05 / ", page)
    assert re.search(
        r"\| iv - i \| \+0\.250 \[\+0\.250, \+0\.250\] \| \+0\.200 to \+0\.300 \| 2 ", page
    )
    assert "| iv - iii | - | - |" in page
    assert re.search(r"\| dpm \| 400 \| 100 \| 0\.01 \| \+0\.100 \[", page)
    assert re.search(r"\| dpm \| \+0\.100 \[.*?\] \| -0\.300 \[", page)
    assert "avif, net-v1" in page
    assert "+0.400 [" in page
    assert "| 27.2" not in page.partition("# Table 3\n")[0]
    again = page.partition("<!-- table:repeat -->")[2].partition("<!-- end -->")[0]
    assert "No cell was made once more yet." in page
    short = page.partition("<!-- table:in_short -->")[2].partition("<!-- end -->")[0]
    assert (
        "| webp | full | 2 | `dpm` | +0.250 [+0.250, +0.250]; 4 of 4 | - | - | - | - | - |" in short
    )
    assert "tiny-elic" not in short
    assert "| `net-v1_webp_dpm_full_rate-0.01_seed0` | 60 + 30, made up, 2 cores |" in again
    assert "30.200" not in again
    mean = (25 + 2 + 0.5 + 25 + 6.5 + 0.5) / 2
    assert f"| {mean + 0.2:.3f} | {mean + 0.2:.3f} to {mean + 0.3:.3f} | 2 |" in again
    assert elsewhere("--check")[0] == 0
    plot = elsewhere.folder / "results_pareto.svg"
    drawn = plot.read_text(encoding="utf-8")
    plot.write_text(drawn.replace("dpm", "dmp"), "utf-8")
    assert elsewhere("--check")[0] == 1
    elsewhere()
    assert plot.read_text(encoding="utf-8") == drawn
    table = elsewhere.folder / "table_3.md"
    fresh = table.read_text(encoding="utf-8")
    table.write_text(fresh.replace("+0.250 [", "+0.260 ["), "utf-8")
    assert elsewhere("--check")[0] == 1
    assert elsewhere()[1] == page
    for path in (elsewhere.folder / "results" / "cells").iterdir():
        path.unlink()
    assert elsewhere("--check")[0] == 1
    elsewhere()
    assert not plot.exists()


def test_base_over_bicubic(elsewhere):
    slots = [
        {"name": "jpeg", "codec": "jpeg", "qualities": [10, 20]},
        {"name": "hevc", "codec": "hevc-x265", "qualities": [47]},
    ]
    gains = {"bicubic": 0.0, "base whole": 0.4, "base": 0.5, "noprompt": 0.3}
    rows = []
    for method, gain in gains.items():
        rows += made.rows_of(method, gain, codec="jpeg", qualities=(10, 20))
        if method != "noprompt":
            rows += made.rows_of(method, 2 * gain, codec="hevc-x265", qualities=(47,))
    for row in rows:
        if row["method"] == "base whole":
            row |= {"names": [], "psnr_db_images": []}
    write_results(
        elsewhere.folder / "results" / "base_suite.json",
        {
            "kind": "evaluate",
            "command": "python recipes/evaluate.py --suite s",
            "environment": {"cpu": "made up", "cpu_cores": 2},
            "seconds": {"evaluation": 3600.0},
            "parameters": {"slots": slots},
            "scores": {"rows": rows},
        },
    )
    _, page = elsewhere()
    table = page.partition("<!-- table:base_suite -->")[2].partition("<!-- end -->")[0]
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line
    ]
    assert lines[0][3:] == ["base, whole image", "base, as configured", "noprompt", "paper"]
    assert lines[2][3:] == ["+0.400", "+0.500 [+0.500, +0.500]", "+0.300 [+0.300, +0.300]", "-"]
    assert lines[3][3:] == ["+0.800", "+1.000 [+1.000, +1.000]", "-", "-"]
    # slots count alike: (0.5 + 1.0) / 2; the twin lacks a slot
    assert lines[4][3:] == ["**+0.600**", "**+0.750 [+0.750, +0.750]**", "-", "-"]
    assert "in 1.0 h (made up, 2 cores)" in table


def test_a_cell_that_was_made_again(elsewhere):
    record = {
        "kind": "repeat",
        "config": {"cell": "net-v1_webp"},
        "environment": {"cpu": "another", "cpu_cores": 4},
        "seconds": {"training": 20.0, "evaluation": 10.0},
        "scores": {
            "finished": {
                "psnr_db": 25.1,
                "seconds": {"training": 60.0, "evaluation": 30.0},
                "environment": {"cpu": "made up", "cpu_cores": 2},
            },
            "again": {"psnr_db": 25.1012},
            "largest_difference_db": 0.0345,
            "same_weights": False,
            "seeds": {"count": 2, "low_db": 25.1, "high_db": 25.103},
        },
    }
    write_results(elsewhere.folder / "results" / "repeated" / "net.json", record)
    hardware = "60 + 30, made up, 2 cores | 20 + 10, another, 4 cores"
    assert f"| `net-v1_webp` | {hardware} | +0.0012 | 0.0345 | no | 0.0030 |" in elsewhere()[1]
