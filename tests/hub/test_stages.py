"""What is known of the training behind a base."""

from __future__ import annotations

import json

from ucip_adapt.assets import shipped_bases
from ucip_adapt.hub.stages import (
    crops_per_step,
    describe_stage,
    image_sets,
    previous_stages,
    stage_summary,
)

CONFIG = {
    "train_data_dir": ["embedded"],
    "settings": ["jpeg:40"],
    "max_train_steps": 1300,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "patch_size": 64,
    "learning_rate": 6.5e-4,
    "ema_decay": 0.999,
    "seed": 1,
}
ENVIRONMENT = {"gpu": None, "cpu": "EPYC", "cpu_cores": 2, "torch_threads": 1, "processes": 3}


def write(folder, **parameters):
    folder.mkdir()
    record = {
        "format_version": "1.0",
        "kind": "pretrain_base",
        "config": CONFIG,
        "environment": ENVIRONMENT,
        "seconds": {"training": 7200.0},
        "parameters": parameters,
    }
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    return str(folder)


def test_a_stage_in_figures_and_in_words():
    stage = stage_summary(CONFIG, {"training": 7200.0}, ENVIRONMENT)
    assert stage["crops_per_step"] == 2 * 4 * 3 == crops_per_step(CONFIG, ENVIRONMENT)
    assert describe_stage(stage) == (
        "1,300 steps of 24 crops of 64 x 64 LQ pixels, rate 0.00065: 2.00 h on EPYC, 2 cores, "
        "1 threads"
    )


def test_the_codec_of_a_tuned_network_is_its_damage():
    config = {**CONFIG, "codec": "webp", "qualities": [10, 20]}
    del config["settings"]
    stage = stage_summary(config, {"training": 1.0}, {**ENVIRONMENT, "gpu": "H200"})
    assert stage["settings"] == ["webp:10", "webp:20"]
    assert stage["hardware"] == "H200"


def test_a_stage_on_a_built_suite_says_so():
    """The default of ``--train_data_dir`` is recorded beside it and was not read."""
    stage = stage_summary({**CONFIG, "suite_dir": "runs/webp"}, {"training": 1.0}, ENVIRONMENT)
    assert image_sets(stage) == ["the images of the suite runs/webp"]
    without = stage_summary({**CONFIG, "suite_dir": None}, {"training": 1.0}, ENVIRONMENT)
    assert image_sets(without) == ["embedded"]
    assert "suite_dir" not in without


def test_stages_are_handed_on(tmp_path):
    first = write(tmp_path / "first")
    [stage] = previous_stages(first)
    assert stage["max_train_steps"] == 1300
    second = write(tmp_path / "second", stages=[stage, {**stage, "seed": 2}])
    assert [s["seed"] for s in previous_stages(second)] == [1, 2]


def test_random_weights_and_strangers_have_none(tmp_path):
    assert previous_stages(None) == []
    assert previous_stages(str(tmp_path)) == []
    assert previous_stages("user/repository") == []


def test_shipped_bases_are_no_strangers():
    for name in shipped_bases():
        assert previous_stages(name), name
