"""compare_protocols.py: what it starts and prints, for codecs in the experiments and others."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import fmean

import pytest
import synthetic_cells as made

from ucip_adapt.codecs import all_codecs
from ucip_adapt.config import run_recipe
from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.experiments.groups import read_groups
from ucip_adapt.experiments.ledger import facts_of_base
from ucip_adapt.experiments.plan import borrowed_rates, table_cells, with_trials
from ucip_adapt.experiments.runner import Report
from ucip_adapt.training.results import write_results

FEW_COLOURS = Path(__file__).resolve().parents[2] / "docs" / "examples" / "few_colours.py"
EXPERIMENTS = """
[defaults]
base = "net-v1"
[groups.rates]
codec = "webp"
evaluate_on = "validation"
matrix = [
  { method = "dpm", learning_rate = [1e-2, 3e-2] },
  { method = "dpm", base = "net-noprompt-v1", learning_rate = 1e-2 },
  { method = "everything", base = ["net-v1", "net-noprompt-v1"], learning_rate = 1e-3 },
]
[groups.table3]
codec = "webp"
matrix = [
  { method = "base" },
  { method = ["dpm", "everything"], base = ["net-v1", "net-noprompt-v1"], seed = [0, 1, 2] },
  { method = "control", learning_rate = 1e-3, seed = [0, 1, 2] },
  { method = "lora", learning_rate = 1e-3 },
]
[groups.short]
codec = "webp"
evaluate_on = "short"
matrix = [{ method = "base" }, { method = "dpm" }]
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "experiments.toml").write_text(EXPERIMENTS, "utf-8")
    return tmp_path


@pytest.fixture
def compare(recipes, place, capsys):
    """The recipe with its folders in ``tmp_path``: exit code, lines on stdout, text on stderr."""

    def go(*flags):
        module = recipes("compare_protocols")
        codes = []
        given = ["--experiments", place / "experiments.toml", "--results_dir", place / "results"]
        code = run_recipe(
            lambda cfg: codes.append(module.main(cfg)),
            module.Options,
            description=module.__doc__,
            argv=[str(word) for word in (*given, "--prompts", "dpm", *flags)],
        )
        out = capsys.readouterr()
        return code or sum(codes), out.out.splitlines(), out.err

    return go


@pytest.fixture
def started(recipes, monkeypatch):
    """What would have been run: a runner that only notes it."""
    calls, commands = [], {}

    class Noted:
        made_by = commands
        failed: dict[str, str] = {}  # noqa: RUF012

        def __init__(self, ledger, recipes, folder, *, data, jobs, command, say):
            self.ledger, self.commands = ledger, command

        def run(self, *, budget_seconds):
            calls.append((budget_seconds, self.ledger.queue()))
            commands.update({cell.id: self.commands(cell) for cell in self.ledger.queue()})
            return Report(failed=self.failed)

    monkeypatch.setattr(recipes("compare_protocols"), "Runner", Noted)
    return calls


def finish(folder, records):
    for record in records:
        write_results(folder / "cells" / f"{record['config']['cell']}.json", record)


def test_prints_what_is_finished_and_starts_nothing(compare, place, started):
    records = made.table_of_cells(seeds=(0, 1))
    (place / "results" / "cells").mkdir(parents=True)
    code, lines, _ = compare("--print_only")
    assert code == 0
    assert "; 0 of 16 cells" in lines[1]
    finish(place / "results", records)
    code, lines, _ = compare("--print_only")
    assert (code, started) == (0, [])
    assert "; 11 of 27 cells" in lines[1], "made-up cells have names of their own: 11 + 16"
    row = next(line.split("  ") for line in lines if line.startswith("Set5   iv"))
    assert "27.22 ±0.00 / 0.702" in row
    assert any(line.startswith("iv - i ") and "+0.22" in line for line in lines)


