"""Second stage: lay one picture over the other as exactly as possible and compare the overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["Alignment", "align", "overlap_images"]

# Longest side of the overlap while it is compared, in pixels.
_GRID = 64
# Below this many pixels of overlap in the first picture, nothing is compared.
_LEAST_OVERLAP = 16.0
# Coarse structure is alike in many pictures; what is finer than this radius is not.
_BLUR_RADIUS = 3
# Changes of size that are tried: around the best so far, three times, finer each time.
_SPREADS = (0.05, 0.02, 0.008)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Alignment:
    """Where the second picture lies in the first: ``first = zoom * second + (left, top)``.

    Attributes:
        zoom: Pixels of the first picture per pixel of the second.
        left: In pixels of the first picture.
        top: In pixels of the first picture.
        correlation: Of the fine structure in the overlap, -1 to 1.
    """

    zoom: float
    left: float
    top: float
    correlation: float


def align(first: Image.Image, second: Image.Image, start: Alignment) -> Alignment:
    """Improve a rough alignment.

    Sizes are tried one after the other, and for each the shift is read off the correlation of all
    shifts at once.

    Args:
        first: Grey picture, mode F.
        second: Grey picture, mode F.
        start: Rough alignment, right to some percent of the size.

    Returns:
        The best alignment found, with its correlation.

    Example:
        >>> blobs = np.random.default_rng(0).uniform(0, 255, (12, 16)).astype(np.float32)
        >>> first = Image.fromarray(blobs).resize((128, 96), Image.Resampling.BICUBIC)
        >>> part = first.crop((20, 10, 100, 90))
        >>> found = align(first, part, Alignment(1.03, 18.0, 12.0, 0.0))
        >>> max(abs(found.left - 20), abs(found.top - 10)) < 1, abs(found.zoom - 1) < 0.01
        (True, True)
    """
    best = Alignment(start.zoom, start.left, start.top, -1.0)
    for spread in _SPREADS:
        base = best
        x0, y0, x1, y1 = _overlap(first, second, base)
        centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
        for change in (1.0, 1 - spread, 1 - spread / 2, 1 + spread / 2, 1 + spread):
            trial = Alignment(
                base.zoom * change,
                centre_x - (centre_x - base.left) * change,
                centre_y - (centre_y - base.top) * change,
                -1.0,
            )
            best = max(best, _shifted(first, second, trial), key=lambda found: found.correlation)
    return best


def overlap_images(
    first: Image.Image, second: Image.Image, alignment: Alignment
) -> tuple[Image.Image, Image.Image] | None:
    """What both pictures show, cut out of each and resized to one common size.

    Args:
        first: Grey picture, mode F.
        second: Grey picture, mode F.
        alignment: How they lie.

    Returns:
        Two images of equal size, or None if the overlap is too small to be compared.
    """
    x0, y0, x1, y1 = _overlap(first, second, alignment)
    if min(x1 - x0, y1 - y0) < _LEAST_OVERLAP:
        return None
    scale = _GRID / max(x1 - x0, y1 - y0)
    size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
    inside = (
        max(0.0, (x0 - alignment.left) / alignment.zoom),
        max(0.0, (y0 - alignment.top) / alignment.zoom),
        min(float(second.width), (x1 - alignment.left) / alignment.zoom),
        min(float(second.height), (y1 - alignment.top) / alignment.zoom),
    )
    return _cut(first, size, (x0, y0, x1, y1)), _cut(second, size, inside)


def overlap_shares(
    first: Image.Image, second: Image.Image, alignment: Alignment
) -> tuple[float, float]:
    """Which part of each picture's area the other one shows.

    Args:
        first: Grey picture.
        second: Grey picture.
        alignment: How they lie.

    Returns:
        Two numbers from 0 to 1.
    """
    x0, y0, x1, y1 = _overlap(first, second, alignment)
    area = max(0.0, x1 - x0) * max(0.0, y1 - y0)
    of_second = area / (alignment.zoom**2 * second.width * second.height)
    return min(1.0, area / (first.width * first.height)), min(1.0, of_second)


def _overlap(first: Image.Image, second: Image.Image, alignment: Alignment) -> Box:
    return (
        max(0.0, alignment.left),
        max(0.0, alignment.top),
        min(float(first.width), alignment.left + alignment.zoom * second.width),
        min(float(first.height), alignment.top + alignment.zoom * second.height),
    )


def _cut(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, box=box)


def _shifted(first: Image.Image, second: Image.Image, trial: Alignment) -> Alignment:
    """The trial, or the better place that the correlation of all shifts points to, twice."""
    best = trial
    for _ in range(2):
        pair = overlap_images(first, second, trial)
        if pair is None:
            break
        a, b = _fine(pair[0]), _fine(pair[1])
        found = Alignment(trial.zoom, trial.left, trial.top, _correlation(a, b))
        best = max(best, found, key=lambda one: one.correlation)
        x0, _, x1, _ = _overlap(first, second, trial)
        shift_x, shift_y = _best_shift(a, b)
        if (shift_x, shift_y) == (0, 0):
            break
        step = (x1 - x0) / a.shape[1]  # pixels of the first picture per pixel of the overlap
        trial = Alignment(trial.zoom, trial.left + shift_x * step, trial.top + shift_y * step, -1.0)
    return best


def _fine(image: Image.Image) -> NDArray[np.float32]:
    # Pillow blurs 8 bits, not floating point.
    blurred = image.convert("L").filter(ImageFilter.GaussianBlur(_BLUR_RADIUS))
    return np.asarray(image, np.float32) - np.asarray(blurred, np.float32)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    product = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / product if product > 0 else -1.0


def _best_shift(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[int, int]:
    """How far ``b`` is to be moved right and down to lie on ``a`` best."""
    height, width = a.shape
    fade = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    spectrum = np.fft.rfft2(a * fade) * np.conj(np.fft.rfft2(b * fade))
    product = np.fft.irfft2(spectrum, s=a.shape)
    y, x = divmod(int(product.argmax()), width)
    return (x + width // 2) % width - width // 2, (y + height // 2) % height - height // 2
