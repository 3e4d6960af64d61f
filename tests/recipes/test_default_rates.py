"""The recipes' rates are the best of those that the committed cells tried."""

from __future__ import annotations

import pytest

from ucip_adapt.experiments.compare import read_cells
from ucip_adapt.experiments.sweeps import rates_over_codecs


@pytest.mark.parametrize("recipe", ["tune_prompts", "tune_full"])
def test_default_rates(recipe, repo_root, recipes):
    means = rates_over_codecs(read_cells(repo_root / "results" / "cells"))
    rates = recipes(recipe).RATES
    assert rates == {method: max(means[method], key=means[method].get) for method in rates}
