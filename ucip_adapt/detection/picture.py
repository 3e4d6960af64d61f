"""Codec and quality of a picture by all there is: its file, and where that is silent its pixels."""

from __future__ import annotations

import numpy as np

from ucip_adapt.detection.containers import detect_codec
from ucip_adapt.detection.detection import Detection
from ucip_adapt.detection.pixels import detect_pixels
from ucip_adapt.imaging.picture import Picture

__all__ = ["detect_picture"]


def detect_picture(
    picture: Picture, data: bytes | None = None, *, pixels: bool = True
) -> Detection:
    """Tell how a picture was compressed.

    Args:
        picture: The picture, as it was decoded.
        data: Its file; None where there is none.
        pixels: Whether to look at the pixels where the file names no codec.

    Returns:
        What the container says; else what the pixels show, the container's words before it.

    Example:
        >>> detect_picture(Picture(np.zeros((8, 8, 3), np.uint8)), pixels=False).reason
        'no file to go by'
    """
    said = Detection(None, None, "no file to go by", 0.0) if data is None else detect_codec(data)
    if said.codec is not None or not pixels:
        return said
    seen = detect_pixels(_rgb(picture))
    reason = seen.reason if data is None else f"{said.reason}; {seen.reason}"
    return Detection(seen.codec, seen.quality, reason, seen.confidence)


def _rgb(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """8-bit colours: codecs that are known have no more."""
    colour = picture.colour
    if colour.dtype == np.uint16:
        colour = np.rint(colour / 257).astype(np.uint8)
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour
