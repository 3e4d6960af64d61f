"""repeat_cell.py: what it starts, compares, prints, writes and ends with."""

from __future__ import annotations

import pytest
import synthetic_cells as made

from ucip_adapt.config import run_recipe
from ucip_adapt.experiments.groups import read_groups
from ucip_adapt.experiments.ledger import BaseFacts, Ledger
from ucip_adapt.experiments.runner import Report
from ucip_adapt.training.results import read_results, write_results

EXPERIMENTS = """
[groups.repeat]
base = "net-v1"
codec = "webp"
learning_rate = 1e-2
seed = [0, 1]
method = "dpm"
"""
FIRST, SECOND = read_groups(EXPERIMENTS, "here")["repeat"].cells
MISSPELT = FIRST.id.replace("dpm", "dmp")


def record_of(cell, gain, weights):
    record = made.cell(
        gain=gain, seed=cell.seed, config={"cell": cell.id, "learning_rate": cell.learning_rate}
    )
    parameters = {**record["parameters"], "base_fingerprint": "a" * 64}
    return {**record, "parameters": parameters, "files": {"adapter_model.safetensors": weights}}


@pytest.fixture
def repeat(recipes, monkeypatch, tmp_path, capsys):
    """``repeat(gain, *flags)``: the recipe, where the cell comes out with that gain."""
    module = recipes("repeat_cell")
    (tmp_path / "e.toml").write_text(EXPERIMENTS, "utf-8")
    (tmp_path / "data").mkdir()
    started = []

    def look(_):
        return BaseFacts("net-v1", "prompted", "dynamic", "a" * 64, 1000)

    def go(gain, *flags):
        class Made:
            def __init__(self, ledger, recipes, folder, *, data, say):
                self.ledger = ledger

            def run(self, *, only):
                [cell] = self.ledger.queue(only=only)
                started.append((cell.id, self.ledger.state(cell).name))
                if gain is None:
                    return Report(failed={cell.id: "no space left"})
                if gain != "stopped":
                    write_results(self.ledger.path(cell), record_of(cell, gain, "b"))
                return Report()

        monkeypatch.setattr(module, "Runner", Made)
        monkeypatch.setattr(module, "Ledger", lambda *given: Ledger(*given, look=look))
        codes = []
        given = ["--cell", FIRST.id, "--experiments", tmp_path / "e.toml"]
        given += ["--data", tmp_path / "data"]
        given += ["--results_dir", tmp_path / "cells", "--output_dir", tmp_path / "out"]
        code = run_recipe(
            lambda cfg: codes.append(module.main(cfg)),
            module.Options,
            description=module.__doc__,
            argv=[str(word) for word in (*given, *flags)],
        )
        out = capsys.readouterr()
        return code or sum(codes), out.out, out.err

    go.started, go.folder = started, tmp_path
    return go


@pytest.fixture
def finished(tmp_path):
    for cell, gain in ((FIRST, 0.2), (SECOND, 0.21)):
        write_results(tmp_path / "cells" / f"{cell.id}.json", record_of(cell, gain, "a"))


@pytest.mark.parametrize(
    ("gain", "code", "words"),
    [(0.205, 0, "within the 0.0100 dB between seeds"), (0.25, 1, "more than the 0.0100 dB")],
)
def test_compares_with_the_finished_cell(repeat, finished, gain, code, words):
    before = (repeat.folder / "cells" / f"{FIRST.id}.json").read_bytes()
    found, out, err = repeat(gain)
    assert (found, err, repeat.started) == (code, "", [(FIRST.id, "ready")])
    assert words in out
    assert f"Set14  webp 20  {32.5 + 0.2:.4f}       {32.5 + gain:.4f}" in out
    assert (repeat.folder / "cells" / f"{FIRST.id}.json").read_bytes() == before
    record = read_results(repeat.folder / "out" / f"{FIRST.id}.json")
    assert (record["kind"], record["config"]) == ("repeat", {"cell": FIRST.id})
    scores = record["scores"]
    apart = scores["again"]["psnr_db"] - scores["finished"]["psnr_db"]
    assert apart == pytest.approx(gain - 0.2)
    assert scores["seeds"]["count"] == 2
    assert not scores["same_weights"]


def test_what_was_made_is_not_made_again_but_compared(repeat, finished):
    repeat(0.205)
    code, out, _ = repeat(None)
    assert repeat.started[-1] == (FIRST.id, "finished")
    assert code == 0
    assert "within the 0.0100 dB" in out


def test_a_failure_and_a_stop_compare_nothing(repeat, finished):
    code, out, _ = repeat(None)
    assert code == 3
    assert f"failed    {FIRST.id}: no space left" in out
    code, out, _ = repeat("stopped")
    assert code == 0
    assert "stopped; the same command goes on" in out
    assert not list((repeat.folder / "out").glob("*.json"))


def test_bad_names_and_cells_that_are_not_there(repeat):
    code, _, err = repeat(0.2, "--cell", MISSPELT)
    assert code == 2
    assert f"did you mean '{FIRST.id}'" in err
    code, _, err = repeat(0.2)
    assert code == 2
    assert f"cell {FIRST.id} is not finished (ready): there is nothing to compare with" in err
    assert repeat.started == []
