"""Small plots as SVG inside the page: they follow its colours, light or dark, without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ucip_adapt.report.markup import Html, element, join

__all__ = ["COLOURS", "Mark", "Series", "dot_plot", "xy_plot"]

COLOURS = 8
_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 46
_ROW = 26


@dataclass(frozen=True)
class Mark:
    """A point of a plot.

    Attributes:
        x: Along.
        y: Up; in a dot plot the number of its line.
        hover: What is said of it on hover: its values, and where they come from.
        low: Lower end of an interval in the direction of the values.
        high: Upper end.
        label: A word beside it.
    """

    x: float
    y: float
    hover: str
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: In the legend.
        marks: Its points.
        joined: Whether a line goes through them, in their order.
    """

    name: str
    marks: Sequence[Mark]
    joined: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them.

    Example:
        >>> ticks(0.0, 0.9)
        [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - count))
    digits = max(0, 1 - math.floor(math.log10(step)))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, digits) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**power for power in powers for m in (1, 3)]
    return [value for value in found if low <= value <= high]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (at - low) / (high - low) * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def _axis(values: Sequence[float], start: float, stop: float, *, log: bool = False) -> _Axis:
    low, high = min(values), max(values)
    if log:
        return _Axis(low / 1.6, high * 1.6, start, stop, log=True)
    margin = 0.07 * (high - low) or abs(high) * 0.1 or 1.0
    return _Axis(low - margin, high + margin, start, stop)


def xy_plot(series: Sequence[Series], *, x: str, y: str, log_x: bool = False) -> Html:
    """Points or lines in two dimensions.

    Args:
        series: What is shown; values that are not finite, or not above 0 on a logarithmic axis,
            must be left out before.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic.

    Returns:
        A figure; nothing where there is no point.
    """
    marks = [mark for one in series for mark in one.marks]
    if not marks:
        return Html("")
    ends = [v for mark in marks for v in (mark.y, mark.low, mark.high) if v is not None]
    across = _axis([mark.x for mark in marks], _LEFT, _WIDTH - _RIGHT, log=log_x)
    up = _axis(ends, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up), *_titles(x, y, _HEIGHT)]
    taken: list[tuple[float, float, float]] = []
    for number, one in enumerate(series):
        shape = [_mark(across(m.x), up(m.y), number, m.hover) for m in one.marks]
        bars = [
            _line(across(m.x), up(m.low), across(m.x), up(m.high), "bar")
            for m in one.marks
            if m.low is not None and m.high is not None
        ]
        words = _labels([(across(m.x), up(m.y), m.label) for m in one.marks if m.label], taken)
        path = " ".join(f"{across(m.x)},{up(m.y)}" for m in one.marks)
        again = {"stroke-dasharray": "5 4"} if number >= COLOURS else {}
        joined = [element("polyline", [], {"points": path, **again})] if one.joined else []
        parts.append(element("g", [*joined, *bars, *shape, *words], {"class": _colour(number)}))
    return _figure(parts, _HEIGHT, series, f"{y} over {x}")


def dot_plot(lines: Sequence[str], series: Sequence[Series], *, x: str) -> Html:
    """One line of dots for each name, values along the line.

    Args:
        lines: Names, from the top.
        series: Points whose ``y`` is the number of their line, from 0.
        x: Title of the axis; 0 is always on it.
    """
    marks = [mark for one in series for mark in one.marks]
    if not marks:
        return Html("")
    left, height = 150, _TOP + _ROW * len(lines) + _BOTTOM
    across = _axis([0.0, *(mark.x for mark in marks)], left, _WIDTH - _RIGHT)
    parts = [*_vertical(across, _TOP, height - _BOTTOM), *_titles(x, "", height)]
    parts.append(_line(across(0), _TOP, across(0), height - _BOTTOM, "zero"))
    for number, name in enumerate(lines):
        middle = _TOP + _ROW * (number + 0.5)
        parts.append(_line(left, middle, _WIDTH - _RIGHT, middle, "grid"))
        parts.append(_text(left - 8, middle + 4, name, "end"))
    for number, one in enumerate(series):
        shape = [_mark(across(m.x), _TOP + _ROW * (m.y + 0.5), number, m.hover) for m in one.marks]
        parts.append(element("g", shape, {"class": _colour(number)}))
    return _figure(parts, height, series, x)


