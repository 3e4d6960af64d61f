"""What every codec of the suite offers; nothing here imports a codec library."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ucip_adapt.errors import CodecError, ConfigError, UcipError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Availability",
    "Codec",
    "CodecSpec",
    "Degraded",
    "NamedCodec",
    "check_image_names",
    "check_rgb",
    "code_image",
    "fingerprint_digest",
    "library_availability",
    "load_library",
    "require_available",
    "short_name",
]


def short_name(codec: str) -> str:
    """A codec's name for titles, tags and tables: a program by its name, a folder by its last part.

    Args:
        codec: Name of a codec; a ``command:``, ``folder:`` or ``streams:`` text as well.

    Example:
        >>> [short_name(name) for name in ("webp", "folder:pictures/photos", "streams:hm=there")]
        ['webp', 'photos', 'hm']
        >>> short_name("command:'/opt/my codec/enc' -q {q} {in} -o {out}")
        'enc'
    """
    form, _, rest = codec.partition(":")
    if form == "command":
        try:
            words = shlex.split(rest)
        except ValueError:
            words = []
        return PurePath(words[0]).name if words else codec
    if form == "folder":
        return PurePath(rest).name or codec
    if form == "streams":
        return rest.partition("=")[0] or codec
    return codec


@dataclass(frozen=True)
class CodecSpec:
    """What is known of a codec without its library.

    Attributes:
        name: Name in suites, tables and flags.
        family: Suite slot that it may fill: the name of an image format, ``"hevc"``, ``"vvc"``, or
            one of ``"learned-mse"`` (PSNR-oriented), ``"learned-msssim"`` (SSIM-oriented),
            ``"learned-perceptual"`` (HiFiC) and ``"learned-elic"`` (the unseen one).
        parameter: The codec's own knob (``"quality"``, ``"qp"``).
        qualities: The values that the suites use, from the worst picture to the best.
        quality_range: Smallest and largest value that the codec takes.
        extra: pip extra that brings the library; None if no extra does.
        faithful: False for a stand-in, which fills the slot of another codec in the paper's suite:
            x265 that of HM, a tiny codec that of a large one.
        stored: Whether there is nothing besides ``qualities``, as in a folder of images.

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
    stored: bool = False

    def check_quality(self, quality: int) -> int:
        """Return ``quality`` if the codec takes it.

        Args:
            quality: Value of the codec's own knob.

        Raises:
            ConfigError: If it is out of range, or not among those that are stored.
        """
        low, high = self.quality_range
        if not low <= quality <= high:
            if self.family == "command" and low == high:
                raise ConfigError(
                    f"{self.name} has no {{q}} among its words: it takes 0 alone, not {quality}"
                )
            raise ConfigError(f"{self.name} takes {self.parameter} {low} to {high}, not {quality}")
        if self.stored and quality not in self.qualities:
            known = ", ".join(map(str, self.qualities))
            raise ConfigError(f"{self.name} has no {self.parameter} {quality}. Known: {known}")
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
        num_bytes: Length of the whole bitstream, headers included; 0 where nobody knows it (a
            folder of decoded images).
        stream: The bitstream, where a common decoder reads it; the picture in it may be padded at
            the right and at the bottom.
        seconds: Wall time of the encoder alone, where it was measured.

    Example:
        >>> import numpy as np
        >>> Degraded(np.zeros((8, 16, 3), np.uint8), num_bytes=64).bpp
        4.0
    """

    pixels: NDArray[np.uint8]
    num_bytes: int
    stream: bytes | None = None
    seconds: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the coded image; NaN where the size is not known."""
        height, width = self.pixels.shape[:2]
        return float(8 * self.num_bytes / (height * width)) if self.num_bytes else float("nan")


