"""Rate and distortion of codecs on a set of images, alone and followed by an upscaler."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from ucip_adapt.codecs.base import code_image
from ucip_adapt.data.degrade import parse_settings
from ucip_adapt.errors import CodecError, ConfigError, DataError
from ucip_adapt.evaluation import source_of
from ucip_adapt.metrics import get_protocol, score

if TYPE_CHECKING:
    from ucip_adapt.data.benchmarks import EvalSet
    from ucip_adapt.evaluation import Upscale

__all__ = ["CODEC_ALONE", "RatePoint", "bd_rates", "measure_rates", "plot_rates"]

CODEC_ALONE = "codec alone"
"""Name of the curve that compares the decoded low-resolution image with the one encoded."""

Metric = Literal["psnr_db", "ssim"]

_SMALLEST = 11  # pixels of a side: the window of SSIM

# Dark enough to be told apart on white, also by most who see few colours (Okabe and Ito, 2008).
_COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b08d00", "#56b4e9")
_MARKERS = "osv^DPX"


@dataclass(frozen=True)
class RatePoint:
    """Means over the images of a set at one quality of one codec.

    Attributes:
        curve: :data:`CODEC_ALONE`, or the name of the upscaler that followed.
        codec: Name of the codec.
        quality: Its quality.
        protocol: ``y-c0`` for the codec alone, ``y-c4`` after an upscaler.
        bpp: Bits per low-resolution pixel.
        psnr_db: PSNR of luma in dB.
        ssim: SSIM of luma.
        images: Number of images.

    Example:
        >>> RatePoint("bicubic", "webp", 10, "y-c4", 0.5, 25.1, 0.7, 5).bpp
        0.5
    """

    curve: str
    codec: str
    quality: int
    protocol: str
    bpp: float
    psnr_db: float
    ssim: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: bpp and SSIM to 1e-5, PSNR to 1e-4 dB."""
        digits = {"bpp": 5, "psnr_db": 4, "ssim": 5}
        values = asdict(self)
        return {
            name: round(value, digits[name]) if name in digits else value
            for name, value in values.items()
        }


