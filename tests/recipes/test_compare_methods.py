"""compare_methods.py: rates are chosen on validation images, finished runs are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def compare(recipes, monkeypatch):
    """The recipe, with two quick methods instead of five."""
    recipe = recipes("compare_methods")
    quick = {
        "dpm": recipe.METHODS["dpm"]._replace(rates=(1e-2, 3e-2)),
        "everything": recipe.METHODS["everything"]._replace(rates=(1e-3,)),
    }
    monkeypatch.setattr(recipe, "METHODS", quick)
    return recipe


@pytest.mark.slow
def test_rates_and_final(compare, world, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("UCIP_CACHE", str(tmp_path / "cache"))
    options = compare.Options(
        base=str(world.bases["prompted"]),
        rate_steps=1,
        rate_images=1,
        final_steps=1,
        train_on=("embedded",),
        evaluate_on=("GB82-val",),
        window="whole",
        runs_dir=tmp_path / "runs",
        results_dir=tmp_path / "results",
    )
    launched = []
    real = compare.launch

    def launch(script, arguments, log, *, processes=1):
        launched.append(script)
        short = ("--lr_warmup_steps", "0", "--max_train_samples", "1")
        extra = short if script.startswith("tune") else ("--max_images", "1")
        real(script, [*arguments, *extra], log, processes=processes)

    monkeypatch.setattr(compare, "launch", launch)
    compare.rates(options)
    rates = json.loads((tmp_path / "results" / "webp_rates.json").read_text())
    gains = rates["scores"]["gain_db"]
    assert set(gains) == {"dpm", "everything"}
    assert rates["scores"]["best"]["dpm"] == float(max(gains["dpm"], key=gains["dpm"].get))

    compare.final(options)
    record = json.loads((tmp_path / "results" / "webp_methods.json").read_text())
    methods = {row["method"] for row in record["scores"]["rows"]}
    assert methods == {"bicubic", "base", "dpm@embedded", "everything@embedded"}
    about = record["parameters"]["methods"]["dpm@embedded"]
    assert about["trained"] == 272
    assert about["learning_rate"] == rates["scores"]["best"]["dpm"]

    count = len(launched)
    compare.final(options)
    assert len(launched) == count, "finished runs are not repeated"
