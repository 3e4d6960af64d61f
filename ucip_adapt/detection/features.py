"""Traces that codecs leave in pixels, as numbers that are the same wherever a block grid starts."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.detection.jpeg import scaled_tables

__all__ = ["MIN_SIDE", "Traces", "feature_names", "traces_of", "windows_of"]

MIN_SIDE = 16
"""Shortest side of an image that is looked at, in pixels."""

_WINDOW = 256
_MAX_WINDOWS = 4
_PERIOD = 16  # of the longest block grid that shows in a small image
_EDGES = np.array([0.6, 1.6, 2.6, 4.6, 8.6, 16.6], np.float32)
_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Traces:
    """What :func:`traces_of` finds.

    Attributes:
        features: The numbers of :func:`feature_names`, float32.
        jpeg_quality: Quality whose quantisation steps fit the 8 x 8 DCT best, whether the image is
            a JPEG or not.
        jpeg_fit: How well they fit: about 0 of no JPEG, up to 1.
    """

    features: _Array
    jpeg_quality: int
    jpeg_fit: float


def windows_of(rgb: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Cut a large image into what is looked at: at most four windows of 256 x 256 pixels.

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        Windows spread evenly, each at a multiple of 16 pixels; the image itself if it is small.

    Example:
        >>> [window.shape for window in windows_of(np.zeros((300, 100, 3), np.uint8))]
        [(256, 100, 3), (256, 100, 3)]
    """
    rows, columns = (_starts(side) for side in rgb.shape[:2])
    return [rgb[y : y + _WINDOW, x : x + _WINDOW] for y in rows for x in columns][:_MAX_WINDOWS]