def measure_rates(
    codecs: Mapping[str, Sequence[int]],
    image_set: EvalSet,
    methods: Mapping[str, Upscale],
    *,
    progress: bool = False,
) -> tuple[list[RatePoint], dict[str, str]]:
    """Code every image at every quality, alone and followed by each upscaler.

    Args:
        codecs: Qualities by name of the codec; none means those of its suite.
        image_set: The images.
        methods: Upscalers by name.
        progress: Whether to show a bar.

    Returns:
        The points, by curve and codec in the order given, and by codec the reason why it has none:
        the length of its bitstream is not known, or images lack stored streams.

    Raises:
        ConfigError: If there is no codec, or an upscaler has the name of the codec's own curve.
        DataError: If an image is too small to be measured, or a codec keeps all its pixels, so that
            no mean of PSNR exists.
        CodecError: If a codec is not available or failed.
        UnknownNameError: If there is no such codec.

    Example:
        >>> from ucip_adapt import load_eval_set
        >>> from ucip_adapt.evaluation import bicubic
        >>> images = load_eval_set("GB82-val", limit=1)
        >>> points, left_out = measure_rates({"webp": (10, 40)}, images, {"bicubic": bicubic})
        >>> [(point.curve, point.quality) for point in points]
        [('codec alone', 10), ('codec alone', 40), ('bicubic', 10), ('bicubic', 40)]
        >>> points[0].bpp < points[1].bpp and points[2].psnr_db < points[3].psnr_db
        True
    """
    if not codecs:
        raise ConfigError("no codec to measure")
    if CODEC_ALONE in methods:
        raise ConfigError(f"an upscaler cannot be called '{CODEC_ALONE}'")
    for image in image_set.images:
        if min(image.lr.shape[:2]) < _SMALLEST:
            raise DataError(
                f"image {image.name} of {image_set.name} is too small: SSIM of its reduced version "
                f"needs {_SMALLEST} x {_SMALLEST} pixels, and it has {image.lr.shape[1]} x "
                f"{image.lr.shape[0]}; leave it out"
            )
    by_curve: dict[str, list[RatePoint]] = {name: [] for name in (CODEC_ALONE, *methods)}
    left_out: dict[str, str] = {}
    settings = [
        s for name, qualities in codecs.items() for s in parse_settings(name, (*qualities,))
    ]
    bar = tqdm(settings, desc="rates", unit="setting", disable=not progress, leave=False)
    for setting in bar:
        if setting.codec in left_out:
            continue
        codec, reason = source_of(image_set, setting)
        if codec is None:
            left_out[setting.codec] = reason
            continue
        rates: list[float] = []
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in by_curve}
        for image in image_set.images:
            coded = code_image(codec, image.lr, setting.quality, name=image.name)
            if math.isnan(coded.bpp):
                left_out[setting.codec] = "nobody knows the length of its bitstreams"
                break
            rates.append(coded.bpp)
            found = {CODEC_ALONE: score(coded.pixels, image.lr, get_protocol("y-c0"))}
            for name, upscale in methods.items():
                found[name] = score(upscale(coded.pixels), image.gt, get_protocol("y-c4"))
            for name, values in found.items():
                if math.isinf(values.psnr_db):
                    raise DataError(
                        f"{setting}, {name}: nothing of image {image.name} is lost, so its PSNR is "
                        "infinite, and the mean too; leave the image out"
                    )
                scores[name].append((values.psnr_db, values.ssim))
        if setting.codec in left_out:
            continue
        for name, pairs in scores.items():
            psnrs, ssims = zip(*pairs, strict=True)
            by_curve[name].append(
                RatePoint(
                    curve=name,
                    codec=setting.codec,
                    quality=setting.quality,
                    protocol="y-c0" if name == CODEC_ALONE else "y-c4",
                    bpp=fmean(rates),
                    psnr_db=fmean(psnrs),
                    ssim=fmean(ssims),
                    images=len(rates),
                )
            )
    points = [p for curve in by_curve.values() for p in curve if p.codec not in left_out]
    return points, left_out


def bd_rates(
    points: Sequence[RatePoint], anchor: str, *, metric: Metric = "psnr_db"
) -> dict[str, dict[str, float | None]]:
    """Mean difference of rate at equal quality (Bjontegaard), by curve and codec.

    Args:
        points: What :func:`measure_rates` gave.
        anchor: Codec to compare with.
        metric: What equal quality means.

    Returns:
        Per cent of the anchor's rate, negative where fewer bits do; None where the curves share no
        quality, or one does not rise.

    Raises:
        ConfigError: If the anchor has no points.
        DataError: If the library bjontegaard is not installed.

    Example:
        >>> def point(codec, bpp, psnr):
        ...     return RatePoint("codec alone", codec, 1, "y-c0", bpp, psnr, 0.9, 1)
        >>> old = [point("old", rate, 30 + rate) for rate in (1.0, 2.0, 3.0, 4.0)]
        >>> new = [point("new", rate / 2, 30 + rate) for rate in (1.0, 2.0, 3.0, 4.0)]
        >>> bd_rates(old + new, "old")
        {'codec alone': {'old': 0.0, 'new': -50.0}}
    """
    try:
        import bjontegaard
    except ImportError as error:
        raise DataError(f"BD-rates need bjontegaard: {error}; {_INSTALL}") from error
    found: dict[str, dict[str, float | None]] = {}
    for curve in dict.fromkeys(point.curve for point in points):
        here = [point for point in points if point.curve == curve]
        start = _rising(here, anchor, metric)
        if not start[0]:
            raise ConfigError(f"the anchor '{anchor}' has no points to compare with")
        found[curve] = {}
        for codec in dict.fromkeys(point.codec for point in here):
            found[curve][codec] = _bd_rate(bjontegaard.bd_rate, start, _rising(here, codec, metric))
    return found


