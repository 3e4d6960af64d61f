"""What every codec of the suite offers; nothing here imports a codec library."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import CodecError, ConfigError

__all__ = ["Availability", "Codec", "CodecSpec", "Degraded", "check_rgb", "fingerprint_digest"]


@dataclass(frozen=True)
class CodecSpec:
    """What is known of a codec without its library.

    Attributes:
        name: Name in suites, tables and flags.
        family: Suite slot that it may fill.
        parameter: The codec's own knob (``"quality"``, ``"qp"``).
        qualities: The values that the suites use, from the worst picture to the best.
        quality_range: Smallest and largest value that the codec takes.
        extra: pip extra that brings the library; None if Pillow suffices.
        faithful: True only for the paper's own codec, False for a stand-in.

    Example:
        >>> CodecSpec("webp", "webp", "quality", (10, 40), (0, 100)).check_quality(101)
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.ConfigError: webp takes quality 0 to 100, not 101
    """

    name: str
    family: str
    parameter: str
    qualities: tuple[int, ...]
    quality_range: tuple[int, int]
    extra: str | None = None
    faithful: bool = True

    def check_quality(self, quality: int) -> int:
        """Return ``quality`` if the codec takes it.

        Args:
            quality: Value of the codec's own knob.

        Raises:
            ConfigError: If it is out of range.
        """
        low, high = self.quality_range
        if not low <= quality <= high:
            raise ConfigError(f"{self.name} takes {self.parameter} {low} to {high}, not {quality}")
        return quality


@dataclass(frozen=True)
class Availability:
    """Whether a codec works on this machine.

    Attributes:
        ok: True if it does.
        version: Library version where known.
        reason: Why not.
        install: The line that would install it.

    Example:
        >>> Availability(ok=True, version="12.0").ok
        True
    """

    ok: bool
    version: str = ""
    reason: str = ""
    install: str = ""


@dataclass(frozen=True)
class Degraded:
    """An image after encoding and decoding.

    Attributes:
        pixels: Decoded image, ``H x W x 3`` uint8, the size of the input.
        num_bytes: Length of the whole bitstream, headers included.

    Example:
        >>> Degraded(np.zeros((8, 16, 3), np.uint8), num_bytes=64).bpp
        4.0
    """

    pixels: NDArray[np.uint8]
    num_bytes: int

    @property
    def bpp(self) -> float:
        """Bits per pixel of the coded image."""
        height, width = self.pixels.shape[:2]
        return float(8 * self.num_bytes / (height * width))


class Codec(Protocol):
    """A codec with pinned parameters.

    Example:
        >>> from ucip_adapt import get_codec
        >>> codec: Codec = get_codec("jpeg")
        >>> codec.roundtrip(np.zeros((8, 8, 3), np.uint8), 10).pixels.shape
        (8, 8, 3)
    """

    @property
    def spec(self) -> CodecSpec:
        """What is known of the codec without its library."""
        ...

    def available(self) -> Availability:
        """Whether it works here, and what to do if not; cheap to ask twice."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Library, version and options: what decides the bytes besides image and quality."""
        ...

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: Value of the codec's own knob.

        Raises:
            CodecError: If the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        ...


def check_rgb(rgb: NDArray[np.uint8], codec: str) -> None:
    """Refuse what is not an 8-bit RGB image, rather than convert it silently.

    Args:
        rgb: The image, ``H x W x 3`` uint8.
        codec: Name of the codec, for the message.

    Raises:
        CodecError: With the shape and type found.

    Example:
        >>> check_rgb(np.zeros((8, 8), np.uint8), "jpeg")
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.CodecError: jpeg codes H x W x 3 uint8 images, got uint8 of shape (8, 8)
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise CodecError(
            f"{codec} codes H x W x 3 uint8 images, got {rgb.dtype} of shape {rgb.shape}"
        )


def fingerprint_digest(fingerprint: dict[str, Any]) -> str:
    """Short hash of a codec's fingerprint, for cache keys and manifests.

    Args:
        fingerprint: What :meth:`Codec.fingerprint` gives; JSON-able.

    Returns:
        16 hexadecimal digits; the order of the keys does not matter.

    Example:
        >>> fingerprint_digest({"a": 1, "b": 2}) == fingerprint_digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]
