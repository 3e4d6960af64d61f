"""Intervals against SciPy and against every possible draw; ties; spread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ucip_adapt.errors import ConfigError
from ucip_adapt.experiments import statistics
from ucip_adapt.experiments.statistics import Interval, bootstrap, bootstrap_sets, spread


def test_interval_is_that_of_scipy():
    differences = np.random.default_rng(3).normal(0.05, 0.2, 25)
    ours = bootstrap(differences, resamples=40_000)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=40_000, method="percentile", rng=1
    ).confidence_interval
    assert ours.mean == pytest.approx(differences.mean(), abs=1e-12)
    # The ends of 40,000 draws scatter by about 0.0006; another level or an unpaired draw is off
    # by 0.01 and more.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0025)
    assert (ours.low, ours.high) != pytest.approx(
        (bootstrap(differences, level=0.9).low, bootstrap(differences, level=0.9).high), abs=0.0025
    )


def test_interval_of_few_images_is_that_of_all_draws():
    sets = [np.array([0.0, 1.0, 5.0]), np.array([2.0, -4.0])]
    weights = [3.0, 1.0]
    draws = [
        0.75 * np.mean(a) + 0.25 * np.mean(b)
        for a in itertools.product(sets[0], repeat=3)
        for b in itertools.product(sets[1], repeat=2)
    ]
    found = bootstrap_sets(sets, weights, level=0.8, resamples=60_000)
    assert found.mean == pytest.approx(0.75 * 2 + 0.25 * -1)
    exact = np.quantile(draws, [0.1, 0.9], method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_sets_of_equal_size_are_drawn_apart():
    """BSD100 and Urban100 have as many images each, which have nothing to do with each other."""
    values = np.array([0.0, 1.0, 5.0])
    draws = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    exact = np.quantile([a - b for a in draws for b in draws], [0.1, 0.9], method="inverted_cdf")
    found = bootstrap_sets([values, -values], [1, 1], level=0.8, resamples=60_000)
    assert (2 * found.low, 2 * found.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_interval_is_fixed():
    # Literal values: the stream of draws must not change with the library.
    found = bootstrap(np.sqrt(np.arange(14)) - 2, resamples=500)
    assert (round(found.low, 6), round(found.high, 6)) == (-0.131265, 0.810826)
    assert bootstrap(list(np.sqrt(np.arange(14)) - 2), resamples=500) == found
    assert bootstrap(np.sqrt(np.arange(14)) - 2, resamples=500, seed=1) != found


def test_large_sets_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(0, 1, 100)
    whole = bootstrap(values, resamples=300)
    statistics._interval.cache_clear()
    monkeypatch.setattr(statistics, "_KEPT", 1_000)
    parts = bootstrap(values, resamples=300)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_ties():
    assert bootstrap([0.0, 0.0, 0.0]).verdict == "tie"
    assert bootstrap([0.1, 0.2, 0.1]).verdict == "higher"
    assert bootstrap([-0.1, -0.2, -0.1]).verdict == "lower"
    assert bootstrap([-0.1, 0.2, 0.1]).verdict == "tie"
    assert Interval(0.1, 0.0, 0.2, 3).verdict == "tie"


def test_spread():
    found = spread([0.31, 0.28, 0.34])
    assert (found.low, found.high, found.count) == (0.28, 0.34, 3)
    assert found.sd == pytest.approx(0.03)
    assert spread([0.3]).sd is None


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one image"),
        ([0.1, float("nan")], {}, "finite"),
        ([0.1], {"level": 1.0}, "level=1.0"),
    ],
)
def test_errors(values, options, message):
    with pytest.raises(ConfigError, match=message):
        bootstrap(values, **options)
    with pytest.raises(ConfigError, match="positive weights"):
        bootstrap_sets([[0.1]], [1, 2])
