"""A cell that is made twice: what is needed to make it, and how far apart the two lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_cells as made

from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.experiments.compare import Finished
from ucip_adapt.experiments.repeat import Repetition, lay_out, mean_psnr_of, seeds_of

TEXT = """
[defaults]
base = "tiny"
codec = "webp"
[groups.table]
evaluate_on = "short"
method = ["base", "dpm"]
[groups.rates]
evaluate_on = "validation"
method = "dpm"
learning_rate = [1e-2, 3e-2]
"""
DPM = "tiny_webp_dpm_short_seed0"
LOW = "tiny_webp_dpm_validation_rate-0.01_seed0"
HIGH = "tiny_webp_dpm_validation_rate-0.03_seed0"


def finished(gain: float, seed: int = 0, weights: str = "a", **more) -> Finished:
    record = made.cell(gain=gain, seed=seed, **more)
    return Finished.from_record({**record, "files": {"adapter_model.safetensors": weights}})


def test_the_mean_is_over_places_of_the_own_codec():
    # Images of Set5 have 25 to 29 dB, those of Set14 25 to 38, at the second quality 1 dB more.
    assert mean_psnr_of(finished(0.25, also={"jpeg": 9.0})) == pytest.approx(
        (27 + 28 + 31.5 + 32.5) / 4 + 0.25
    )
    record = made.cell()
    record["scores"]["rows"] = []
    with pytest.raises(DataError, match="has no scores on webp"):
        mean_psnr_of(Finished.from_record(record))


def test_seeds_differ_in_nothing_else():
    first = finished(0.2, config={"groups": ["a", "b"]})
    others = [finished(0.3, seed=2, config={"groups": ["a"]}), finished(0.1, seed=1)]
    longer = finished(0.5, seed=3, config={"max_train_steps": 400, "groups": ["a"]})
    found = seeds_of(first, [longer, finished(0.5, seed=4, row="ii"), *others, first])
    assert [one.seed for one in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("again", "seeds", "within", "words"),
    [
        (finished(0.2), (0.2, 0.21), True, "; weights the same bit for bit; within the 0.0100 dB"),
        (finished(0.207, weights="b"), (0.2, 0.21), True, "; weights not the same bit for bit; w"),
        (finished(0.193, weights="b"), (0.2, 0.21), True, "-0.0070 dB as a mean, 0.0070 dB at m"),
        (finished(0.22, weights="b"), (0.2, 0.21), False, "; more than the 0.0100 dB between"),
        (finished(0.18, weights="b"), (0.2, 0.21), False, "; more than the 0.0100 dB between"),
        (finished(0.3, weights="b"), (0.2,), None, "there is no other seed to say what to expect"),
    ],
)
def test_verdict(again, seeds, within, words):
    cells = [finished(gain, seed) for seed, gain in enumerate(seeds)]
    both = Repetition.of(cells[0], again, cells)
    assert both.within is within
    assert words in both.verdict()
    assert both.difference == pytest.approx(mean_psnr_of(again) - mean_psnr_of(cells[0]))
    assert both.seeds.count == len(seeds)


def test_one_image_alone_shows():
    """Its difference is hidden in the mean of its set."""
    first, record = finished(0.2), made.cell(gain=0.2)
    record["scores"]["rows"][3]["psnr_db_images"][5] -= 0.14  # Set14 at the second quality
    both = Repetition.of(first, Finished.from_record({**record, "files": {}}), [first])
    assert both.largest == pytest.approx(0.14)
    assert both.difference == pytest.approx(-0.14 / 14 / 4)
    assert both.table().rows[3] == ("Set14", "webp 20", "32.7000", "32.6900", "-0.0100")
    assert both.scores()["largest_difference_db"] == both.largest


def test_nothing_trained_has_no_weights_to_compare():
    base = Finished.from_record({**made.cell("base", row="i"), "files": {}})
    assert "weights" not in Repetition.of(base, base, [base]).verdict()


def test_other_cells_are_not_compared():
    with pytest.raises(DataError, match="not the same cell, measured alike"):
        Repetition.of(finished(0.2), finished(0.2, seed=1), [])
    fewer = finished(0.2, qualities=(10,))
    with pytest.raises(DataError, match="not the same cell, measured alike"):
        Repetition.of(finished(0.2), fewer, [])


def test_what_is_laid_out(ledger_of, finish, tmp_path: Path):
    ledger = ledger_of(TEXT, tmp_path / "cells")
    cell = ledger.cells()[DPM]
    with pytest.raises(ConfigError, match=f"cell {DPM} is not finished .*waits for 2 of 2"):
        lay_out(ledger, cell, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    finish(ledger, LOW, gain=0.1)
    finish(ledger, HIGH, gain=0.3)
    with pytest.raises(ConfigError, match=r"not finished \(ready\)"):
        lay_out(ledger, cell, tmp_path / "new")
    finish(ledger, DPM, rate=0.03)
    finish(ledger, "tiny_webp_base_short")
    (ledger.folder / "pictures.sha256").write_text("sums")
    beside = lay_out(ledger, cell, tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["pictures.sha256", f"{LOW}.json", f"{HIGH}.json"]
    state = beside.state(beside.cells()[DPM])
    assert (state.name, state.learning_rate) == ("ready", 0.03)
    # A cell that tried a rate is not laid out for itself.
    lay_out(ledger, ledger.cells()[LOW], tmp_path / "rate")
    assert not (tmp_path / "rate" / f"{LOW}.json").exists()
