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
