"""The one colour path of all video codecs: full-range BT.601, 4:2:0, 8 or 10 bits.

Everything is float64 with one rounding, as the reference streams were made: sides padded to even
ones of at least 16 by repeating the edge; chroma in the middle of its 2 x 2 block, averaged on the
way down and interpolated (weights 1/4 and 3/4) on the way up. FFmpeg's own converter assumes
limited range and sites chroma elsewhere: 41.6 dB before any compression where this path has 43.7.

Subsampled chroma, not the rounding, bounds RGB figures: on Set5's low-resolution images the path
alone gives 36.13 dB in RGB with 8 bits (36.19 with 10), but 56.8 dB (60.3) in luma.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import CodecError

__all__ = ["Planes", "padded_size", "planes_of", "to_planes", "to_rgb"]

_SMALLEST = 16
"""Shortest side in pixels: x265 and vvenc refuse 8 x 8."""

_BITS = {"yuv420p": 8, "yuvj420p": 8, "yuv420p10le": 10}
"""Bits per sample of the decoded frames' formats; the planes of ``yuvj420p`` are ``yuv420p``'s."""


class Planes(NamedTuple):
    """A 4:2:0 picture.

    Attributes:
        y: Luma, ``H x W``, both even; uint8, or uint16 with 10 bits.
        cb: Blue difference, ``H/2 x W/2``; neutral is half of the range.
        cr: Red difference, as ``cb``.
        bits: 8 or 10.

    Example:
        >>> planes = to_planes(np.zeros((20, 30, 3), np.uint8), bits=10)
        >>> planes.y.shape, planes.cb.shape, planes.cb[0, 0]
        ((20, 30), (10, 15), np.uint16(512))
    """

    y: NDArray[Any]
    cb: NDArray[Any]
    cr: NDArray[Any]
    bits: int

    def tobytes(self) -> bytes:
        """The planes one after the other; 10 bits as two bytes each, the low one first."""
        kind = np.dtype(np.uint8) if self.bits == 8 else np.dtype("<u2")
        return b"".join(plane.astype(kind).tobytes() for plane in self[:3])

    def stacked(self) -> NDArray[Any]:
        """The samples as one ``3H/2 x W`` array, what PyAV makes a frame of."""
        samples = np.concatenate([plane.ravel() for plane in self[:3]])
        return samples.reshape(-1, self.y.shape[1])


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The size in which a picture is coded: even sides, of at least 16 pixels.

    Args:
        height: In pixels.
        width: In pixels.

    Returns:
        Height and width.

    Example:
        >>> padded_size(57, 9)
        (58, 16)
    """
    return max(_SMALLEST, height + height % 2), max(_SMALLEST, width + width % 2)


def to_planes(rgb: NDArray[np.uint8], *, bits: int) -> Planes:
    """Convert a picture to what the encoders take.

    Args:
        rgb: ``H x W x 3`` uint8.
        bits: 8, or 10: then a sample is four times that of 8 bits, rounded once.

    Returns:
        The picture, padded to :func:`padded_size`.

    Example:
        >>> white = np.full((16, 16, 3), 255, np.uint8)
        >>> [int(plane[0, 0]) for plane in to_planes(white, bits=8)[:3]]
        [255, 128, 128]
    """
    height, width = rgb.shape[:2]
    tall, wide = padded_size(height, width)
    # Sums go in the order of the memory, and ties of rounding with them: a turned view of a picture
    # is to give the planes, and the stream, that its copy gives.
    rgb = np.ascontiguousarray(rgb)
    padded = np.pad(rgb, ((0, tall - height), (0, wide - width), (0, 0)), mode="edge")
    red, green, blue = np.moveaxis(padded.astype(np.float64), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = (_halve((part - y) / scale + 128) for part, scale in ((blue, 1.772), (red, 1.402)))
    top, kind = 2**bits - 1, np.uint8 if bits == 8 else np.uint16
    y, cb, cr = (np.rint(part * 2 ** (bits - 8)).clip(0, top).astype(kind) for part in (y, cb, cr))
    return Planes(y, cb, cr, bits)


def to_rgb(planes: Planes, height: int, width: int) -> NDArray[np.uint8]:
    """Convert a decoded picture back.

    Args:
        planes: The picture.
        height: Rows to keep: those below are padding.
        width: Columns to keep.

    Returns:
        ``height x width x 3`` uint8.

    Example:
        >>> grey = np.full((5, 7, 3), 90, np.uint8)
        >>> bool((to_rgb(to_planes(grey, bits=8), 5, 7) == grey).all())
        True
    """
    y, cb, cr = (plane / 2 ** (planes.bits - 8) for plane in planes[:3])
    cb, cr = _double(cb) - 128, _double(cr) - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], -1)
    pixels: NDArray[np.uint8] = np.rint(rgb[:height, :width]).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def planes_of(frame: Any) -> Planes:  # noqa: ANN401 - av.VideoFrame, and PyAV is optional
    """Read the planes of a decoded frame as they are, without FFmpeg's colour conversion.

    Args:
        frame: PyAV's ``VideoFrame``, 4:2:0 with 8 or 10 bits.

    Returns:
        Copies of its planes; the padding of FFmpeg's lines is left out.

    Raises:
        CodecError: If the frame has another format.
    """
    name = frame.format.name
    if name not in _BITS:
        raise CodecError(f"decoded to {name}; 4:2:0 of 8 or 10 bits was expected")
    kind = np.dtype(np.uint8) if _BITS[name] == 8 else np.dtype("<u2")
    y, cb, cr = (
        np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    )
    return Planes(y, cb, cr, _BITS[name])


def _halve(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each 2 x 2 block."""
    height, width = plane.shape
    mean: NDArray[np.float64] = plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return mean


def _double(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear, samples in the middle of their 2 x 2 block, edges repeated."""
    for axis in (0, 1):
        inner = np.moveaxis(plane, axis, 0)
        outer = np.concatenate([inner[:1], inner, inner[-1:]])
        wide = np.empty((2 * len(inner), inner.shape[1]))
        wide[0::2] = 0.25 * outer[:-2] + 0.75 * inner
        wide[1::2] = 0.75 * inner + 0.25 * outer[2:]
        plane = np.moveaxis(wide, 0, axis)
    return plane
