"""Means of each rate: over all processes, across a checkpoint, and of another number of rates."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, GradientState

from ucip_adapt.codecs.learned.rate_means import RateMeans

RATES = torch.tensor([0, 1, 1, 0])
BPP, ERROR = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([10.0, 20.0, 40.0, 80.0])
MEANS = ([4.5, 3.0], [45.0, 30.0])


def make(rates: int = 2) -> RateMeans:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return RateMeans(Accelerator(cpu=True), rates)


def count(file: str) -> None:
    """Each of two processes counts a half."""
    means = make()
    own = slice(0, 1) if Accelerator().process_index == 0 else slice(1, 2)
    for first in (0, 2):
        part = slice(first + own.start, first + own.stop)
        means.add(RATES[part], BPP[part], ERROR[part])
    torch.save(
        [means.state_dict()["sums"].clone(), means.take()],
        f"{file}-{Accelerator().process_index}",
    )


def test_two_processes_know_what_one_would(tmp_path):
    debug_launcher(count, (str(tmp_path / "means"),), num_processes=2)
    one = make()
    one.add(RATES, BPP, ERROR)
    for rank in range(2):
        sums, taken = torch.load(tmp_path / f"means-{rank}")
        assert taken == MEANS
        assert torch.equal(sums, one.state_dict()["sums"])


def test_they_go_on_from_a_state_and_start_anew_when_taken():
    before, after = make(), make()
    before.add(RATES[:3], BPP[:3], ERROR[:3])
    after.load_state_dict(before.state_dict())
    after.add(RATES[3:], BPP[3:], ERROR[3:])
    assert after.take() == MEANS
    after.add(RATES[:1], BPP[:1], ERROR[:1])
    bpp, error = after.take()
    assert (bpp[0], error[0]) == (1, 10)
    assert math.isnan(bpp[1])


def test_of_another_number_of_rates_they_start_empty():
    other = make(3)
    other.add(RATES, BPP, ERROR)
    means = make()
    means.load_state_dict(other.state_dict())
    means.add(RATES, BPP, ERROR)
    assert means.take() == (pytest.approx(MEANS[0]), pytest.approx(MEANS[1]))