class Codec(Protocol):
    """A codec with pinned parameters.

    Example:
        >>> import numpy as np
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
        """What decides the bytes besides image and quality; JSON-able, and cheap to ask twice.

        ``codec``, ``library``, ``version``, ``options``, and the sha256 of an external binary or
        of weights.

        Raises:
            CodecError: If the codec is not available here.
        """
        ...

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: Value of the codec's own knob.

        Raises:
            CodecError: If the codec is not available, or the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        ...


@runtime_checkable
class NamedCodec(Protocol):
    """A codec that looks its result up under the image's name instead of making it."""

    def lookup(self, name: str, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Find the coded version of an image.

        Args:
            name: File name of the image, without suffix.
            rgb: The image, to check the size of what is found.
            quality: Value of the codec's own knob.
        """
        ...


def check_image_names(codec: Codec, names: Iterable[str]) -> None:
    """Refuse two images of one name where the codec goes by names: it would give both the same.

    Args:
        codec: The codec.
        names: File names of the images, without suffix.

    Raises:
        CodecError: If it is a :class:`NamedCodec` and a name is there twice.

    Example:
        >>> from ucip_adapt.codecs import get_codec
        >>> check_image_names(get_codec("webp"), ["0001", "0001"])
    """
    if isinstance(codec, NamedCodec):
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise CodecError(
                    f"{codec.spec.name} finds images by their names, and two are called '{name}'"
                )
            seen.add(name)


def code_image(codec: Codec, rgb: NDArray[np.uint8], quality: int, *, name: str) -> Degraded:
    """Encode and decode an image, or look the result up for codecs that go by names.

    Everything that is measured, trained on or cached is coded here, and not by the codec's own
    ``roundtrip``: the codec may be anybody's.

    Args:
        codec: The codec. It gets a copy of the image, and may work in place.
        rgb: The image, ``H x W x 3`` uint8.
        quality: Value of the codec's own knob.
        name: File name of the image, without suffix; empty where it has none.

    Raises:
        CodecError: If the codec is not available, or the image cannot be coded or found, or what
            comes back is not a picture of the same size.
        ConfigError: If the quality is out of range.

    Errors of other types are the codec's own, with a note of what was being coded.

    Example:
        >>> import numpy as np
        >>> from ucip_adapt import get_codec
        >>> code_image(get_codec("webp"), np.zeros((8, 8, 3), np.uint8), 10, name="black").bpp > 0
        True
    """
    # The caller codes the same array again, at other qualities and by other codecs: one that works
    # in place would change what they get. The copy takes less than any encoder.
    own = rgb.copy()
    try:
        if name and isinstance(codec, NamedCodec):
            coded = codec.lookup(name, own, quality)
        else:
            coded = codec.roundtrip(own, quality)
    except UcipError:
        raise
    except Exception as error:
        # Somebody's own codec failed by an error of its own, whose trace lacks what was coded.
        height, width = rgb.shape[:2]
        what = f"'{name}', " if name else "an image of "
        error.add_note(
            f"{codec.spec.name} was coding {what}{width} x {height} pixels, "
            f"at {codec.spec.parameter} {quality}"
        )
        raise
    _check_coded(coded, rgb, codec.spec, quality)
    return coded


def _check_coded(coded: object, rgb: NDArray[np.uint8], spec: CodecSpec, quality: int) -> None:
    """Refuse what is not a picture of the size of the one that was coded.

    Raises:
        CodecError: With the codec's name, and what came back.
    """
    if not isinstance(coded, Degraded):
        raise CodecError(
            f"{spec.name} gave a {type(coded).__name__} at {spec.parameter} {quality}, "
            "not a Degraded(pixels=..., num_bytes=...)"
        )
    pixels: object = coded.pixels
    dtype, shape = getattr(pixels, "dtype", None), getattr(pixels, "shape", None)
    if dtype != "uint8" or shape != rgb.shape:
        found = f"a {type(pixels).__name__}" if dtype is None else f"{dtype} of shape {shape}"
        raise CodecError(
            f"{spec.name}: {found} came back at {spec.parameter} {quality}, not uint8 of shape "
            f"{rgb.shape}"
        )


def check_rgb(rgb: NDArray[np.uint8], codec: str) -> None:
    """Refuse what is not an 8-bit RGB image, rather than convert it silently.

    Args:
        rgb: The image, ``H x W x 3`` uint8.
        codec: Name of the codec, for the message.

    Raises:
        CodecError: With the shape and type found.

    Example:
        >>> import numpy as np
        >>> check_rgb(np.zeros((8, 8), np.uint8), "jpeg")
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.CodecError: jpeg codes H x W x 3 uint8 images, got uint8 of shape (8, 8)
    """
    if rgb.dtype != "uint8" or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
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


@functools.cache
def library_availability(module: str, *, distribution: str, extra: str) -> Availability:
    """Whether a library can be imported; found out once per process.

    Args:
        module: Name under which it is imported.
        distribution: Name under which pip knows it.
        extra: pip extra of this package that brings it.

    Returns:
        Its version, or the reason and the line that installs it. A library that is installed but
        broken counts as missing.

    Example:
        >>> library_availability("no_such", distribution="no-such", extra="video").reason
        'no-such is not installed'
    """
    install = f'pip install "ucip-adapt[{extra}]"'
    try:
        importlib.import_module(module)
        return Availability(ok=True, version=f"{distribution} {metadata.version(distribution)}")
    except ModuleNotFoundError:
        reason = f"{distribution} is not installed"
    except Exception as error:  # a binary wheel of another system raises nearly anything
        reason = f"{distribution} cannot be imported: {error}"
    return Availability(ok=False, reason=reason, install=install)


def load_library(module: str, *, distribution: str, extra: str, codec: str) -> ModuleType:
    """Import a library that only some codecs need.

    Args:
        module: Name under which it is imported.
        distribution: Name under which pip knows it.
        extra: pip extra of this package that brings it.
        codec: Name of the codec that asks, for the message.

    Raises:
        CodecError: If it is missing or broken, with the line that installs it.

    Example:
        >>> load_library(
        ...     "no_such", distribution="no-such", extra="video", codec="hevc-x265"
        ... )  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.CodecError: codec hevc-x265 is not available: no-such is not installed...
    """
    require_available(codec, library_availability(module, distribution=distribution, extra=extra))
    return importlib.import_module(module)


def require_available(codec: str, availability: Availability) -> None:
    """Turn an answer of :meth:`Codec.available` into an error, if it is a no.

    Args:
        codec: Name of the codec, for the message.
        availability: The answer.

    Raises:
        CodecError: With the reason and the line that installs what is missing.

    Example:
        >>> require_available("webp", Availability(ok=True))
    """
    if not availability.ok:
        raise CodecError(
            f"codec {codec} is not available: {availability.reason}. {availability.install}"
        )