def test_prints_tables_on_other_sets_too(compare, place, started):
    def titles(lines):
        return [line for line in lines if line.startswith("Table 3")]

    (place / "results" / "cells").mkdir(parents=True)
    _, lines, _ = compare("--print_only")
    assert ["full sets" in title for title in titles(lines)] == [True]
    finish(place / "results", made.table_of_cells(seeds=(0,)))
    for path in (place / "results" / "cells").iterdir():
        record = json.loads(path.read_text(encoding="utf-8"))
        record["config"]["evaluate_on"] = "short"
        path.write_text(json.dumps(record), encoding="utf-8")
    code, lines, _ = compare("--print_only")
    assert (code, started) == (0, [])
    assert ["short sets" in title for title in titles(lines)] == [False, True]
    assert any(line.startswith("Set5   iv") and "27.2" in line for line in lines)


def test_starts_the_table_and_its_rates(compare, started, place):
    code, lines, _ = compare("--budget", "60m", "--seeds", "2")
    [(budget, queue)] = started
    assert (code, budget) == (0, 3600.0)
    names = [cell.id for cell in queue]
    assert len(names) == len(set(names)) == 5 + 11
    assert all(cell.trial for cell in queue[:5]), "rates come first"
    assert [cell.seed for cell in queue[5:]] == sorted(cell.seed for cell in queue[5:])
    assert not any("lora" in name or "short" in name for name in names)
    assert any(line.startswith("waiting   base net-v1 is not here") for line in lines)


def test_a_failed_cell_shows_in_the_exit_code(compare, started, recipes):
    recipes("compare_protocols").Runner.failed = {"one": "out of memory"}
    code, lines, _ = compare()
    assert code == 3
    assert "failed    one: out of memory" in lines


def test_another_codec_gets_the_same_matrix():
    groups = read_groups(EXPERIMENTS, "here")
    webp = table_cells(groups, "webp", prompts="dpm", seeds=3)
    avif = table_cells(groups, "avif", prompts="dpm", seeds=3)
    assert len(webp) == len(avif) == 1 + 12 + 3
    assert {cell.codec for cell in avif} == {"avif"}
    for theirs, ours in zip(webp, avif, strict=True):
        assert (ours.method, ours.base, ours.seed) == (theirs.method, theirs.base, theirs.seed)
        best = ours.trained and ours.learning_rate is None
        assert ours.rate_codec == ("webp" if best else None)
    both = with_trials(avif, groups)
    assert {cell.codec for cell in both["rates"].cells} == {"webp"}
    assert len(both["rates"].cells) == 5


GIF_TRIALS = """
[groups.rates-gif]
codec = "gif"
evaluate_on = "validation"
matrix = [{ method = "everything", learning_rate = [1e-3, 3e-3], base = "net-v1" }]
"""


def test_rates_tried_for_a_codec_are_its_own():
    groups = read_groups(EXPERIMENTS + GIF_TRIALS, "here")
    cells = table_cells(groups, "gif", prompts="dpm", seeds=1)
    lent = {(cell.base, cell.method): cell.rate_codec for cell in cells if cell.trained}
    assert lent.pop(("net-v1", "everything")) is None
    assert lent.pop(("net-v1", "control")) is None  # has a rate of its own
    assert set(lent.values()) == {"webp"}
    trials = with_trials(cells, groups)["rates"].cells
    assert {c.codec for c in trials if (c.base, c.method) == ("net-v1", "everything")} == {"gif"}
    (line,) = borrowed_rates(cells)
    assert "net-v1 everything" not in line
    assert line.endswith(": at the rate that was best for webp; none was tried for gif")


def test_the_recipe_says_which_rates_are_borrowed(compare):
    _, lines, _ = compare("--codec", "avif", "--prompts", "dpm", "--print_only")
    (said,) = [line for line in lines if line.startswith("rate ")]
    assert said.endswith("at the rate that was best for webp; none was tried for avif")
    _, lines, _ = compare("--codec", "webp", "--prompts", "dpm", "--print_only")
    assert not [line for line in lines if line.startswith("rate ")]


