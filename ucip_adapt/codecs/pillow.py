"""JPEG and WebP through Pillow, with every option that changes pixels pinned."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb
from ucip_adapt.errors import CodecError

__all__ = ["JPEG", "WEBP", "PillowCodec"]


@dataclass(frozen=True)
class PillowCodec:
    """A codec that Pillow encodes and decodes.

    Attributes:
        spec: Name, qualities and range.
        pillow_format: Pillow's name of the format.
        feature: Name under which ``PIL.features`` knows the library.
        options: Save options besides the quality.
        largest_side: The format's own limit on width and height, in pixels.

    Example:
        >>> flat = np.full((16, 16, 3), 100, np.uint8)
        >>> JPEG.roundtrip(flat, 40).pixels.shape
        (16, 16, 3)
        >>> WEBP.roundtrip(flat, 10).num_bytes < flat.size
        True
    """

    spec: CodecSpec
    pillow_format: str
    feature: str
    options: tuple[tuple[str, Any], ...]
    largest_side: int

    def available(self) -> Availability:
        """Whether this build of Pillow has the format."""
        if features.check(self.feature):
            return Availability(
                ok=True, version=f"Pillow {PIL.__version__} ({self._library_version()})"
            )
        return Availability(
            ok=False,
            reason=f"this build of Pillow has no {self.pillow_format}",
            install="pip install --upgrade pillow",
        )

    def _library_version(self) -> str:
        return str(features.version(self.feature))

    def fingerprint(self) -> dict[str, Any]:
        """Library, versions and options."""
        return {
            "codec": self.spec.name,
            "library": "pillow",
            "version": PIL.__version__,
            "encoder": f"{self.feature} {self._library_version()}",
            "options": dict(self.options),
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image at a quality from the spec's range.

        Args:
            rgb: The image.
            quality: Pillow's ``quality``, higher is better.

        Raises:
            CodecError: If it is not an RGB image, is too large for the format, or cannot be coded.
            ConfigError: If the quality is out of range.
        """
        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        if max(rgb.shape[:2]) > self.largest_side:
            raise CodecError(
                f"{self.spec.name} allows {self.largest_side} pixels a side, "
                f"the image is {rgb.shape[:2]}"
            )
        buffer = io.BytesIO()
        try:
            Image.fromarray(rgb).save(
                buffer, self.pillow_format, quality=quality, **dict(self.options)
            )
            buffer.seek(0)
            with Image.open(buffer) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise CodecError(
                f"{self.spec.name} failed on {rgb.shape[:2]} pixels: {error}"
            ) from error
        return Degraded(pixels=pixels, num_bytes=buffer.getbuffer().nbytes)


JPEG = PillowCodec(
    spec=CodecSpec("jpeg", "jpeg", "quality", (10, 20, 30, 40), (1, 100)),
    pillow_format="JPEG",
    feature="jpg",
    # 4:2:0, what encoders do unasked; 4:4:4 is 1 dB better in RGB at the same quality.
    options=(("subsampling", 2), ("optimize", False), ("progressive", False)),
    largest_side=65500,
)

WEBP = PillowCodec(
    spec=CodecSpec("webp", "webp", "quality", (10, 20, 30, 40), (0, 100)),
    pillow_format="WEBP",
    feature="webp",
    options=(("method", 4), ("lossless", False), ("exact", False)),
    largest_side=16383,
)