def _labels(
    wanted: Sequence[tuple[float, float, str]], taken: list[tuple[float, float, float]]
) -> list[Html]:
    """Words beside points, above or below; one that finds no room is left to the hover."""
    words = []
    for x, y, text in wanted:
        width = 7.0 * len(text)
        right = x + 7 + width < _WIDTH
        left = x + 7 if right else x - 7 - width
        for baseline in (y - 6, y + 15):
            if any(abs(b - baseline) < 12 and s < left + width and left < e for s, e, b in taken):
                continue
            taken.append((left, left + width, baseline))
            anchor = "start" if right else "end"
            words.append(_text(x + 7 if right else x - 7, baseline, text, anchor))
            break
    return words


def _grid(across: _Axis, up: _Axis) -> list[Html]:
    parts = _vertical(across, _TOP, _HEIGHT - _BOTTOM)
    for value in up.ticks:
        parts.append(_line(_LEFT, up(value), _WIDTH - _RIGHT, up(value), "grid"))
        parts.append(_text(_LEFT - 6, up(value) + 4, f"{value:g}", "end"))
    if up.low < 0 < up.high:
        parts.append(_line(_LEFT, up(0), _WIDTH - _RIGHT, up(0), "zero"))
    return parts


def _vertical(across: _Axis, top: float, bottom: float) -> list[Html]:
    parts = []
    for value in across.ticks:
        parts.append(_line(across(value), top, across(value), bottom, "grid"))
        text = f"{value:,.0f}" if across.log else f"{value:g}"
        parts.append(_text(across(value), bottom + 17, text, "middle"))
    return parts


def _titles(x: str, y: str, height: int) -> list[Html]:
    middle = (height - _BOTTOM + _TOP) / 2
    along = element(
        "text",
        [y],
        {"transform": f"translate(14 {middle}) rotate(-90)", "text-anchor": "middle"},
    )
    return [_text((_WIDTH + _LEFT) / 2, height - 8, x, "middle"), *([along] if y else [])]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", [], {"class": kind, **{k: f"{v:g}" for k, v in places.items()}})


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return element("text", [text], {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor})


def _colour(number: int) -> str:
    return f"s{number % COLOURS}"


def _mark(x: float, y: float, number: int, hover: str) -> Html:
    """A shape of its own for each series, so that colour is not all that tells them apart."""
    shapes = (
        ("circle", {"cx": f"{x:g}", "cy": f"{y:g}", "r": "4.5"}),
        ("rect", {"x": f"{x - 4:g}", "y": f"{y - 4:g}", "width": "8", "height": "8"}),
        ("path", {"d": f"M{x:g} {y - 6:g}l5.5 10h-11z"}),
        ("path", {"d": f"M{x:g} {y - 6:g}l6 6l-6 6l-6 -6z"}),
    )
    # The ninth series has the first one's colour, but not its shape.
    name, places = shapes[(number + number // COLOURS) % len(shapes)]
    return element(name, [element("title", [hover])], {"class": "mark", **places})


def _figure(parts: Sequence[Html], height: int, series: Sequence[Series], label: str) -> Html:
    view = {"viewBox": f"0 0 {_WIDTH} {height}", "role": "img", "aria-label": label}
    plot = element("div", [element("svg", parts, view)], {"class": "scroll plot"})
    swatch = {"viewBox": "0 0 14 14", "class": "swatch", "aria-hidden": "true"}
    legend = [
        element(
            "li",
            [
                element(
                    "svg",
                    [element("g", [_mark(7, 7, number, one.name)], {"class": _colour(number)})],
                    swatch,
                ),
                one.name,
            ],
        )
        for number, one in enumerate(series)
    ]
    shown = [element("ul", legend, {"class": "legend"})] if len(series) > 1 else []
    return element("figure", [join([plot, *shown])])
