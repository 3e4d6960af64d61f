"""JPEG XL through imagecodecs (libjxl)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import (
    Availability,
    CodecSpec,
    Degraded,
    check_rgb,
    library_availability,
    load_library,
)
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["JPEGXL", "JpegXlCodec", "distance_of"]

_EFFORT = 7


def distance_of(quality: int) -> float:
    """Distance that libjxl takes for a quality from 0 to 100, as its `cjxl` does it.

    Args:
        quality: Higher is better; 90 is "visually lossless".

    Returns:
        The distance in units of just noticeable differences, 0.1 to 25.

    Example:
        >>> [round(distance_of(quality), 2) for quality in (90, 30, 10)]
        [1.0, 6.4, 15.27]
    """
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


@dataclass(frozen=True)
class JpegXlCodec:
    """JPEG XL with lossy VarDCT at effort 7.

    Attributes:
        spec: Name, qualities and range.
        effort: 1 (fast) to 9 (thorough).

    Example:
        >>> import numpy as np
        >>> if JPEGXL.available().ok:
        ...     assert JPEGXL.roundtrip(np.zeros((9, 5, 3), np.uint8), 30).pixels.shape == (9, 5, 3)
    """

    spec: CodecSpec
    effort: int = _EFFORT

    def available(self) -> Availability:
        """Whether imagecodecs is there, and has libjxl."""
        found = library_availability("imagecodecs", distribution="imagecodecs", extra="more")
        if not found.ok:
            return found
        imagecodecs = load_library(
            "imagecodecs", distribution="imagecodecs", extra="more", codec=self.spec.name
        )
        if imagecodecs.JPEGXL.available:
            return Availability(
                ok=True, version=f"{found.version} ({imagecodecs.jpegxl_version()})"
            )
        return Availability(
            ok=False,
            reason="this build of imagecodecs has no JPEG XL",
            install='pip install --upgrade "ucip-adapt[more]"',
        )

    def fingerprint(self) -> dict[str, Any]:
        """Library, versions and options."""
        imagecodecs = load_library(
            "imagecodecs", distribution="imagecodecs", extra="more", codec=self.spec.name
        )
        return {
            "codec": self.spec.name,
            "library": "imagecodecs",
            "version": imagecodecs.__version__,
            "encoder": imagecodecs.jpegxl_version(),
            "options": {"effort": self.effort, "numthreads": 1},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: libjxl's quality, higher is better.

        Raises:
            CodecError: If the library is missing, or the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        import numpy as np

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        imagecodecs = load_library(
            "imagecodecs", distribution="imagecodecs", extra="more", codec=self.spec.name
        )
        try:
            start = time.perf_counter()
            stream = imagecodecs.jpegxl_encode(
                np.ascontiguousarray(rgb),
                distance=distance_of(quality),
                effort=self.effort,
                numthreads=1,
            )
            seconds = time.perf_counter() - start
            pixels = imagecodecs.jpegxl_decode(stream, numthreads=1)
        except (imagecodecs.JpegxlError, ValueError) as error:
            raise CodecError(
                f"{self.spec.name} failed on {rgb.shape[:2]} pixels: {error}"
            ) from error
        return Degraded(pixels, num_bytes=len(stream), stream=bytes(stream), seconds=seconds)


JPEGXL = JpegXlCodec(
    # Below 7 (a distance of 18) libjxl codes half the resolution, and less quality is more bytes.
    spec=CodecSpec("jpegxl", "jpegxl", "quality", (20, 30, 47, 56), (10, 100), extra="more"),
)
