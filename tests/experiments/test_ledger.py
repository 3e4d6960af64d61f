"""Groups as matrices, and what the ledger says is done, ready or waiting."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.groups import read_experiments, read_groups
from ucip_adapt.experiments.status import listing, summary, waiting
from ucip_adapt.training.results import ResultsError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

TEXT = """
[defaults]
base = "tiny"
codec = "webp"
max_train_steps = 50

[groups.table]
priority = 20
repeats_priority = 60
seed = [0, 1]
matrix = [
    { method = "base" },
    { method = ["dpm", "everything"], learning_rate = "best" },
    { base = "plain", method = "dpm", learning_rate = 1e-3, max_train_steps = 70 },
]

[groups.rates]
priority = 10
evaluate_on = "validation"
matrix = [
    { method = "dpm", learning_rate = [1e-2, 3e-2, 1e-3], seed = [0, 1] },
    { method = "everything", learning_rate = 1e-4 },
]

[groups.plot]
priority = 15
method = ["base", "bicubic"]
"""
DPM_ON_B = 'codec = "webp", method = "dpm", base = "b"'
TWO_TRIALS = 'evaluate_on = "validation", learning_rate = 1e-2, max_train_steps = [50, 100]'
DPM = "tiny_webp_dpm_full_50-steps_seed0"


@pytest.fixture
def ledger(tmp_path: Path, ledger_of):
    return ledger_of(TEXT, tmp_path / "cells")


def trial(rate: float, seed: int, method: str = "dpm") -> str:
    return f"tiny_webp_{method}_validation_rate-{rate:g}_50-steps_seed{seed}"


@pytest.fixture
def finish_trials(finish):
    def go(ledger, gains: dict[float, tuple[float, float]]) -> None:
        for rate, pair in gains.items():
            for seed, gain in enumerate(pair):
                finish(ledger, trial(rate, seed), gain=gain)

    return go


def test_a_matrix_is_all_combinations_of_its_lists(ledger) -> None:
    groups = ledger.groups
    shared = {"codec": "webp", "max_train_steps": 50}
    assert set(groups["table"].cells) == {
        Cell("webp", "base", "tiny"),
        *(
            Cell(method=method, base="tiny", seed=seed, **shared)
            for method, seed in itertools.product(("dpm", "everything"), (0, 1))
        ),
        *(
            Cell("webp", "dpm", "plain", learning_rate=1e-3, max_train_steps=70, seed=seed)
            for seed in (0, 1)
        ),
    }
    assert len(groups["table"].cells) == 7, "the base has no seed: one cell"
    assert len(groups["rates"].cells) == 7
    lists = 'groups.g = { codec = "webp", method = "bicubic", qualities = [10, 20] }'
    [cell] = read_groups(lists, "here")["g"].cells
    assert cell.qualities == (10, 20)


def test_low_priorities_first_and_repeats_last(ledger) -> None:
    order = [cell.id for cell in ledger.queue()]
    assert len(order) == len(set(order)) == len(ledger.cells()) == 15
    assert order == [
        *(trial(rate, 0) for rate in (1e-2, 3e-2, 1e-3)),  # priority 10
        trial(1e-4, 0, "everything"),
        "tiny_webp_base_full",  # 15, by another group than the first that names it
        "webp_bicubic_full",
        *(f"tiny_webp_{method}_full_50-steps_seed0" for method in ("dpm", "everything")),  # 20
        "plain_webp_dpm_full_rate-0.001_70-steps_seed0",
        *(f"tiny_webp_{method}_full_50-steps_seed1" for method in ("dpm", "everything")),  # 60
        "plain_webp_dpm_full_rate-0.001_70-steps_seed1",
        *(trial(rate, 1) for rate in (1e-2, 3e-2, 1e-3)),  # 80, unless the group says otherwise
    ]
    own = [cell.id for cell in ledger.queue(groups=("table",))]
    base = "tiny_webp_base_full"
    assert own == [base, *order[6:12]]
    assert [cell.id for cell in ledger.queue(only=(DPM, base))] == [base, DPM]
    with pytest.raises(UnknownNameError, match=r"unknown group 'tables'; did you mean 'table'"):
        ledger.queue(groups=("tables",))
    with pytest.raises(UnknownNameError, match=r"unknown cell 'tiny_webp_dpm'; did you mean"):
        ledger.queue(only=("tiny_webp_dpm",))
    assert [cell.id for cell in ledger.queue(only=(base,), groups=("plot",))] == [base]
    with pytest.raises(ConfigError, match=f"cell {DPM} is in none of the groups plot, rates; it "):
        ledger.queue(only=(base, DPM), groups=("plot", "rates"))
    with pytest.raises(ConfigError, match="groups rates; it is in table, plot"):
        ledger.queue(only=(base,), groups=("rates",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[group.g]", "key of here: 'group'; did you mean 'groups'"),
        ("[defaults]", "here has no cell"),
        ("groups = [", "here is not valid TOML"),
        ("groups = 3", r"here: groups: expected a table, such as below \[groups.NAME\], got 3"),
        ("defaults = 3", r"here: defaults: expected a table, such as below \[defaults\], got 3"),
        ("groups.g = 4", r"here: groups.g: expected a table, such as below \[groups.g\], got 4"),
        ('groups.g = { method = "base", base = "b" }', "here: g: a cell needs 'codec'"),
        ('groups.g = { codec = "webp", method = "bicubic", prio = 3 }', "key of here: g: 'prio'"),
        ('groups.g = { codec = "webp", method = "bicubic", priority = "1" }', "a whole number"),
        ('groups.g = { codec = "webp", method = [] }', "here: g: method is an empty list"),
        ('groups.g = { codec = "webp", matrix = [1] }', "here: g: matrix: expected tables, got 1"),
        (
            'groups.g = { codec = "webp", matrix = [{ method = "bicubic" }, { cod = "webp" }] }',
            "key of here: g, row 2 of matrix: 'cod'; did you mean 'codec'",
        ),
        (
            f"groups.g = {{ {DPM_ON_B} }}",
            "g: b_webp_dpm_full_seed0 takes the best rate, but no group tries rates of dpm on b",
        ),
        (
            f"groups.r = {{ {DPM_ON_B}, {TWO_TRIALS} }}\ngroups.g = {{ {DPM_ON_B} }}",
            "rates of dpm on b for webp are tried in different ways",
        ),
    ],
)
def test_a_slip_in_the_file_is_named(text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_groups(text, "here")


def test_the_best_rate_is_known_when_all_are_tried(ledger, finish_trials) -> None:
    cell = ledger.cells()[DPM]
    assert ledger.state(cell).name == "waiting"
    assert ledger.state(cell).reason == "waits for 3 of 3 cells that try its rate"
    finish_trials(ledger, {1e-2: (0.10, 0.20), 3e-2: (0.30, -0.10)})
    assert ledger.state(cell).reason == "waits for 1 of 3 cells that try its rate"
    finish_trials(ledger, {1e-3: (0.13, 0.16)})
    assert ledger.rates_tried(cell) == pytest.approx({1e-2: 0.15, 3e-2: 0.10, 1e-3: 0.145})
    assert (ledger.state(cell).name, ledger.state(cell).learning_rate) == ("ready", 1e-2)
    finish_trials(ledger, {1e-3: (0.10, 0.20)})
    assert ledger.state(cell).learning_rate == 1e-3, "the lower of two equal ones"
    everything = ledger.cells()["tiny_webp_everything_full_50-steps_seed0"]
    assert ledger.state(everything).name == "waiting", "rates are those of the method"


def test_a_negative_gain_is_not_better_for_being_missing(ledger, finish_trials) -> None:
    finish_trials(ledger, {1e-2: (-0.10, -0.10), 3e-2: (-0.05, -0.05), 1e-3: (-0.2, -0.2)})
    assert ledger.state(ledger.cells()[DPM]).learning_rate == 3e-2


def test_a_file_counts_for_the_base_and_the_rate_of_today(ledger, finish, finish_trials) -> None:
    cell = ledger.cells()[DPM]
    finish_trials(ledger, {1e-2: (0.2, 0.2), 3e-2: (0.1, 0.1), 1e-3: (0.1, 0.1)})
    finish(ledger, DPM, rate=1e-2)
    assert ledger.state(cell).name == "finished"
    finish(ledger, DPM, rate=1e-2, fingerprint="c" * 64)
    state = ledger.state(cell)
    assert (state.name, state.learning_rate) == ("ready", 1e-2)
    assert state.reason == "its file was made on another tiny (cccccccccccc)"
    finish(ledger, DPM, rate=3e-2)
    assert ledger.state(cell).reason == "its file was made at rate 0.03, the best is now 0.01"
    finish(ledger, trial(1e-2, 0), fingerprint="c" * 64)
    assert ledger.state(ledger.cells()[trial(1e-2, 0)]).name == "ready"
    assert "its rate" in ledger.state(ledger.cells()["tiny_webp_dpm_full_50-steps_seed1"]).reason
    assert ledger.state(cell).name == "finished", "while rates are tried again, nothing is stale"


def test_damaged_files_and_missing_bases_are_named(tmp_path, ledger_of, finish) -> None:
    ledger = ledger_of(
        'groups.g = { codec = "webp", method = ["bicubic", "base"], base = "gone" }', tmp_path
    )
    bicubic, base = ledger.queue()
    assert ledger.state(base).name == "waiting"
    assert ledger.state(base).reason == "base gone is not here"
    with pytest.raises(ConfigError, match="no base 'gone'"):
        ledger.base("gone")
    finish(ledger, bicubic.id)
    assert ledger.state(bicubic).name == "finished"
    ledger.path(bicubic).write_text('{"format_version": "1.0", "kind": "rates"}')
    with pytest.raises(ResultsError, match="is no cell: its kind is 'rates'"):
        ledger.state(bicubic)
    ledger.path(bicubic).write_text("{")
    with pytest.raises(ResultsError, match="is not a readable results file"):
        ledger.state(bicubic)


WHOLE = {
    "kind": "cell",
    "config": {"learning_rate": 0.01},
    "seconds": {"training": 1.0, "evaluation": 2.0},
    "parameters": {"base_fingerprint": "a" * 64},
    "scores": {"validation_gain_db": 0.1},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": None}, "is no cell: its kind is 'None'"),
        ({"parameters": None}, "'parameters' is missing or no table"),
        ({"config": []}, "'config' is missing or no table"),
        ({"scores": 3}, "'scores' is missing or no table"),
        ({"scores": {}}, "'scores.validation_gain_db' is missing or no number"),
        ({"scores": {"validation_gain_db": None}}, "'scores.validation_gain_db' is missing or no"),
        ({"seconds": {"training": 1.0}}, "'seconds.evaluation' is missing or no number"),
        ({"config": {"learning_rate": "0.01"}}, "'config.learning_rate' is missing or no number"),
    ],
)
def test_a_cell_without_what_is_used_of_it_is_named(changes, message, ledger) -> None:
    cell = ledger.cells()[trial(1e-2, 0)]
    ledger.folder.mkdir()
    values = {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}
    ledger.path(cell).write_text(json.dumps({"format_version": "1.0", **values}))
    for use in (ledger.state, ledger.estimate):
        with pytest.raises(ResultsError, match=re.escape(f"{cell.id}.json") + f".*{message}"):
            use(cell)
    ledger.path(cell).write_text(json.dumps({"format_version": "1.0", **WHOLE}))
    assert ledger.state(cell).name == "finished"


def test_a_cell_whose_file_names_no_rate_is_made_again(ledger, finish, finish_trials) -> None:
    finish_trials(ledger, {1e-2: (0.2, 0.2), 3e-2: (0.1, 0.1), 1e-3: (0.1, 0.1)})
    finish(ledger, DPM, rate=None)
    state = ledger.state(ledger.cells()[DPM])
    assert state.reason == "its file was made at no rate, the best is now 0.01"


def test_times_come_from_finished_cells_like_it(ledger, finish) -> None:
    cell = ledger.cells()["tiny_webp_dpm_full_50-steps_seed1"]
    assert ledger.estimate(cell) is None
    finish(ledger, "tiny_webp_everything_full_50-steps_seed0", training=60.0, evaluation=30.0)
    assert ledger.estimate(cell) is None, "of another recipe"
    finish(ledger, trial(1e-2, 0), training=11.0, evaluation=1.0)
    assert ledger.estimate(cell) is None, "measured on other images"
    finish(ledger, "plain_webp_dpm_full_rate-0.001_70-steps_seed0", training=70.0, evaluation=20.0)
    assert ledger.estimate(cell) == pytest.approx(70.0 * 50 / 70 + 20.0)


def test_the_listing_counts_and_names_what_is_missing(ledger, finish, finish_trials) -> None:
    finish_trials(ledger, {1e-2: (0.2, 0.2), 3e-2: (0.1, 0.1), 1e-3: (0.1, 0.1)})
    finish(ledger, DPM, rate=1e-2)
    lines = listing(ledger, ledger.queue())
    assert lines[:3] == ["table: 1 of 7 cells", "rates: 6 of 7 cells", "plot: 0 of 2 cells"]
    left = {line.split(" ", 3)[-1].strip() for line in lines[3:-1]}
    assert len(left) == 15 - 7
    assert "tiny_webp_dpm_full_50-steps_seed1, rate 0.01, about 1m50s" in left
    assert DPM not in "\n".join(lines)
    assert summary(ledger, ledger.queue()) == (
        "7 of 15 cells finished, about 6m50s of work for 3 of the 8 left"
    )
    plot = listing(ledger, ledger.queue(groups=("plot",)), ("plot",))
    assert [line.split(":")[0] for line in plot if "of" in line.split()] == ["plot", plot[-1]]
    assert waiting(ledger, ledger.queue()) == [
        "waiting   2 cells: waits for 1 of 1 cells that try its rate"
    ]


def test_the_experiments_of_the_repository() -> None:
    groups = read_experiments(RECIPES / "experiments.toml")
    assert {"rates-webp", "rates-tiny-elic", "table3-webp", "table3-tiny-elic"} <= set(groups)
    for codec in ("webp", "tiny-elic"):
        cells = groups[f"table3-{codec}"].cells
        assert {cell.evaluate_on for cell in cells} == {"full"}
        for seed in (0, 1, 2):
            rows = sorted(
                (cell.base, cell.method) for cell in cells if cell.trained and cell.seed == seed
            )
            assert rows == [
                ("ucip-tiny-noprompt-v3", "dpm"),
                ("ucip-tiny-noprompt-v3", "dpm+offset"),
                ("ucip-tiny-noprompt-v3", "everything"),
                ("ucip-tiny-v3", "control"),
                ("ucip-tiny-v3", "dpm"),
                ("ucip-tiny-v3", "dpm+offset"),
                ("ucip-tiny-v3", "everything"),
            ]
        # Equal images, crops, order and steps.
        trained = [cell for cell in cells if cell.trained]
        keys = ("train_data", "max_train_steps", "train_batch_size", "patch_size")
        assert len({tuple(getattr(cell, key) for key in keys) for cell in trained}) == 1
    first = [group.priority for group in groups.values()]
    repeats = [group.repeats_priority for group in groups.values()]
    assert max(first) < min(repeats), "every table has a first seed before any has a second"
