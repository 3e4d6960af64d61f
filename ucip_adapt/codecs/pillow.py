"""JPEG, WebP, AVIF and JPEG 2000 through Pillow, with every option that changes pixels pinned."""

from __future__ import annotations

import dataclasses
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import (
    Availability,
    CodecSpec,
    Degraded,
    check_rgb,
    require_available,
)
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AVIF", "JPEG", "JPEG2000", "WEBP", "Jpeg2000Codec", "PillowCodec"]


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
        >>> import numpy as np
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
        import PIL
        from PIL import features

        if features.check(self.feature):
            version = f"Pillow {PIL.__version__} ({self._library_version()})"
            return Availability(ok=True, version=version)
        return Availability(
            ok=False,
            reason=f"this build of Pillow has no {self.pillow_format}",
            install="pip install --upgrade pillow",
        )

    def _library_version(self) -> str:
        from PIL import features

        return str(features.version(self.feature))

    def fingerprint(self) -> dict[str, Any]:
        """Library, versions and options."""
        import PIL

        return {
            "codec": self.spec.name,
            "library": "pillow",
            "version": PIL.__version__,
            "encoder": f"{self.feature} {self._library_version()}",
            "options": dict(self.options),
        }

    def _quality_options(self, quality: int) -> dict[str, Any]:
        return {"quality": quality}

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image at a quality from the spec's range.

        Args:
            rgb: The image.
            quality: Value of the codec's own knob.

        Raises:
            CodecError: If it is not an RGB image, is too large for the format, or cannot be coded.
            ConfigError: If the quality is out of range.
        """
        import numpy as np
        from PIL import Image

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        require_available(self.spec.name, self.available())
        if max(rgb.shape[:2]) > self.largest_side:
            raise CodecError(
                f"{self.spec.name} allows {self.largest_side} pixels a side, "
                f"the image is {rgb.shape[:2]}"
            )
        options = {**self._quality_options(quality), **dict(self.options)}
        buffer = io.BytesIO()
        try:
            picture = Image.fromarray(rgb)
            start = time.perf_counter()
            picture.save(buffer, self.pillow_format, **options)
            seconds = time.perf_counter() - start
            buffer.seek(0)
            with Image.open(buffer, formats=(self.pillow_format,)) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise CodecError(
                f"{self.spec.name} failed on {rgb.shape[:2]} pixels: {error}"
            ) from error
        stream = buffer.getvalue()
        return Degraded(pixels, num_bytes=len(stream), stream=stream, seconds=seconds)


_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Jpeg2000Codec(PillowCodec):
    """JPEG 2000 at a constant fidelity, as the other codecs are, rather than at a constant rate.

    The knob is the PSNR that the encoder aims at, in tenths of a decibel: whole decibels are up to
    45 % of the rate apart. A rate as the knob would leave nothing but grey of a tiny image, whose
    headers alone exceed it.

    Sides under 16 pixels are padded by repeating the edge, and the result is cropped: OpenJPEG's
    estimate of the fidelity fails on few coefficients (a flat image of 1 x 40 pixels came back 28
    levels off at 35 dB).
    """

    def _quality_options(self, quality: int) -> dict[str, Any]:
        return {"quality_mode": "dB", "quality_layers": [quality / 10]}

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image, padded where it is tiny.

        Args:
            rgb: The image.
            quality: Target PSNR in tenths of a decibel.

        Raises:
            CodecError: If it is not an RGB image, is too large for the format, or cannot be coded.
            ConfigError: If the quality is out of range.
        """
        import numpy as np

        check_rgb(rgb, self.spec.name)
        height, width = rgb.shape[:2]
        missing = [(0, max(0, _SMALLEST_SIDE - side)) for side in (height, width)]
        padded = np.pad(rgb, [*missing, (0, 0)], mode="edge") if any(map(sum, missing)) else rgb
        coded = super().roundtrip(padded, quality)
        return dataclasses.replace(coded, pixels=coded.pixels[:height, :width].copy())


# Settings of AVIF and JPEG 2000 (and of JPEG XL and HEIC in their modules): those whose mean rate
# on the low-resolution images of BSD100 is nearest to that of WebP at 10, 20, 30 and 40; found by
# benchmarks/match_rates.py, written to results/matched_rates.json.

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

AVIF = PillowCodec(
    spec=CodecSpec("avif", "avif", "quality", (28, 39, 45, 50), (0, 100)),
    pillow_format="AVIF",
    feature="avif",
    # One thread: the bytes depend on the number of threads. Images run side by side instead.
    options=(("speed", 6), ("subsampling", "4:2:0"), ("codec", "aom"), ("max_threads", 1)),
    largest_side=16384,
)

JPEG2000 = Jpeg2000Codec(
    spec=CodecSpec("jpeg2000", "jpeg2000", "tenth_db", (248, 264, 277, 287), (100, 600)),
    pillow_format="JPEG2000",
    feature="jpg_2000",
    # Without `mct`, Pillow codes R, G and B apart, which costs 2 dB at the same rate.
    options=(("irreversible", True), ("mct", 1)),
    largest_side=65535,
)