def test_rows_and_seeds_that_a_codec_lacks_are_made():
    """One cell of a codec is not its table: AVIF's adapter came alone."""
    alone = '[groups.adapters]\ncodec = "avif"\nmatrix = [{ method = "dpm", rate_codec = "webp" }]'
    groups = read_groups(EXPERIMENTS + alone, "here")
    webp = table_cells(groups, "webp", prompts="dpm", seeds=4)
    avif = table_cells(groups, "avif", prompts="dpm", seeds=4)
    assert {(c.base, c.method, c.seed) for c in avif} == {(c.base, c.method, c.seed) for c in webp}
    assert len({cell.id for cell in avif}) == len(avif) == 1 + 5 * 4
    # Those that the experiments do have are taken as they are.
    assert {cell.id for cell in groups["adapters"].cells} <= {cell.id for cell in avif}


def test_a_cell_says_what_makes_it(compare, started, recipes, monkeypatch):
    noted = recipes("compare_protocols").Runner
    monkeypatch.setattr("sys.argv", ["recipes/compare_protocols.py", "--codec", "avif"])
    compare("--codec", "avif")
    own = {name: text for name, text in noted.made_by.items() if "_avif_" in name}
    assert set(own.values()) == {"python recipes/compare_protocols.py --codec avif"}
    lent = {name: text for name, text in noted.made_by.items() if "_webp_" in name}
    assert len(lent) == 5
    for name, text in lent.items():
        assert text == f"python recipes/run_experiments.py --only {name} --data DATA"


OWN = (
    "--allow_command",
    "--codec",
    f"few=command:{sys.executable} {FEW_COLOURS} {{q}} {{in}} {{out}}",
)


def test_a_codec_of_ones_own_gets_the_same_matrix(compare, started):
    code, lines, _ = compare(*OWN, "--qualities", "32", "8")
    [(_, queue)] = started
    assert code == 0
    cells = [cell for cell in queue if not cell.trial]
    assert len(cells) == 16
    assert {(cell.codec, cell.qualities) for cell in cells} == {("few", (8, 32))}
    assert "net-v1_few_dpm_q8+32_full_rate-of-webp_seed2" in {cell.id for cell in cells}
    assert {cell.codec for cell in queue if cell.trial} == {"webp"}
    assert any("Table 3: few at 8, 32 alone, net-v1" in line for line in lines)
    (said,) = [line for line in lines if line.startswith("rate ")]
    assert said.endswith("at the rate that was best for webp; none was tried for few")


def test_other_qualities_of_a_known_codec(compare, started):
    code, lines, _ = compare("--qualities", "5", "--seeds", "1")
    assert code == 0
    cells = [cell for cell in started[0][1] if not cell.trial]
    assert {(cell.codec, cell.qualities, cell.rate_codec) for cell in cells} == {
        ("webp", (5,), None)
    }
    assert not [line for line in lines if line.startswith("rate ")]
    code, _, error = compare("--qualities", "101")
    assert (code, "webp takes quality 0 to 100, not 101" in error) == (2, True)
    code, _, error = compare("--qualities", "5", "5")
    assert (code, "one is named twice" in error) == (2, True)
    compare("--seeds", "1")
    compare("--seeds", "1", "--qualities", "40", "10", "20", "30")
    plain, whole = ([cell.id for cell in queue] for _, queue in started[1:])
    assert plain == whole, "the suite's own qualities, in whatever order"


def test_a_folder_of_ones_own_brings_its_qualities(compare, started, place, world):
    for quality in ("08", "32"):
        shutil.copytree(world.validation, place / "coded" / quality)
    codec = f"few=folder:{place / 'coded'}"
    code, _, _ = compare("--allow_command", "--codec", codec, "--seeds", "1")
    cells = [cell for cell in started[0][1] if not cell.trial]
    assert (code, {(cell.codec, cell.qualities) for cell in cells}) == (0, {("few", (8, 32))})
    code, _, error = compare("--allow_command", "--codec", codec, "--qualities", "9")
    assert (code, "has no quality 9. Known: 8, 32" in error) == (2, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--codec", "few=command:not-allowed {in} {out}"), "not run: it names a program"),
        (OWN, "has no qualities of its own; name them, as in --qualities"),
        (("--allow_command", "--codec", "command:x {in} {out}"), "need a name: write NAME=command"),
        (("--allow_command", "--codec", "few=x"), "write NAME=command:... or NAME=folder:PATH"),
        (("--allow_command", "--codec", "a_b=command:x {in} {out}"), "'a_b' is no name"),
        (("--allow_command", "--codec", "webp=command:x {in} {out}"), "there is a codec 'webp'"),
        ((*OWN, "--qualities", "8", "8"), "one is named twice"),
    ],
)
def test_what_is_wrong_with_a_codec_of_ones_own(compare, started, flags, message):
    code, _, error = compare(*flags)
    assert (code, started) == (2, [])
    assert message in error