def _rising(
    points: Sequence[RatePoint], codec: str, metric: Metric
) -> tuple[list[float], list[float]]:
    """Rates and qualities of a codec, by rate."""
    chosen = sorted((point for point in points if point.codec == codec), key=lambda p: p.bpp)
    return [point.bpp for point in chosen], [getattr(point, metric) for point in chosen]


def _bd_rate(
    compute: Any,  # noqa: ANN401 - the library has no types
    start: tuple[list[float], list[float]],
    other: tuple[list[float], list[float]],
) -> float | None:
    for _, values in (start, other):
        if len(values) < 2 or any(a >= b for a, b in pairwise(values)):
            return None
    if max(start[1][0], other[1][0]) >= min(start[1][-1], other[1][-1]):
        return None  # no quality in common
    with warnings.catch_warnings():
        # It warns where the common range is under three quarters; the points are in the report.
        warnings.simplefilter("ignore")
        value = compute(*start, *other, method="pchip", require_matching_points=False)
    return round(float(value), 2) + 0.0 if math.isfinite(value) else None


def plot_rates(points: Sequence[RatePoint], path: Path, *, title: str) -> None:
    """Draw PSNR and SSIM over bits per pixel, a column per curve and a line per codec.

    Args:
        points: What :func:`measure_rates` gave.
        path: PNG file to write.
        title: Line above the plot.

    Raises:
        ConfigError: If there are no points.
        DataError: If Matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(f"plots need Matplotlib: {error}; {_INSTALL}") from error
    curves = list(dict.fromkeys(point.curve for point in points))
    codecs = list(dict.fromkeys(point.codec for point in points))
    if not curves:
        raise ConfigError("there are no points to draw")
    figure = Figure(figsize=(4.6 * len(curves) + 1.6, 7.2), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False, sharex=True)
    for column, curve in enumerate(curves):
        for row, metric in enumerate(("psnr_db", "ssim")):
            panel = panels[row][column]
            for index, codec in enumerate(codecs):
                chosen = sorted(
                    (p for p in points if (p.curve, p.codec) == (curve, codec)),
                    key=lambda p: p.bpp,
                )
                panel.plot(
                    [p.bpp for p in chosen],
                    [getattr(p, metric) for p in chosen],
                    color=_COLOURS[index % len(_COLOURS)],
                    marker=_MARKERS[index % len(_MARKERS)],
                    linestyle="-" if index < len(_COLOURS) else "--",
                    markersize=4,
                    linewidth=1.2,
                    label=codec,
                )
            panel.grid(visible=True, color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
            protocol = next(p.protocol for p in points if p.curve == curve)
            name = "PSNR in dB" if metric == "psnr_db" else "SSIM"
            panel.set_ylabel(f"{name}, {protocol}")
        panels[0][column].set_title(curve, fontsize=10)
        panels[1][column].set_xlabel("bits per low-resolution pixel")
    figure.suptitle(title, fontsize=11)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise DataError(f"cannot write the plot {path}: {error}") from error


_INSTALL = "pip install 'ucip-adapt[plots]'"


def require_plots() -> None:
    """Say what is missing before anything is measured.

    Raises:
        DataError: With the line that installs it.
    """
    try:
        import bjontegaard  # noqa: F401
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise DataError(f"`ucip-adapt rd` needs {error.name}; {_INSTALL}") from error


def check_known_rates(codec: str, points: Sequence[RatePoint], left_out: Mapping[str, str]) -> None:
    """Refuse an anchor without points.

    Args:
        codec: The anchor.
        points: What was measured.
        left_out: Why codecs have no points.

    Raises:
        CodecError: With the reason.
    """
    if all(point.codec != codec for point in points):
        raise CodecError(f"the anchor {codec} has no points: {left_out.get(codec, 'not measured')}")
