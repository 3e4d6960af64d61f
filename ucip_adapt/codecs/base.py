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
    """

    pixels: NDArray[np.uint8]
    num_bytes: int

    @property
    def bpp(self) -> float:
        """Bits per pixel of the coded image."""
        height, width = self.pixels.shape[:2]
        return float(8 * self.num_bytes / (height * width))


class Codec(Protocol):
    """A codec with pinned parameters."""

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

        Raises:
            CodecError: If the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        ...


def check_rgb(rgb: NDArray[np.uint8], codec: str) -> None:
    """Refuse what is not an 8-bit RGB image, rather than convert it silently.

    Raises:
        CodecError: With the shape and type found.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise CodecError(
            f"{codec} codes H x W x 3 uint8 images, got {rgb.dtype} of shape {rgb.shape}"
        )


def fingerprint_digest(fingerprint: dict[str, Any]) -> str:
    """Short hash of a codec's fingerprint, for cache keys and manifests."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]
