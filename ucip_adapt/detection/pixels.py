"""Codec and quality by the pixels alone, for pictures whose container says nothing.

A network with one hidden layer looks at the traces of :mod:`ucip_adapt.detection.features`.
``docs/detection.md`` says how often it is right, and what it cannot tell.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.assets import detector_file
from ucip_adapt.detection.detection import Detection
from ucip_adapt.detection.features import Traces, feature_names, traces_of, windows_of
from ucip_adapt.errors import DataError
from ucip_adapt.formats import check_format_version

__all__ = ["FORMAT_VERSION", "PixelDetector", "detect_pixels", "shipped_detector"]

FORMAT_VERSION = "1.0"
_LARGEST_FEATURE = 6.0  # in standard deviations: what is further off says no more
_GOOD_FIT = 0.3
_LEAST_SIDE = 48  # the training saw little below
_FEW_COLOURS = 8


@dataclass(frozen=True)
class PixelDetector:
    """The network with what its outputs mean.

    Attributes:
        weights: ``mean`` and ``scale`` of the features; ``hidden.weight``, ``hidden.bias``,
            ``codec.weight``, ``codec.bias``, ``quality.weight``, ``quality.bias``; float32.
        codecs: Names of the outputs; the first stands for no known codec.
        ranges: Knob values of each codec that 0 and 1 of its quality output stand for.
        threshold: Probability below which nothing is said.
        training: What it was trained on.

    Example:
        >>> shipped_detector().codecs[0]
        'none'
    """

    weights: dict[str, NDArray[np.float32]]
    codecs: tuple[str, ...]
    ranges: dict[str, tuple[int, int]]
    threshold: float
    training: dict[str, Any]

    def __call__(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float64], dict[str, int]]:
        """Look at an image.

        Args:
            rgb: ``H x W x 3`` uint8, both sides at least 16 pixels.

        Returns:
            Probability of each of :attr:`codecs`, and what each codec's quality would be.
        """
        traces = [traces_of(window) for window in windows_of(rgb)]
        scores, levels = self.run(np.stack([one.features for one in traces]))
        # Windows of one picture agree mostly: their mean score is no product of independent odds.
        mean = scores.mean(axis=0)
        odds = np.exp(mean - mean.max())
        qualities = self._qualities(levels.mean(axis=0), traces)
        return odds / odds.sum(), qualities

    def decide(self, odds: NDArray[np.float64], qualities: dict[str, int]) -> Detection:
        """Say a codec where its probability reaches the threshold, else that it is not known.

        Args:
            odds: Probability of each of :attr:`codecs`.
            qualities: What each codec's quality would be.

        Returns:
            What is said; its confidence is that of the likeliest output, said or not.
        """
        best = int(odds.argmax())
        name, sure = self.codecs[best], round(float(odds[best]), 3)
        if sure < self.threshold:
            return Detection(
                None, None, f"the pixels look like {name} ({sure:.0%}), too unsure", sure
            )
        if best == 0:
            return Detection(
                None, None, f"the pixels show no codec that is known ({sure:.0%})", sure
            )
        quality = qualities.get(name)
        about = "" if quality is None else f" of quality about {quality}"
        return Detection(name, quality, f"the pixels look like {name}{about} ({sure:.0%})", sure)

    def run(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and quality levels of images by their features, both ``(N, codecs)``."""
        weights = self.weights
        x = (features - weights["mean"]) / weights["scale"]
        x = x.clip(-_LARGEST_FEATURE, _LARGEST_FEATURE)
        hidden = np.maximum(x @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
        scores = hidden @ weights["codec.weight"].T + weights["codec.bias"]
        levels = hidden @ weights["quality.weight"].T + weights["quality.bias"]
        return scores.astype(np.float64), levels.astype(np.float64)

    def _qualities(self, levels: NDArray[np.float64], traces: list[Traces]) -> dict[str, int]:
        found = {}
        for name, level in zip(self.codecs, levels, strict=True):
            if name in self.ranges:
                low, high = self.ranges[name]
                found[name] = round(low + (high - low) * float(np.clip(level, 0, 1)))
        # The steps of a JPEG are read off its coefficients.
        best = max(traces, key=lambda one: one.jpeg_fit)
        if best.jpeg_fit > _GOOD_FIT:
            found["jpeg"] = best.jpeg_quality
        return found


def detect_pixels(rgb: NDArray[np.uint8]) -> Detection:
    """Tell codec and quality from pixels.

    Args:
        rgb: ``H x W x 3`` uint8, as it was decoded: not resized since, perhaps cropped.

    Returns:
        The codec where its probability reaches the detector's threshold; else none, and why. The
        confidence is that of what is said: of a picture without traces, that there are none. Of
        pictures under 48 pixels a side, and of drawings that no photograph can be, the confidence
        is 0: they are not looked at.

    Example:
        >>> detect_pixels(np.zeros((8, 40, 3), np.uint8)).reason
        'too small to tell from its pixels'
    """
    if min(rgb.shape[:2]) < _LEAST_SIDE:
        return Detection(None, None, "too small to tell from its pixels", 0.0)
    drawn = [_drawn(window) for window in windows_of(rgb)]
    if all(drawn):
        return Detection(None, None, f"its pixels are no photograph's: {drawn[0]}", 0.0)
    detector = shipped_detector()
    return detector.decide(*detector(rgb))


def _drawn(rgb: NDArray[np.uint8]) -> str | None:
    """Why these can be no pixels that a codec made of a photograph; None if they can.

    The detector learnt from photographs. Exact edges and flats look like coarse quantisation.
    """
    repeats = []
    for axis in (0, 1):
        lines = np.moveaxis(rgb, axis, 0)
        changes = np.flatnonzero((lines[1:] != lines[:-1]).any(axis=(1, 2)))
        if not changes.size:
            return "all rows are alike" if axis == 0 else "all columns are alike"
        repeats.append(int(np.gcd.reduce(np.diff(changes))))
    if min(repeats) > 1:  # 0, of a single edge, says nothing
        return "every pixel is repeated"
    colours = np.unique(rgb.reshape(-1, 3) @ np.array([1, 256, 65536]))
    return f"they have {colours.size} colours" if colours.size <= _FEW_COLOURS else None


@functools.cache
def shipped_detector() -> PixelDetector:
    """The detector inside the package.

    Raises:
        DataError: If its file is damaged.

    Example:
        >>> 0.5 <= shipped_detector().threshold < 1
        True
    """
    return load_detector(detector_file())


def load_detector(path: Path) -> PixelDetector:
    """Read a detector's file.

    Args:
        path: A safetensors file, as ``recipes/train_detector.py`` writes it.

    Raises:
        DataError: If it is missing, damaged, or made for other features.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            notes = json.loads((file.metadata() or {})["ucip_adapt"])
            names = file.keys()
            weights = {name: file.get_tensor(name).astype(np.float32) for name in names}
        check_format_version(
            notes["format_version"], FORMAT_VERSION, what=str(path), error=DataError
        )
        ranges = {name: (int(low), int(high)) for name, (low, high) in notes["ranges"].items()}
        detector = PixelDetector(
            weights, tuple(notes["codecs"]), ranges, float(notes["threshold"]), notes["training"]
        )
        detector.run(np.zeros((1, len(feature_names())), np.float32))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the detector {path} cannot be used: {error}") from error
    return detector
