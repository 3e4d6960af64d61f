"""Plots: every number stands where its axis says, labels do not cover one another."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from ucip_adapt.experiments.charts import Mark, draw_lines, draw_marks

NS = "{http://www.w3.org/2000/svg}"
MARKS = [
    Mark("dpm", 5_000, 0.10, 0.08, 0.12, True),
    Mark("dpm+offset", 64_000, 0.30, 0.25, 0.36, True),
    Mark("lora", 64_000, 0.30, 0.22, 0.33, False),
    Mark("dora <1>", 66_000, 0.29, 0.22, 0.33, False),
    Mark("everything", 1_300_000, -0.05, -0.10, 0.02, False),
]


def parse(text):
    return ET.fromstring(text)  # noqa: S314 - made by the function under test


def ticks(svg, anchor):
    """Positions of an axis's numbers, by value."""
    found = {}
    for text in svg.iter(NS + "text"):
        if text.get("text-anchor") == anchor and re.fullmatch(r"-?[\d,.]+", text.text):
            found[float(text.text.replace(",", ""))] = (float(text.get("x")), float(text.get("y")))
    return found


def test_marks_stand_where_the_axes_say():
    svg = parse(draw_marks(MARKS, title="t", x_label="bytes", y_label="dB"))
    up, across = ticks(svg, "end"), ticks(svg, "middle")
    assert {0.0, 0.1, 0.2, 0.3} <= set(up)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter(NS + "circle")]
    assert len(circles) == len(MARKS)
    assert circles[0][1] == pytest.approx(up[0.1][1] - 4, abs=0.2)
    assert circles[1][1] == pytest.approx(up[0.3][1] - 4, abs=0.2)
    # logarithmic: 64,000 lies 0.806 of the way from 10^4 to 10^5
    span = across[100_000][0] - across[10_000][0]
    assert circles[1][0] == pytest.approx(across[10_000][0] + 0.8062 * span, abs=0.2)
    labels = {t.text: (float(t.get("x")), float(t.get("y"))) for t in svg.iter(NS + "text")}
    near = [labels[mark.label][1] for mark in MARKS[1:4]]
    assert min(abs(a - b) for k, a in enumerate(near) for b in near[:k]) >= 12.9


def test_small_gains_have_numbers_that_differ():
    marks = [Mark("a", 900, 0.003, 0.001, 0.006, True), Mark("b", 10**6, 0.022, 0.016, 0.028, True)]
    svg = parse(draw_marks(marks, title="t", x_label="bytes", y_label="dB"))
    up = ticks(svg, "end")
    assert {0.005, 0.01, 0.015, 0.02} <= set(up)
    heights = sorted(y for _, y in up.values())
    gaps = [after - before for before, after in itertools.pairwise(heights)]
    assert max(gaps) - min(gaps) < 0.2, "one number per line, evenly"


def test_lines_stand_where_the_axes_say():
    text = draw_lines(
        {"a": [(0, 0.0), (1000, 0.4)], "b": [(500, 0.2)]}, title="t", x_label="s", y_label="dB"
    )
    svg = parse(text)
    up, across = ticks(svg, "end"), ticks(svg, "middle")
    drawn = svg.find(NS + "polyline").get("points").split()
    first, second = ([float(value) for value in point.split(",")] for point in drawn)
    assert first == pytest.approx([across[0.0][0], up[0.0][1] - 4], abs=0.2)
    assert second == pytest.approx([across[1000.0][0], up[0.4][1] - 4], abs=0.2)
    assert {"a", "b"} <= {t.text for t in svg.iter(NS + "text")}


def test_one_point_is_enough():
    line = draw_lines({"alone": [(0, 0.0)]}, title="", x_label="", y_label="")
    mark = draw_marks([Mark("alone", 10, 0.0, 0.0, 0.0, True)], title="", x_label="", y_label="")
    for text in (line, mark):
        assert "nan" not in text
        assert "alone" in {t.text for t in parse(text).iter(NS + "text")}
