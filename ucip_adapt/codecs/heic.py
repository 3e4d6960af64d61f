"""HEIC through pillow-heif (libheif with x265)."""

from __future__ import annotations

import io
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
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HEIC", "HeicCodec"]


@dataclass(frozen=True)
class HeicCodec:
    """HEIC, what phones save: one intra picture of HEVC in a HEIF container.

    Attributes:
        spec: Name, qualities and range.
        encoder_options: What x265 is told besides the quality.

    Example:
        >>> import numpy as np
        >>> if HEIC.available().ok:
        ...     assert HEIC.roundtrip(np.zeros((9, 5, 3), np.uint8), 30).pixels.shape == (9, 5, 3)
    """

    spec: CodecSpec
    encoder_options: tuple[tuple[str, str], ...]

    def _library(self) -> ModuleType:
        return load_library(
            "pillow_heif", distribution="pillow-heif", extra="more", codec=self.spec.name
        )

    def available(self) -> Availability:
        """Whether pillow-heif is there, and its libheif has an HEVC encoder."""
        found = library_availability("pillow_heif", distribution="pillow-heif", extra="more")
        if not found.ok:
            return found
        info = self._library().libheif_info()
        if info["HEIF"]:
            return Availability(ok=True, version=f"{found.version} (libheif {info['libheif']})")
        return Availability(
            ok=False,
            reason="this build of pillow-heif has no HEVC encoder",
            install='pip install --upgrade "ucip-adapt[more]"',
        )

    def fingerprint(self) -> dict[str, Any]:
        """Library, versions and options."""
        library = self._library()
        info = library.libheif_info()
        return {
            "codec": self.spec.name,
            "library": "pillow-heif",
            "version": library.__version__,
            "encoder": f"libheif {info['libheif']}, {info['HEIF']}",
            "options": {"chroma": 420, **dict(self.encoder_options)},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: libheif's quality, higher is better.

        Raises:
            CodecError: If the library is missing, or the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        import numpy as np

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        library = self._library()
        height, width = rgb.shape[:2]
        buffer = io.BytesIO()
        try:
            start = time.perf_counter()
            # A dictionary of its own each time: the library adds to the one it is given.
            library.encode(
                "RGB",
                (width, height),
                rgb.tobytes(),
                buffer,
                quality=quality,
                chroma=420,
                enc_params=dict(self.encoder_options),
            )
            seconds = time.perf_counter() - start
            image = library.open_heif(buffer, convert_hdr_to_8bit=True)
            pixels = np.array(image.to_pillow().convert("RGB"))
        except (OSError, ValueError, RuntimeError, SyntaxError) as error:
            raise CodecError(
                f"{self.spec.name} failed on {rgb.shape[:2]} pixels: {error}"
            ) from error
        stream = buffer.getvalue()
        return Degraded(pixels, num_bytes=len(stream), stream=stream, seconds=seconds)


HEIC = HeicCodec(
    spec=CodecSpec("heic", "heic", "quality", (20, 27, 31, 35), (0, 100), extra="more"),
    # Wavefronts change the bytes and are used only where there are threads for them.
    encoder_options=(("x265:pools", "1"), ("x265:frame-threads", "1"), ("x265:wpp", "0")),
)
