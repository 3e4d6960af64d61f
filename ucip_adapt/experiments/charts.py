"""Plots as SVG text, the same bytes on every machine: for pages that a test compares with results.

No plotting library: its versions draw the same numbers as other bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Mark", "draw_lines", "draw_marks"]

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 56
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_GREY = "#8a8a8a"
_LINE = 13  # pixels between two labels


@dataclass(frozen=True)
class Mark:
    """A point with an interval.

    Attributes:
        label: What it is.
        x: Horizontal position, above 0 (the axis is logarithmic).
        y: Vertical position.
        low: Lower end of its interval.
        high: Upper end.
        strong: Whether it is on the front; others are grey.
    """

    label: str
    x: float
    y: float
    low: float
    high: float
    strong: bool


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [10.0**power for power in powers if self.low <= 10.0**power <= self.high]
        step = _round_step((self.high - self.low) / 8)
        count = math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9)
        return [(math.ceil(self.low / step - 1e-9) + k) * step for k in range(count + 1)]


def _digits(ticks: Sequence[float]) -> int:
    """Digits behind the point with which no two ticks look alike, two at least."""
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    return max(2, math.ceil(-math.log10(min(gaps)) - 1e-9)) if gaps else 2


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step - 1e-12)


def _vertical(values: Sequence[float]) -> _Axis:
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low) or 1.0
    low = low - margin if low < 0 else low
    return _Axis(low, high + margin, _HEIGHT - _BOTTOM, _TOP)


def draw_marks(marks: Sequence[Mark], *, title: str, x_label: str, y_label: str) -> str:
    """Points with intervals over a logarithmic axis; those on the front are joined by steps.

    Args:
        marks: At least one.
        title: Above the plot.
        x_label: Below it.
        y_label: Beside it.

    Returns:
        SVG.

    Example:
        >>> text = draw_marks([Mark("dpm", 5e3, 0.1, 0.08, 0.12, True)],
        ...                   title="t", x_label="bytes", y_label="dB")
        >>> text.count("<circle")
        1
    """
    xs = [mark.x for mark in marks]
    across = _Axis(min(xs) / 2, max(xs) * 6, _LEFT, _WIDTH - _RIGHT, logarithmic=True)
    up = _vertical([value for mark in marks for value in (mark.low, mark.high)])
    parts = _frame(across, up, title, x_label, y_label)
    front = sorted((mark for mark in marks if mark.strong), key=lambda mark: mark.x)
    if front:
        path = f"M{across(front[0].x):.1f} {up(front[0].y):.1f}"
        for mark in front[1:]:
            path += f"H{across(mark.x):.1f}V{up(mark.y):.1f}"
        path += f"H{_WIDTH - _RIGHT}"
        parts.append(f'<path d="{path}" fill="none" stroke="{_COLOURS[0]}" opacity=".5"/>')
    for mark in marks:
        colour = _COLOURS[0] if mark.strong else _GREY
        x, y = across(mark.x), up(mark.y)
        parts += [
            f'<path d="M{x:.1f} {up(mark.low):.1f}V{up(mark.high):.1f}" stroke="{colour}"/>',
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
        ]
    wanted = [(across(mark.x) + 9, up(mark.y) + 4, mark.label) for mark in marks]
    for (x, y, label), place in zip(wanted, _apart(wanted), strict=True):
        if abs(place - y) > 1:
            parts.append(
                f'<path d="M{x - 5:.1f} {y - 4:.1f}L{x - 1:.1f} {place - 4:.1f}" '
                f'stroke="{_GREY}" stroke-width=".6"/>'
            )
        parts.append(_text(x, place, label))
    return _svg(parts, title)


def _apart(labels: Sequence[tuple[float, float, str]]) -> list[float]:
    """Heights of labels at which none lies on another, as near as can be to those wanted."""
    placed: list[tuple[float, float, float]] = []
    result = {}
    for index in sorted(range(len(labels)), key=lambda k: labels[k][1]):
        left, wanted, text = labels[index]
        right = left + 6.6 * len(text)
        height, k = wanted, 0
        while any(left < r and right > a and abs(height - y) < _LINE - 0.01 for a, r, y in placed):
            k += 1
            height = wanted + (k + 1) // 2 * 3 * (1 if k % 2 else -1)
        placed.append((left, right, height))
        result[index] = height
    return [result[index] for index in range(len(labels))]


def draw_lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str
) -> str:
    """Lines through points, each named in a legend.

    Args:
        series: Points of each line, by name; at least one point.
        title: Above the plot.
        x_label: Below it.
        y_label: Beside it.

    Returns:
        SVG.

    Example:
        >>> text = draw_lines({"base": [(0, 0.0), (300, 0.2)]}, title="t", x_label="s", y_label="d")
        >>> text.startswith("<svg") and "base" in text
        True
    """
    points = [point for line in series.values() for point in line]
    across = _Axis(0.0, max(x for x, _ in points) or 1.0, _LEFT, _WIDTH - _RIGHT)
    up = _vertical([y for _, y in points])
    parts = _frame(across, up, title, x_label, y_label)
    for k, (name, line) in enumerate(series.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        shown = [f"{across(x):.1f},{up(y):.1f}" for x, y in line]
        parts.append(
            f'<polyline points="{" ".join(shown)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in line
        ]
        y = _HEIGHT - _BOTTOM - 12 - 18 * (len(series) - 1 - k)
        parts += [
            f'<path d="M{_WIDTH - 290} {y - 4}h22" stroke="{colour}" stroke-width="2"/>',
            _text(_WIDTH - 262, y, name),
        ]
    return _svg(parts, title)


def _frame(across: _Axis, up: _Axis, title: str, x_label: str, y_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    ticks = up.ticks()
    digits = _digits(ticks)
    for tick in ticks:
        y = up(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:.{digits}f}", "end"))
    for tick in across.ticks():
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 18, f"{tick:,.0f}", "middle"))
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#444"/>')
    parts.append(_text((_LEFT + right) / 2, 20, title, "middle"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 14, x_label, "middle"))
    middle = (_TOP + bottom) / 2
    turned = _text(16, middle, y_label, "middle")
    parts.append(turned.replace("<text", f'<text transform="rotate(-90 16 {middle:.1f})"', 1))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    halo = 'paint-order="stroke" stroke="#fff" stroke-width="3"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {halo}>{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"