def test_without_its_program_a_table_is_printed_and_not_made(compare, started):
    gone = ("--allow_command", "--codec", "few=command:no-such {q} {in} {out}", "--qualities", "8")
    code, _, error = compare(*gone)
    assert (code, started) == (2, [])
    assert "--codec few: there is no program 'no-such' on the PATH" in error
    code, lines, error = compare(*gone, "--print_only")
    assert (code, error) == (0, "")
    assert any("Table 3: few at 8 alone" in line for line in lines)


def test_errors(compare):
    code, _, error = compare("--codec", "wepb", "--print_only")
    assert code == 2
    assert "unknown codec 'wepb'; did you mean 'webp'?" in error
    groups = read_groups(EXPERIMENTS, "here")
    assert "webp" in all_codecs()
    with pytest.raises(UnknownNameError):
        table_cells(groups, "wepb", prompts="dpm", seeds=1)
    with pytest.raises(UnknownNameError, match="unknown set of prompts 'dmp'; did you mean 'dpm'"):
        table_cells(groups, "webp", prompts="dmp", seeds=1)
    with pytest.raises(ConfigError, match="no cell of Table 3 with prompts 'basis' on medium"):
        table_cells(groups, "webp", prompts="basis", seeds=1, evaluate_on="medium")


def test_cells_of_another_base_are_left_out(compare, place, world):
    fixed = '[groups.fixed]\ncodec = "webp"\nmatrix = [{ method = "dpm", learning_rate = 1e-2 }]'
    (place / "experiments.toml").write_text(EXPERIMENTS + fixed, "utf-8")
    name = "net-v1_webp_dpm_full_rate-0.01_seed0"
    base = ("--base", f"net-v1={world.bases['prompted']}")
    right = facts_of_base(str(world.bases["prompted"])).fingerprint
    for fingerprint, seeds in (("0" * 64, "-"), (right, "1")):
        record = made.cell(gain=0.2, config={"cell": name})
        record["parameters"]["base_fingerprint"] = fingerprint
        finish(place / "results", [record])
        _, lines, _ = compare("--print_only", *base)
        assert lines[-1].startswith(f"left out  {name}") == (seeds == "-")
        rows = [line.split() for line in lines if line.startswith("Set5")]
        assert [row[2] for row in rows if row[1] == "iv"] == [seeds] * len(rows[:1])
    _, _, error = compare("--print_only", "--base", "net-v1=nowhere")
    assert "write NAME=PATH" in error


TINY = """
[defaults]
base = "net-v1"
codec = "webp"
evaluate_on = "small"
train_data = "embedded"
max_train_steps = 1
train_batch_size = 1
patch_size = 12
validation_images = 1
[groups.table3]
matrix = [{ method = "base" }, { method = "dpm", learning_rate = 1e-2 }]
"""


