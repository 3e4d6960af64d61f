"""EMA against the recurrence written out in float64."""

import pytest
import torch
from torch import nn

from ucip_adapt.errors import CheckpointError, ConfigError
from ucip_adapt.training.ema import EMA


def test_follows_the_recurrence_with_warm_up():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    ema = EMA(layer.named_parameters(), decay=0.5)
    expected = layer.weight.detach().double().numpy().copy()
    for step in range(20):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        ema.update(step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * layer.weight.detach().double().numpy()
    assert abs(ema.averages["weight"].double().numpy() - expected).max() < 1e-6


def test_averages_stay_float32_under_half_precision_weights():
    layer = nn.Linear(2, 2).to(torch.bfloat16)
    ema = EMA(layer.named_parameters(), decay=0.999)
    ema.update(0)
    assert {a.dtype for a in ema.averages.values()} == {torch.float32}
    with ema.applied():
        assert layer.weight.dtype == torch.bfloat16


def test_applied_swaps_and_gives_back_even_after_an_error():
    layer = nn.Linear(2, 2)
    ema = EMA(layer.named_parameters(), decay=0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    trained = layer.weight.detach().clone()
    seen = []

    def fail_inside():
        with ema.applied():
            seen.append(layer.weight.detach().clone())
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_inside()
    assert torch.equal(seen[0], start)
    assert torch.equal(layer.weight, trained)


def test_averages_do_not_share_memory_with_the_parameters():
    layer = nn.Linear(2, 2)
    ema = EMA(layer.named_parameters(), decay=0.9)
    before = ema.averages["weight"].clone()
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(ema.averages["weight"], before)


def test_state_round_trip_is_exact():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    ema, copy = EMA(layer.named_parameters(), 0.9), EMA(other.named_parameters(), 0.9)
    copy.load_state_dict(ema.state_dict())
    assert all(torch.equal(ema.averages[k], copy.averages[k]) for k in ema.averages)


def test_state_of_another_model_is_refused_and_changes_nothing():
    ema = EMA(nn.Linear(2, 2).named_parameters(), 0.9)
    before = {k: v.clone() for k, v in ema.averages.items()}
    with pytest.raises(CheckpointError, match=r"missing \['bias'\]"):
        ema.load_state_dict(EMA(nn.Linear(2, 2, bias=False).named_parameters(), 0.9).state_dict())
    with pytest.raises(CheckpointError, match=r"shape \(3, 2\), expected \(2, 2\)"):
        ema.load_state_dict(EMA(nn.Linear(2, 3).named_parameters(), 0.9).state_dict())
    assert all(torch.equal(before[k], ema.averages[k]) for k in before)


def test_wrong_values_are_named():
    with pytest.raises(ConfigError, match="EMA decay must lie in"):
        EMA(nn.Linear(2, 2).named_parameters(), 1.0)
    with pytest.raises(ConfigError, match="EMA needs parameters"):
        EMA([], 0.9)
