"""The control beside row v: the same training on the base's own damage, nothing else changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ucip_adapt.config import parse_config
from ucip_adapt.models import UCIP


@pytest.fixture
def control(repo_root, recipes):
    """Options of ``recipes/configs/pretrain_base/control.toml``."""
    file = repo_root / "recipes" / "configs" / "pretrain_base" / "control.toml"
    return parse_config(recipes("pretrain_base").Options, ["--config", str(file)])


def test_it_trains_as_row_v_does_by_default(recipes, control):
    tune_full = recipes("tune_full")
    full = tune_full.Options()
    shared = {f.name for f in dataclasses.fields(full)} & {
        f.name for f in dataclasses.fields(control)
    }
    differ = {name for name in shared if getattr(full, name) != getattr(control, name)}
    assert differ == {
        *("pretrained_model_name_or_path", "train_data_dir"),  # given on the command line to both
        *("output_dir", "name", "max_eval_images"),
        "learning_rate",
    }
    assert control.rate == tune_full.RATES["everything"]
    assert control.windows == (), "the base's own way of being applied is kept"
    assert control.suite is not None


def test_it_sees_the_same_crops_under_other_damage(run, world, tmp_path):
    base = UCIP.from_pretrained(world.bases["prompted"])
    base.config = base.config.replace(window=12)
    base.save_pretrained(tmp_path / "base")
    start = {"pretrained_model_name_or_path": str(tmp_path / "base"), "learning_rate": 1e-4}
    suite = tmp_path / "own.toml"
    slots = [f'[[slots]]\ncodec = "{name}"\nqualities = [20, 60]\n' for name in ("jpeg", "avif")]
    suite.write_text("\n".join(slots), encoding="utf-8")
    full = run("tune_full", tmp_path / "full", **start)
    done = run("pretrain_base", tmp_path / "control", suite=str(suite), **start)
    for ours, theirs in zip(done.batches, full.batches, strict=True):
        assert torch.equal(ours["gt"], theirs["gt"])
        assert torch.equal(ours["index"], theirs["index"])
        assert not torch.equal(ours["lq"], theirs["lq"])
    rates = [[v["learning_rate"] for v in d.logs if "learning_rate" in v] for d in (done, full)]
    assert rates[0] == rates[1]
    network = UCIP.from_pretrained(done.folder)
    assert network.config == base.config
    # It is measured like any network, beside the base that it came from.
    scored = run(
        "evaluate",
        tmp_path / "out",
        adapter=(f"control={done.folder}",),
        metric_protocols=("y-c4",),
    )
    rows = {row["method"]: row["psnr_db"] for row in scored.record["scores"]["rows"]}
    assert list(rows) == ["bicubic", "base", "control"]
    assert rows["control"] != rows["base"]