def _starts(side: int) -> list[int]:
    if side <= _WINDOW:
        return [0]
    spare = side - _WINDOW
    # A quarter and three quarters of the way: what matters is rarely at the edge.
    return sorted({spare // 4 // _PERIOD * _PERIOD, 3 * spare // 4 // _PERIOD * _PERIOD})


def traces_of(rgb: NDArray[np.uint8]) -> Traces:
    """Measure an image.

    Args:
        rgb: ``H x W x 3`` uint8, both sides at least :data:`MIN_SIDE`.

    Returns:
        Its features.

    Example:
        >>> grey = np.full((16, 24, 3), 90, np.uint8)
        >>> traces_of(grey).features.shape == (len(feature_names()),)
        True
    """
    planes = _ycbcr(rgb)
    found: list[_Array] = []
    for plane in planes:
        found += [_grid(plane), _histograms(plane)]
    found.append(_neighbours(planes[0]))
    coefficients = _sliding_dct(planes[0], 8)
    found.append(_spectrum(coefficients))
    found += [_chroma_spectrum(plane) for plane in planes[1:]]
    fit, quality = _jpeg_fit(coefficients)
    found += [fit, _zeros_by_phase(coefficients), _zeros_by_phase(_sliding_dct(planes[0], 4))]
    found.append(np.log(np.array(planes[0].shape, np.float32)).mean(keepdims=True))
    return Traces(np.concatenate(found).astype(np.float32), quality, float(fit[0]))


@functools.cache
def feature_names() -> tuple[str, ...]:
    """Names of the features, in their order."""
    parts: list[tuple[str, int]] = []
    for plane in ("Y", "Cb", "Cr"):
        parts += [(f"{plane} {kind}", 8) for kind in ("edge", "even", "bend")]
        parts += [(f"{plane} {kind}", 7) for kind in ("step", "bend", "cross")]
        parts.append((f"{plane} level", 3))
    parts += [("Y triple", len(_folds()[1])), ("Y energy", 36), ("Y zeros", 36)]
    parts += [("Cb energy", 8), ("Cr energy", 8), ("JPEG fit", 6)]
    parts += [("zeros by phase 8", 5), ("zeros by phase 4", 5), ("size", 1)]
    return tuple(f"{name} {place}" for name, count in parts for place in range(count))


def _ycbcr(rgb: NDArray[np.uint8]) -> list[_Array]:
    red, green, blue = np.moveaxis(rgb.astype(np.float32), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [luma, (blue - luma) / 1.772, (red - luma) / 1.402]


def _grid(plane: _Array) -> _Array:
    """Strength of each harmonic of 16 pixels in edges, in evenness and in bends.

    Absolute values of a Fourier transform over the position within 16 pixels: they are the same
    wherever the grid starts. Harmonics 1, 2, 4 and 8 are grids of 16, 8, 4 and 2 pixels.
    """
    lines = []
    for turned in (plane, plane.T):
        step = np.abs(np.diff(turned, axis=1))
        bend = np.abs(np.diff(turned, 2, axis=1))
        lines.append([_harmonics(np.minimum(v, 32)) for v in (step, step < 0.6, bend)])
    found: _Array = np.mean(lines, axis=0).reshape(-1).astype(np.float32)
    return found


def _harmonics(values: NDArray[np.generic]) -> _Array:
    by_column = values.mean(axis=0, dtype=np.float64)
    by_column = by_column[: len(by_column) // _PERIOD * _PERIOD or None]
    profile = np.zeros(_PERIOD)
    count = np.zeros(_PERIOD)
    place = np.arange(len(by_column)) % _PERIOD
    np.add.at(profile, place, by_column)
    np.add.at(count, place, 1)
    profile /= np.maximum(count, 1)
    spectrum = np.abs(np.fft.rfft(profile))[1:] / _PERIOD
    relative: _Array = (spectrum / (profile.mean() + 0.02)).astype(np.float32)
    return relative


def _histograms(plane: _Array) -> _Array:
    """Shares of sizes of differences, of their differences, and across; and mean sizes."""
    step = np.concatenate([np.diff(turned, axis=1).ravel() for turned in (plane, plane.T)])
    bend = np.concatenate([np.diff(turned, 2, axis=1).ravel() for turned in (plane, plane.T)])
    cross = np.diff(np.diff(plane, axis=0), axis=1).ravel()
    shares, levels = [], []
    for values in (step, bend, cross):
        sizes = np.abs(values)
        # At least so many are above each edge; quicker than sorting each into its bin.
        above = np.array([1, *((sizes > edge).mean() for edge in _EDGES), 0])
        shares.append(np.sqrt(-np.diff(above)))
        levels.append(np.log(sizes.mean() + 0.1))
    return np.concatenate([*shares, levels]).astype(np.float32)


@functools.cache
def _folds() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class of each triple of {-2..2} up to sign and direction, and the first triple of each."""
    triples = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    weights = np.array([25, 5, 1])
    turned = triples[:, ::-1]
    alike = np.stack([(each + 2) @ weights for each in (triples, -triples, turned, -turned)])
    first, place = np.unique(alike.min(axis=0), return_inverse=True)
    return place, first


def _neighbours(plane: _Array) -> _Array:
    """Shares of triples of neighbouring bends, quantised to -2..2."""
    place, first = _folds()
    counts = np.zeros(len(first))
    for turned in (plane, plane.T):
        bend = np.clip(np.rint(np.diff(turned, 2, axis=1) / 2), -2, 2).astype(np.int64) + 2
        code = bend[:, :-2] * 25 + bend[:, 1:-1] * 5 + bend[:, 2:]
        counts += np.bincount(place[code.ravel()], minlength=len(first))
    shares: _Array = np.sqrt(counts / counts.sum()).astype(np.float32)
    return shares


@functools.cache
def _basis(size: int) -> _Array:
    k, n = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    basis = np.sqrt(2 / size) * np.cos(np.pi * (2 * n + 1) * k / (2 * size))
    basis[0] /= np.sqrt(2)
    single: _Array = basis.astype(np.float32)
    return single


def _sliding_dct(plane: _Array, size: int) -> _Array:
    """DCT of the block at every position: ``H - size + 1, W - size + 1, size, size``."""
    basis = _basis(size)
    views = np.lib.stride_tricks.sliding_window_view
    # One axis after the other, each as one large product: 8 times as quick as a product per block.
    across = np.ascontiguousarray(views(plane - 128, size, axis=1)) @ basis.T  # (H, w, v)
    down = np.ascontiguousarray(views(across, size, axis=0))  # (h, w, v, y)
    return (down @ basis.T).swapaxes(2, 3)  # (h, w, u, v)


def _spectrum(coefficients: _Array) -> _Array:
    """Energy and share of near-zero coefficients by frequency, both directions taken together."""
    sizes = np.abs(coefficients).reshape(-1, 8, 8)
    energy = np.log(sizes.mean(axis=0) + 0.1)
    zeros = (sizes < 1).mean(axis=0)
    upper = np.triu_indices(8)
    return np.concatenate([((part + part.T) / 2)[upper] for part in (energy, zeros)])


def _chroma_spectrum(plane: _Array) -> _Array:
    """Energy by the higher of the two frequencies, from every ninth block."""
    views = np.lib.stride_tricks.sliding_window_view(plane, (8, 8))[::3, ::3]
    basis = _basis(8)
    energy = np.abs(np.matmul(np.matmul(basis, views), basis.T)).reshape(-1, 64).mean(axis=0)
    highest = np.maximum(*np.indices((8, 8))).ravel()
    groups = np.bincount(highest, energy) / np.bincount(highest)
    logs: _Array = np.log(groups + 0.05).astype(np.float32)
    return logs


def _jpeg_fit(coefficients: _Array) -> tuple[_Array, int]:
    """How well the steps of a JPEG quality explain the DCT, at the most likely grid."""
    sizes = np.abs(coefficients)
    # Where the grid is right, most high frequencies are zero.
    zeros = (sizes[..., 2:, 2:] < 1.5).mean(axis=(2, 3))
    rows, columns = (min(8, side) for side in zeros.shape)
    by_phase = np.array([[zeros[y::8, x::8].mean() for x in range(columns)] for y in range(rows)])
    y, x = np.unravel_index(by_phase.argmax(), by_phase.shape)
    blocks = coefficients[y::8, x::8].reshape(-1, 64)[:, _LOW]
    blocks = blocks[:: max(1, len(blocks) // 400)]
    steps = scaled_tables()[:, _LOW].astype(np.float32)  # (100, F)
    # Coefficients of zero fit every step; those that are not have to fit as well.
    known = np.abs(blocks[None]) > 0.6 * steps[:, None]
    match = np.where(known, np.cos(2 * np.pi * blocks[None] / steps[:, None]), 0)
    count = known.sum(axis=(1, 2))
    # A prior of no fit keeps a few lucky coefficients from winning.
    score = match.sum(axis=(1, 2)) / (count + 8)
    # Small steps fit by rounding alone less often than large ones; divisors of the right steps fit
    # too, so that of two like scores the coarser quality is taken.
    weighed = score - 0.0005 * np.arange(100)
    best = int(weighed.argmax())
    spread = (by_phase.max() - by_phase.mean()) / (by_phase.std() + 0.01)
    around = np.delete(score, range(max(0, best - 3), min(100, best + 4)))
    return np.array(
        [
            score[best],
            score[best] - around.max(),
            np.log1p(count[best]) / 5,
            by_phase.max(),
            by_phase.max() - by_phase.mean(),
            spread,
        ],
        np.float32,
    ), best + 1


_LOW = np.array([u * 8 + v for u in range(6) for v in range(6) if 0 < u + v <= 5])


def _zeros_by_phase(coefficients: _Array) -> _Array:
    """How much the share of near-zero coefficients depends on where the grid starts."""
    size = coefficients.shape[-1]
    zeros = (np.abs(coefficients) < 1).mean(axis=(2, 3))
    side = min(size, *zeros.shape)
    phase = np.array([[zeros[y::size, x::size].mean() for x in range(side)] for y in range(side)])
    spectrum = np.abs(np.fft.fft2(phase - phase.mean())) / phase.size
    axes = [np.hypot(spectrum[0, k % side], spectrum[k % side, 0]) for k in (1, 2)]
    return np.array(
        [
            *(100 * axis for axis in axes),
            100 * spectrum[1 % side, 1 % side],
            100 * (phase.max() - phase.mean()),
            100 * phase.std(),
        ],
        np.float32,
    )
