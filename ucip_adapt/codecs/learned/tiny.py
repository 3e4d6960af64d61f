"""The tiny codecs as the table of codecs knows them; torch is imported when one of them codes."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ucip_adapt.assets
from ucip_adapt.codecs.arithmetic import FIXED, fixed_arithmetic
from ucip_adapt.codecs.base import (
    Availability,
    CodecSpec,
    Degraded,
    check_rgb,
    library_availability,
    require_available,
)
from ucip_adapt.codecs.learned.container import LARGEST_SIDE, Header, pack, unpack
from ucip_adapt.digests import cached_sha256_of
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ucip_adapt.codecs.learned.coding import Coder

__all__ = ["TINY_ELIC", "TINY_MSE", "TINY_MSSSIM", "TINY_PERCEPTUAL", "TinyCodec"]


@dataclass(frozen=True)
class TinyCodec:
    """A small learned codec trained by ``recipes/train_codec.py``.

    A stand-in of a kind of codec, not the codec of any paper: Cheng2020, HiFiC and ELIC have
    tens to hundreds of times as many parameters.

    Attributes:
        spec: Name, qualities and range.
        weights: Its file; None for the one inside the package.

    Example:
        >>> import numpy as np
        >>> image = np.full((24, 33, 3), 100, np.uint8)
        >>> stream = TINY_MSE.encode(image, 4)
        >>> coded = TINY_MSE.roundtrip(image, 4)
        >>> coded.num_bytes == len(stream), np.array_equal(coded.pixels, TINY_MSE.decode(stream))
        (True, True)
    """

    spec: CodecSpec
    weights: Path | None = None

    @property
    def path(self) -> Path:
        """The file of weights and tables."""
        if self.weights is not None:
            return self.weights
        folder = Path(ucip_adapt.assets.__file__).parent / "codecs"
        return folder / f"{self.spec.name}.safetensors"

    def available(self) -> Availability:
        """Whether the weights and the range coder are there."""
        found = library_availability("constriction", distribution="constriction", extra="dev")
        if not found.ok:  # a dependency of the package itself, so that no extra brings it
            return replace(found, install="pip install constriction")
        if not self.path.is_file():
            return Availability(
                ok=False,
                reason=f"there is no file of weights {self.path.name}",
                install=f"train it: python recipes/train_codec.py --codec {self.spec.name}",
            )
        return Availability(ok=True, version=f"weights {self._sha256()[:12]}, {found.version}")

    def fingerprint(self) -> dict[str, Any]:
        """Weights, and the libraries that compute with them."""
        require_available(self.spec.name, self.available())
        return {
            "codec": self.spec.name,
            "library": "torch",
            "version": metadata.version("torch"),
            "encoder": f"constriction {metadata.version('constriction')}",
            "options": dict(FIXED),
            "weights_sha256": self._sha256(),
        }

    def encode(self, rgb: NDArray[np.uint8], quality: int) -> bytes:
        """Code an ``H x W x 3`` uint8 image; the whole stream.

        Args:
            rgb: The image.
            quality: The rate, from 1.

        Raises:
            CodecError: If the codec is not available, or the image cannot be coded.
            ConfigError: If there is no such rate.
        """
        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        height, width = rgb.shape[:2]
        if max(height, width) > LARGEST_SIDE:
            raise CodecError(
                f"{self.spec.name} allows {LARGEST_SIDE} pixels a side, the image is "
                f"{height} x {width}"
            )
        coder, sha256 = self._coder()
        with fixed_arithmetic():
            payload = coder.encode(rgb, quality - 1)
        return pack(Header(self.spec.name, quality, width, height), payload, sha256)

    def decode(self, stream: bytes) -> NDArray[np.uint8]:
        """Decode a stream of :meth:`encode`, here or on another machine with the same weights.

        The range decoder's tables, means and scales are exact everywhere. The last steps are
        float32, so that on another kind of machine a pixel may be rounded to the neighbouring
        level.

        Args:
            stream: The whole stream.

        Returns:
            The image, ``H x W x 3`` uint8.

        Raises:
            CodecError: If the stream is damaged, or made by another codec or other weights.
        """
        coder, sha256 = self._coder()
        header, payload = unpack(stream, self.spec.name, sha256)
        self.spec.check_quality(header.rate)
        with fixed_arithmetic():
            return coder.decode(payload, header.rate - 1, header.height, header.width)

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image; the decoder sees nothing but the stream.

        Args:
            rgb: The image.
            quality: The rate, from 1.

        Raises:
            CodecError: If the codec is not available, or the image cannot be coded.
            ConfigError: If there is no such rate.
        """
        self._coder()  # reading the weights is no part of the encoder's time
        start = time.perf_counter()
        stream = self.encode(rgb, quality)
        seconds = time.perf_counter() - start
        return Degraded(self.decode(stream), num_bytes=len(stream), seconds=seconds)

    def _sha256(self) -> str:
        return cached_sha256_of(self.path)

    def _coder(self) -> tuple[Coder, str]:
        require_available(self.spec.name, self.available())
        stat = self.path.stat()
        return _load(self.path, self.spec.name, stat.st_mtime_ns, stat.st_size), self._sha256()


# By time and size as well, so that weights written anew are read anew.
@functools.lru_cache(maxsize=8)
def _load(path: Path, name: str, time_ns: int, size: int) -> Coder:
    from ucip_adapt.codecs.learned.weights import load_codec

    stored = load_codec(path)
    if stored.codec != name:
        raise CodecError(f"{path} holds weights of {stored.codec}, not of {name}")
    return stored.coder()


def _tiny(name: str, family: str, rates: int) -> TinyCodec:
    qualities = tuple(range(1, rates + 1))
    return TinyCodec(CodecSpec(name, family, "rate", qualities, (1, rates), faithful=False))


TINY_MSE = _tiny("tiny-mse", "learned-mse", 4)
TINY_MSSSIM = _tiny("tiny-msssim", "learned-msssim", 4)
TINY_PERCEPTUAL = _tiny("tiny-perceptual", "learned-perceptual", 3)
TINY_ELIC = _tiny("tiny-elic", "learned-elic", 4)
