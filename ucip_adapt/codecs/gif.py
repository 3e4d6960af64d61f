"""GIF: a palette of few colours and dither, as no other codec of the table damages pictures."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GIF", "GifCodec"]

_LARGEST_SIDE = 65535


@dataclass(frozen=True)
class GifCodec:
    """GIF through Pillow: a palette by median cut, errors diffused as Floyd and Steinberg do.

    GIF itself loses nothing; what is lost is lost in choosing colours. The knob is their number.

    Attributes:
        spec: Name, qualities and range.

    Example:
        >>> import numpy as np
        >>> ramp = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
        >>> coded = GIF.roundtrip(ramp, 8)
        >>> len(np.unique(coded.pixels.reshape(-1, 3), axis=0)) <= 8
        True
    """

    spec: CodecSpec

    def available(self) -> Availability:
        """Pillow's own code: it is always there."""
        import PIL

        return Availability(ok=True, version=f"Pillow {PIL.__version__}")

    def fingerprint(self) -> dict[str, Any]:
        """Version and options."""
        import PIL

        return {
            "codec": self.spec.name,
            "library": "pillow",
            "version": PIL.__version__,
            "options": {"palette": "median cut", "dither": "Floyd-Steinberg"},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image with a palette of so many colours.

        Args:
            rgb: The image.
            quality: Number of colours at most.

        Raises:
            CodecError: If it is not an RGB image or is too large for the format.
            ConfigError: If the quality is out of range.
        """
        import numpy as np
        from PIL import Image

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        if max(rgb.shape[:2]) > _LARGEST_SIDE:
            raise CodecError(
                f"{self.spec.name} allows {_LARGEST_SIDE} pixels a side, "
                f"the image is {rgb.shape[:2]}"
            )
        picture = Image.fromarray(rgb)
        start = time.perf_counter()
        palette = picture.quantize(quality, Image.Quantize.MEDIANCUT)
        # Pillow dithers only to a palette that it is given.
        indexed = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        buffer = io.BytesIO()
        indexed.save(buffer, "GIF")
        seconds = time.perf_counter() - start
        stream = buffer.getvalue()
        with Image.open(io.BytesIO(stream), formats=("GIF",)) as image:
            pixels = np.array(image.convert("RGB"))
        return Degraded(pixels, num_bytes=len(stream), stream=stream, seconds=seconds)


GIF = GifCodec(CodecSpec("gif", "gif", "colours", (16, 32, 64, 128), (2, 256)))
