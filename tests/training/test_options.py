"""Ranges of the options that all trainings share, where an end is open."""

from __future__ import annotations

import pytest
import torch

from ucip_adapt.config import parse_config
from ucip_adapt.errors import ConfigError
from ucip_adapt.training.options import TrainingOptions


@pytest.mark.parametrize("name", ["adam_beta1", "adam_beta2"])
def test_adams_decays_are_below_one(name):
    """Exactly those that Adam itself takes."""
    for value in ("0", "0.5", "0.9999999"):
        cfg = parse_config(TrainingOptions, [f"--{name}", value])
        torch.optim.Adam([torch.zeros(1)], betas=(cfg.adam_beta1, cfg.adam_beta2))
    for value in ("1", "1.5"):
        with pytest.raises(ConfigError, match=f"{name}={value} must be .* below 1"):
            parse_config(TrainingOptions, [f"--{name}", value])
    with pytest.raises(ConfigError, match=f"{name}: -0.1 is below the smallest allowed"):
        parse_config(TrainingOptions, [f"--{name}", "-0.1"])


def test_a_limit_on_gradients_leaves_something_of_them():
    for value in ("0", "-1"):
        with pytest.raises(ConfigError, match=f"max_grad_norm={value} .* 'none' for no clipping"):
            parse_config(TrainingOptions, ["--max_grad_norm", value])
    assert parse_config(TrainingOptions, ["--max_grad_norm", "none"]).max_grad_norm is None
    assert parse_config(TrainingOptions, ["--max_grad_norm", "1e-12"]).max_grad_norm == 1e-12
    assert parse_config(TrainingOptions, []).max_grad_norm == 1.0


def test_an_average_moves():
    for value in ("1", "1.5", "inf"):
        with pytest.raises(ConfigError, match=f"ema_decay={value} must be .* below 1"):
            parse_config(TrainingOptions, ["--ema_decay", value])
    with pytest.raises(ConfigError, match=r"ema_decay: -0\.5 is below the smallest allowed"):
        parse_config(TrainingOptions, ["--ema_decay", "-0.5"])
    with pytest.raises(ConfigError, match=r"ema_decay=-0\.5 must be at least 0"):
        TrainingOptions(ema_decay=-0.5)
    for value in (0.0, 0.999, None):
        assert TrainingOptions(ema_decay=value).ema_decay == value


def test_a_rate_is_finite():
    with pytest.raises(ConfigError, match="learning_rate=inf must be finite"):
        parse_config(TrainingOptions, ["--learning_rate", "inf"])
    assert TrainingOptions(learning_rate=0.0).learning_rate == 0.0


@pytest.mark.parametrize("steps", [("3", "2"), ("2", "2")])
def test_milestones_rise(steps):
    multistep = ["--lr_scheduler", "multistep", "--lr_milestones"]
    with pytest.raises(ConfigError, match=f"lr_milestones={' '.join(steps)} must rise"):
        parse_config(TrainingOptions, [*multistep, *steps])
    assert parse_config(TrainingOptions, [*multistep, "2", "3"]).lr_milestones == (2, 3)
