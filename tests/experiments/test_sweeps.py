"""Gain over size, forgetting and rates, from made-up cells."""

from __future__ import annotations

import pytest
import synthetic_cells as made

from ucip_adapt.experiments.compare import Finished
from ucip_adapt.experiments.sweeps import (
    against,
    forgetting,
    pareto,
    points,
    rate_sweep,
    rates_over_codecs,
)
from ucip_adapt.experiments.tables import matrices


def sized(method, num_bytes, gain, *, row=None, **more):
    record = made.cell(method, row=row, gain=gain, **more)
    record["parameters"] |= {"bytes": num_bytes, "trained": num_bytes // 4}
    return Finished.from_record(record)


def base(**more):
    return Finished.from_record(made.cell("base", row="i", **more))


def test_front():
    cells = [
        base(),
        sized("everything", 1_300_000, 0.24, row="v"),
        sized("dpm", 5_000, 0.10, row="iv"),
        sized("dpm+offset", 64_000, 0.30, row="iv", noise=0.02),
        sized("lora", 64_000, 0.25),
        sized("everything", 1_300_000, 0.9, row="iii"),  # of another base: no gain over this one
    ]
    [matrix] = matrices([cell.config for cell in cells], "webp")
    found = points(cells, matrix)
    assert [(p.method, p.on_front) for p in found] == [
        ("dpm", True),
        ("dpm+offset", True),
        ("lora", False),
        ("everything", False),
    ]
    assert found[0].gain.overall.mean == pytest.approx(0.10, abs=1e-4)
    table = pareto(found, matrix, "5 of 9 cells")
    assert table.title.endswith("5 of 9 cells")
    line = dict(zip(table.header, table.rows[1], strict=True))
    assert line["bytes"] == "64,000"
    assert line["gain, dB [95 %]"].startswith("+0.300 [")
    assert (line["higher"], line["front"], line["validation, dB"]) == ("4", "yes", "+0.150")


def test_a_gain_over_fewer_places_is_not_on_the_front():
    """Small pictures gain more: a way that was measured on Set5 alone must not win by that."""
    cells = [
        base(),
        sized("basis", 1_000, 0.50, row="iv", sets={"Set5": 5}),
        sized("dpm", 5_000, 0.10, row="iv"),
        sized("dpm+offset", 64_000, 0.30, row="iv"),
        sized("everything", 1_300_000, 0.20, row="v"),
    ]
    [matrix] = matrices([cell.config for cell in cells], "webp")
    found = points(cells, matrix)
    assert [point.on_front for point in found] == [False, True, True, False]
    table = pareto(found, matrix)
    assert [line[-1] for line in table.rows] == ["2 of 4 places", "yes", "yes", ""]
    assert "not on the front, which says of how many places" in table.note
    assert "of how many places" not in pareto(points(cells[:1] + cells[2:], matrix), matrix).note


def test_pairs_tell_apart_what_gains_do_not():
    """Both gains swing with the picture by far more than they differ; on each picture one leads."""
    swing = {"noise": 0.5, "row": "iv"}
    cells = [
        base(),
        sized("dpm+offset", 64_000, 0.30, **swing),
        sized("lora", 60_000, 0.33, **swing),
        sized("dpm", 5_000, 0.20, **swing),
        sized("everything", 1_300_000, 0.5, row="iii"),
    ]
    [matrix] = matrices([cell.config for cell in cells], "webp")
    gains = {point.method: point.gain.overall for point in points(cells, matrix)}
    assert gains["lora"].low < gains["dpm+offset"].high
    lines = [
        dict(zip(against(cells, matrix).header, row, strict=True))
        for row in against(cells, matrix).rows
    ]
    assert [(line["method"], line["bytes"]) for line in lines] == [
        ("dpm", "5,000"),
        ("lora", "60,000"),
    ]
    assert [line["dB [95 %]"] for line in lines] == [
        "-0.100 [-0.100, -0.100]",
        "+0.030 [+0.030, +0.030]",
    ]
    assert [(line["higher"], line["lower"]) for line in lines] == [("0", "4"), ("4", "0")]
    assert against(cells[:1] + cells[2:], matrix).rows == ()


def test_without_the_base_there_is_no_gain():
    cells = [sized("dpm", 5_000, 0.10, row="iv")]
    [matrix] = matrices([cell.config for cell in cells], "webp")
    assert points(cells, matrix) == []
    assert pareto([], matrix).rows == ()
    assert forgetting(cells, matrix).rows == ()


def test_forgetting():
    also = {"jpeg": -0.4, "hevc-x265": 0.0}
    cells = [
        base(also=dict.fromkeys(also, 0.0)),
        base(config={"cell": "again, without other codecs"}),
        sized("everything", 1_300_000, 0.2, row="v", also=also),
        sized("dpm", 5_000, 0.1, row="iv", also={"jpeg": -0.1}),
        sized("lora", 64_000, 0.2),
    ]
    [matrix] = matrices([cell.config for cell in cells], "webp")
    table = forgetting(cells, matrix, switched_off={"dpm": "0"})
    assert table.header == ("method", "webp (tuned on)", "jpeg", "hevc-x265", "switched off")
    assert [line[0] for line in table.rows] == ["dpm", "everything"]
    dpm, everything = table.rows
    assert dpm[1].startswith("+0.100 [")
    assert (dpm[3], dpm[4]) == ("-", "0"), "not measured on x265"
    assert dpm[2].startswith("-0.100 [")
    assert not dpm[2].endswith("tie")
    assert everything[3] == "+0.000 [+0.000, +0.000] tie"
    assert everything[2].startswith("-0.400 [")
    assert everything[4] == "-"


def test_rates():
    cells = [
        sized("dpm", 1, gain, row="iv", seed=seed, config={"learning_rate": rate, **where})
        for rate, seed, gain, where in [
            (0.01, 0, 0.2, {"evaluate_on": "validation"}),
            (0.01, 1, 0.4, {"evaluate_on": "validation"}),
            (0.03, 0, 0.4, {"evaluate_on": "validation"}),
            (0.03, 1, 0.9, {"evaluate_on": "validation", "cell": "net-v1_webp_dpm_q10_x"}),
            (0.05, 0, 0.9, {"evaluate_on": "full"}),
        ]
    ]
    table = rate_sweep(cells, "webp")
    assert rates_over_codecs(cells) == {"dpm": pytest.approx({0.01: 0.15, 0.03: 0.2})}
    assert table.header == ("base", "method", "0.01", "0.03")
    assert table.rows == (("net-v1", "dpm", "+0.150", "**+0.200**"),)
    assert rate_sweep(cells, "avif").rows == ()


def test_rates_are_compared_over_the_same_codecs():
    tried = [
        ("dpm", "webp", 0.01, 0.2, "iv"),
        ("dpm", "webp", 0.03, 0.4, "iv"),
        ("dpm", "gif", 0.03, 9.0, "iv"),  # without the other rate: it would win by its codec
        ("dpm", "avif", 0.01, 0.6, "iv"),
        ("dpm", "avif", 0.03, 0.1, "iv"),
        ("dpm", "webp", 0.01, 5.0, "ii"),  # of the base without prompts
        ("dpm", "avif", 0.1, 7.0, "iv"),  # tried there alone
        ("lora", "webp", 0.01, -0.2, None),
        ("dora", "webp", 0.01, 0.2, None),
        ("dora", "avif", 0.03, 0.4, None),
    ]
    cells = [
        sized(
            method,
            1,
            gain,
            row=row,
            config={"codec": codec, "learning_rate": rate, "evaluate_on": "validation"},
        )
        for method, codec, rate, gain, row in tried
    ]
    means = rates_over_codecs(cells)
    assert means["dpm"] == pytest.approx({0.01: 0.2, 0.03: 0.125})  # half of the gain: validation
    assert means["lora"] == pytest.approx({0.01: -0.1})
    assert "dora" not in means, "each rate on a codec of its own: nothing compares them"