@pytest.mark.slow
def test_real_cells_fill_the_table(compare, place, world, monkeypatch):
    """What the runner writes is what the tables read."""
    for name in ("Set5", "Set14"):
        shutil.copytree(world.validation, place / "data" / name / "HR")
    monkeypatch.setenv("UCIP_CACHE", str(place / "cache"))
    (place / "experiments.toml").write_text(TINY, "utf-8")
    flags = (
        "--evaluate_on",
        "small",
        "--seeds",
        "1",
        "--base",
        f"net-v1={world.bases['prompted']}",
    )
    where = ("--data", place / "data", "--runs_dir", place / "runs")
    code, lines, error = compare(*flags, *where)
    assert (code, error) == (0, "")
    assert any("; 2 of 2 cells" in line for line in lines)
    files = sorted((place / "results" / "cells").glob("*.json"))
    own = {
        name: json.loads(path.read_text())
        for name, path in zip(("base", "dpm"), files, strict=True)
    }
    rows = {key: record["scores"]["rows"] for key, record in own.items()}
    gains = [a["psnr_db"] - b["psnr_db"] for a, b in zip(rows["dpm"], rows["base"], strict=True)]
    assert len(gains) == 2 * 4
    summary = next(line for line in lines if line.startswith("iv - i "))
    assert float(summary.split()[3]) == pytest.approx(fmean(gains), abs=6e-4)
    set5 = next(line for line in lines if line.startswith("Set5 ") and " iv " in line)
    assert f"{rows['dpm'][0]['psnr_db']:.2f} / " in set5
    code, again, _ = compare(*flags, *where)
    assert code == 0
    assert again[0].startswith("2 of 2 cells finished")
    assert next(line for line in again if line.startswith("iv - i ")) == summary
    first, second = sorted((place / "data" / "Set5" / "HR").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    code, _, error = compare(*flags[:2], "--seeds", "2", *flags[4:], *where)
    assert code == 2
    assert "Set5 in " in error
    assert "not the pictures" in error


@pytest.mark.slow
def test_real_cells_of_a_codec_of_ones_own(compare, place, world, monkeypatch):
    for name in ("Set5", "Set14"):
        shutil.copytree(world.validation, place / "data" / name / "HR")
    monkeypatch.setenv("UCIP_CACHE", str(place / "cache"))
    (place / "experiments.toml").write_text(TINY, "utf-8")
    program = place / "few colours.py"
    program.write_bytes(FEW_COLOURS.read_bytes())
    codec = f"few=command:{sys.executable} '{program}' {{q}} {{in}} {{out}}"
    flags = ("--allow_command", "--codec", codec, "--qualities", "8", "32", "--seeds", "1")
    flags += ("--evaluate_on", "small", "--base", f"net-v1={world.bases['prompted']}")
    where = ("--data", place / "data", "--runs_dir", place / "runs")
    code, lines, error = compare(*flags, *where)
    assert (code, error) == (0, "")
    assert any("; 2 of 2 cells" in line for line in lines)
    records = [
        json.loads(path.read_text()) for path in (place / "results" / "cells").glob("*.json")
    ]
    for record in records:
        rows = record["scores"]["rows"]
        assert [(row["codec"], row["dataset"], row["quality"]) for row in rows] == [
            ("few", name, quality) for name in ("Set5", "Set14") for quality in (8, 32)
        ]
        assert rows[0]["psnr_db"] < rows[1]["psnr_db"]
        assert str(place) not in json.dumps(record)
    header = next(line for line in lines if line.startswith("set "))
    assert header.split()[-4:] == ["few", "8", "few", "32"]
    assert any(line.startswith("iv - i ") and line.split()[2] != "-" for line in lines)

    moved = place / "else where" / program.name
    moved.parent.mkdir()
    moved.write_bytes(program.read_bytes())
    there = [flag.replace(str(program), str(moved)) for flag in flags]
    _, lines, _ = compare(*there, "--print_only")
    assert not [line for line in lines if line.startswith("left out ")], "the same, elsewhere"
    program.write_text(program.read_text() + "# changed\n")
    code, lines, _ = compare(*flags, "--print_only")
    left = [line for line in lines if line.startswith("left out ")]
    assert (code, len(left)) == (0, 2)
    assert all("by another program" in line for line in left)
    code, lines, _ = compare(*flags, *where)
    assert code == 0
    assert sum("with another program, or other words, as few" in line for line in lines) == 2
    assert not [line for line in lines if line.startswith("left out ")]
