"""compare_methods.py: rates are chosen on validation images, finished runs are kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ucip_adapt.config import parse_config
from ucip_adapt.errors import ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import run_record, write_results


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


@pytest.fixture
def quick(compare, recipes, world, tmp_path, monkeypatch):
    """``quick(phase, **changes)``: what it launched; runs write what they were told to, no more."""
    launched = []

    def launch(script, arguments, log, *, processes=1):
        recipe = recipes(script.removesuffix(".py"))
        cfg = parse_config(recipe.Options, arguments)
        launched.append(cfg.output_dir.name)
        cfg.output_dir.mkdir(parents=True)
        (cfg.output_dir / "model.safetensors").write_bytes(b"weights")
        base = UCIP.from_pretrained(cfg.pretrained_model_name_or_path)
        row = {"protocol": "y-c4", "dataset": "GB82-val", "psnr_db": 20.0}
        record = run_record(
            script.removesuffix(".py"),
            cfg,
            seconds={"per_step": 1.0},
            parameters={"trained": 1, "base_fingerprint": base.fingerprint},
            scores={"rows": [{**row, "method": method} for method in ("base", "adapter")]},
        )
        write_results(cfg.output_dir / "results.json", {**record, "peak_memory_mib": 1.0})

    monkeypatch.setattr(compare, "launch", launch)
    shutil.copytree(world.bases["prompted"], tmp_path / "base")

    def go(phase, **changes):
        launched.clear()
        compare.fingerprint_of.cache_clear()
        shared = {
            "base": str(tmp_path / "base"),
            "train_on": ("embedded",),
            "evaluate_on": ("GB82-val",),
            "runs_dir": tmp_path / "runs",
            "results_dir": tmp_path / "results",
        }
        compare.PHASES[phase](compare.Options(**{**shared, **changes}))
        return list(launched)

    return go


def test_runs_made_with_the_same_options_are_kept(quick):
    assert len(quick("rates")) == 3
    assert quick("final") == [
        "webp-embedded-dpm",
        "webp-embedded-everything",
        "webp-evaluation-embedded-GB82-val",
    ]
    assert quick("rates") == quick("final") == []


@pytest.mark.parametrize(
    ("phase", "changes", "said"),
    [
        ("rates", {"rate_steps": 7}, r"webp-dpm-0\.01 holds .* max_train_steps 100, not 7"),
        ("rates", {"rate_images": 3}, r"webp-dpm-0\.01 holds a run of max_eval_images 2, not 3"),
        ("final", {"final_steps": 7}, r"embedded-dpm holds .* max_train_steps 200, not 7: delete"),
        ("final", {"window": "16"}, "evaluation-embedded-GB82-val holds .* window config, not 16"),
        ("final", {"train_on": ("CID22", "embedded")}, "holds .* skip_base False, not True"),
    ],
    ids=["steps", "images", "final steps", "window", "order"],
)
def test_runs_made_with_other_options_are_refused(quick, tmp_path, phase, changes, said):
    quick("rates")
    quick("final")
    published = [path.read_bytes() for path in sorted((tmp_path / "results").glob("*.json"))]
    with pytest.raises(ConfigError, match=rf"{said}.*or give another --runs_dir"):
        quick(phase, **changes)
    assert quick(phase) == [], "nothing was started before"
    again = [path.read_bytes() for path in sorted((tmp_path / "results").glob("*.json"))]
    assert again == published


def test_a_changed_rate_is_refused(quick, tmp_path):
    quick("rates")
    quick("final")
    path = tmp_path / "results" / "webp_rates.json"
    rates = json.loads(path.read_text(encoding="utf-8"))
    rates["scores"]["best"]["dpm"] = 0.03
    path.write_text(json.dumps(rates), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"embedded-dpm holds .* learning_rate 0\.01, not 0\.03"):
        quick("final")


def test_another_base_is_refused_whatever_its_name(quick, world, tmp_path):
    quick("rates")
    quick("final")
    other = str(world.bases["other"])
    with pytest.raises(ConfigError, match=r"holds a run of base \.\.\./base, not .*/other"):
        quick("rates", base=other)
    with pytest.raises(ConfigError, match=r"rates for base \.\.\./base, not .*/other: run 'rates'"):
        quick("final", base=other)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(other, tmp_path / "base")
    with pytest.raises(ConfigError, match=r"holds a run of base .*/base, not .*/base as it is now"):
        quick("final")


@pytest.mark.parametrize("made_again", [True, False])
def test_a_measurement_of_runs_made_again_is_refused(quick, tmp_path, made_again):
    quick("rates")
    quick("final")
    run = tmp_path / "runs" / "webp-embedded-dpm"
    if made_again:
        later = (tmp_path / "runs/webp-evaluation-embedded-GB82-val/results.json").stat().st_mtime
        os.utime(run / "results.json", (later + 1, later + 1))
    else:
        shutil.rmtree(run)
    with pytest.raises(ConfigError, match=r"embedded-GB82-val was measured before .*-dpm was"):
        quick("final")
    shutil.rmtree(tmp_path / "runs" / "webp-evaluation-embedded-GB82-val")
    assert quick("final") == ([] if made_again else [run.name]) + [
        "webp-evaluation-embedded-GB82-val"
    ]
