"""What is worth tuning: gain over size, what other codecs lose, which rates were tried."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ucip_adapt.experiments.cells import asked_qualities
from ucip_adapt.experiments.compare import Difference, Finished, difference
from ucip_adapt.experiments.tables import (
    HOLE,
    Matrix,
    Table,
    belongs,
    best_rate,
    difference_cells,
    places_of,
)

__all__ = [
    "PROMPTS",
    "Point",
    "against",
    "forgetting",
    "pareto",
    "points",
    "rate_sweep",
    "rates_in_columns",
    "rates_over_codecs",
]

PROMPTS = "dpm+offset"
"""What row iv trains at this size, and what other ways of tuning are compared with."""


@dataclass(frozen=True)
class Point:
    """One way of tuning: what it costs and what it gains.

    Attributes:
        method: Its name.
        num_bytes: Size of the file that has to be passed on.
        trained: Number of trained parameters.
        learning_rate: Peak rate, chosen on the validation images.
        seconds: Time of training, mean over seeds.
        gain: Gain over the base, in dB.
        validation_gain_db: The same on the validation images; None if it was not kept.
        on_front: Whether nothing of at most this size gains as much. One that was not measured at
            every place that another was cannot be compared, and is neither on it nor before it.
        everywhere: Number of places that any of the points was measured at.
    """

    method: str
    num_bytes: int
    trained: int
    learning_rate: float
    seconds: float
    gain: Difference
    validation_gain_db: float | None
    on_front: bool = False
    everywhere: int = 0

    @property
    def complete(self) -> bool:
        """Whether it was measured at every place that another way of tuning was measured at."""
        return len(self.gain.images) == self.everywhere


def points(cells: Sequence[Finished], matrix: Matrix) -> list[Point]:
    """Every way of tuning the prompted base, against that base.

    Args:
        cells: Finished cells, also of other tables.
        matrix: What the cells share.

    Returns:
        Points from the smallest file to the largest; none without the base's own cell.
    """
    own, base = _tuned_and_base(cells, matrix)
    found = []
    for method, runs in own.items():
        gain = difference(runs, base, places_of({"i": base}, matrix.codec))
        if gain is None:
            continue
        parameters = runs[0].record["parameters"]
        validation = [c.validation_gain_db for c in runs if c.validation_gain_db is not None]
        found.append(
            Point(
                method,
                int(parameters["bytes"]),
                int(parameters["trained"]),
                float(runs[0].config["learning_rate"]),
                fmean(float(run.record["seconds"]["training"]) for run in runs),
                gain,
                fmean(validation) if validation else None,
            )
        )
    return _with_front(found)


def _tuned_and_base(
    cells: Sequence[Finished], matrix: Matrix
) -> tuple[dict[str, list[Finished]], list[Finished]]:
    own = [
        cell
        for cell in cells
        if belongs(cell.config, matrix) and cell.config["base_kind"] == "prompted"
    ]
    base = best_rate([cell for cell in own if cell.config["method"] == "base"])
    methods = dict.fromkeys(cell.config["method"] for cell in own if cell.seed is not None)
    tuned = {
        method: best_rate([cell for cell in own if cell.config["method"] == method])
        for method in methods
    }
    return tuned, base


def _with_front(found: Sequence[Point]) -> list[Point]:
    ordered = sorted(found, key=lambda p: (p.num_bytes, -p.gain.overall.mean))
    everywhere = len({place for point in found for place in point.gain.images})
    result: list[Point] = []
    best = float("-inf")
    for one in ordered:
        point = dataclasses.replace(one, everywhere=everywhere)
        mean = point.gain.overall.mean
        if point.complete:
            point = dataclasses.replace(point, on_front=mean > best)
            best = max(best, mean)
        result.append(point)
    return result


def pareto(found: Sequence[Point], matrix: Matrix, count: str = "") -> Table:
    """Gain over bytes as a table, the data of the plot.

    Args:
        found: See :func:`points`.
        matrix: What the cells share.
        count: "n of m cells", for the title.
    """
    header = (
        *("method", "bytes", "trained", "rate", "gain, dB [95 %]", "by seed", "seeds", "SSIM"),
        *("at least", "higher", "tie", "lower", "validation, dB", "training, s", "front"),
    )
    lines = tuple(
        (
            point.method,
            f"{point.num_bytes:,}",
            f"{point.trained:,}",
            f"{point.learning_rate:g}",
            *difference_cells(point.gain),
            HOLE if point.validation_gain_db is None else f"{point.validation_gain_db:+.3f}",
            f"{point.seconds:.0f}",
            _front(point),
        )
        for point in found
    )
    note = (
        "Gain over the base. Bytes: the file that is passed on. Front: nothing of at most this "
        "size gains as much. Columns as in the summary."
    )
    if not all(point.complete for point in found):
        note += (
            " A gain over a part of the places alone is no rival of the others: it is not on the "
            "front, which says of how many places it is."
        )
    title = f"Gain over size: {matrix.text}{'; ' if count else ''}{count}"
    return Table(title, header, lines, note)


def _front(point: Point) -> str:
    if not point.complete:
        return f"{len(point.gain.images)} of {point.everywhere} places"
    return "yes" if point.on_front else ""


def against(cells: Sequence[Finished], matrix: Matrix) -> Table:
    """Every way of tuning less :data:`PROMPTS`, image by image: what their own gains cannot tell.

    Two gains over the base may have wide intervals that overlap because pictures differ, and yet
    one be ahead on nearly every picture.

    Args:
        cells: Finished cells, also of other tables.
        matrix: What the cells share.

    Returns:
        A row for each other way that has a seed in common with it, by size; none without it.
    """
    own, base = _tuned_and_base(cells, matrix)
    places = places_of({"i": base}, matrix.codec)
    lines = []
    for method, runs in sorted(own.items(), key=lambda item: _bytes_of(item[1])):
        if method == PROMPTS or PROMPTS not in own:
            continue
        found = difference(runs, own[PROMPTS], places)
        if found is not None:
            lines.append((method, f"{_bytes_of(runs):,}", *difference_cells(found)))
    header = ("method", "bytes", "dB [95 %]", "by seed", "seeds", "SSIM", "at least")
    note = f"Each less {PROMPTS}, on the same images. Columns as in the summary."
    title = f"Against {PROMPTS}: {matrix.text}"
    return Table(title, (*header, "higher", "tie", "lower"), tuple(lines), note)


def forgetting(
    cells: Sequence[Finished],
    matrix: Matrix,
    *,
    switched_off: Mapping[str, str] | None = None,
) -> Table:
    """What tuning on one codec does to others, in dB against the base.

    Args:
        cells: Finished cells, also of other tables.
        matrix: What the cells share.
        switched_off: By method, what is left of the change with the adapter switched off.

    Returns:
        A row for each method that was measured on another codec.
    """
    own, base = _tuned_and_base(cells, matrix)
    measured = dict.fromkeys(place.codec for cell in base for place in cell.places)
    codecs = [codec for codec in measured if codec != matrix.codec]
    off = switched_off or {}
    lines = []
    for method, runs in sorted(own.items(), key=lambda item: _bytes_of(item[1])):
        found = [difference(runs, base, places_of({"i": base}, codec)) for codec in codecs]
        if not any(found):
            continue
        gain = difference(runs, base, places_of({"i": base}, matrix.codec))
        shown = [_change(one) for one in (gain, *found)]
        lines.append((method, *shown, *([off.get(method, HOLE)] if off else [])))
    header = ("method", f"{matrix.codec} (tuned on)", *codecs, *(["switched off"] if off else []))
    datasets = dict.fromkeys(p.dataset for cell in base for p in cell.places if p.codec in codecs)
    note = (
        f"Change against the base, in dB [95 %], mean over the qualities of a codec on "
        f"{', '.join(datasets) or 'no set yet'}; {matrix.codec} on all its sets."
    )
    return Table(f"Forgetting: {matrix.text}", header, tuple(lines), note)


def _bytes_of(runs: Sequence[Finished]) -> int:
    return int(runs[0].record["parameters"]["bytes"])


def _change(found: Difference | None) -> str:
    if found is None:
        return HOLE
    tie = " tie" if found.overall.verdict == "tie" else ""
    seeds = f" ({found.seeds.low:+.2f} to {found.seeds.high:+.2f})" if found.seeds.count > 1 else ""
    return f"{found.overall}{seeds}{tie}"


def rate_sweep(cells: Sequence[Finished], codec: str) -> Table:
    """Rates that were tried, by what they gained on the validation images alone.

    Args:
        cells: Finished cells, also of other tables.
        codec: The codec.

    Returns:
        A row for each base and method; the best rate is in bold.
    """
    gains: dict[tuple[str, str], dict[float, list[float]]] = {}
    for cell in cells:
        value = cell.validation_gain_db
        if value is not None and _tries_a_rate(cell) and cell.config["codec"] == codec:
            rates = gains.setdefault((cell.config["base"], cell.config["method"]), {})
            rates.setdefault(float(cell.config["learning_rate"]), []).append(value)
    columns = sorted({rate for rates in gains.values() for rate in rates})
    lines = []
    for (base, method), rates in sorted(gains.items()):
        means = {rate: fmean(values) for rate, values in rates.items()}
        lines.append((base, method, *rates_in_columns(means, columns)))
    header = ("base", "method", *(f"{rate:g}" for rate in columns))
    note = "Gain over the base in dB on validation images; the best rate of each row is in bold."
    return Table(f"Rates tried: {codec}", header, tuple(lines), note)


def _tries_a_rate(cell: Finished) -> bool:
    """Whether it is of a sweep; one of some qualities is no other seed of the whole."""
    return cell.config["evaluate_on"] == "validation" and not asked_qualities(cell.config)


def rates_over_codecs(cells: Sequence[Finished]) -> dict[str, dict[float, float]]:
    """Mean gain of each rate over the codecs that it was tried on, for bases with prompts.

    Rates are compared over the same codecs: a codec counts for a method if all of the method's
    rates were tried on it. A rate that was tried on one codec of several is no rate of the method,
    or a codec on which more was tried than on others would stand alone.

    Args:
        cells: Finished cells, also of other tables.

    Returns:
        Gain in dB on validation images by method and rate; nothing for a method none of whose
        codecs counts.

    Example:
        >>> rates_over_codecs([])
        {}
    """
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for cell in cells:
        config, gain = cell.config, cell.validation_gain_db
        if gain is not None and _tries_a_rate(cell) and config["base_kind"] == "prompted":
            rates = found.setdefault(config["method"], {}).setdefault(config["codec"], {})
            rates.setdefault(float(config["learning_rate"]), []).append(gain)
    means: dict[str, dict[float, float]] = {}
    for method, codecs in sorted(found.items()):
        times = Counter(rate for rates in codecs.values() for rate in rates)
        tried = {rate for rate, count in times.items() if count > 1 or len(codecs) == 1}
        counted = [rates for rates in codecs.values() if rates.keys() >= tried]
        if tried and counted:
            means[method] = {
                rate: fmean(fmean(rates[rate]) for rates in counted) for rate in sorted(tried)
            }
    return means


def rates_in_columns(
    means: Mapping[float, float], columns: Sequence[float], *, digits: int = 3
) -> list[str]:
    """Gains by rate as cells of a table, the best in bold.

    Args:
        means: Gain in dB by rate.
        columns: Rates of the table.
        digits: Behind the point.

    Example:
        >>> rates_in_columns({0.01: 0.1, 0.03: 0.2}, [0.01, 0.03, 0.1])
        ['+0.100', '**+0.200**', '-']
    """
    best = max(means, key=means.__getitem__)
    texts = {rate: f"{gain:+.{digits}f}" for rate, gain in means.items()}
    texts[best] = f"**{texts[best]}**"
    return [texts.get(rate, HOLE) for rate in columns]
