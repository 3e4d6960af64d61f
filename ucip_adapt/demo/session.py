"""What the buttons of the web page do: damage a picture, restore it, measure what came out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.assets import image_folder, shipped_adapters
from ucip_adapt.codecs import CodecSpec, all_codecs
from ucip_adapt.codecs.base import NamedCodec, code_image
from ucip_adapt.data.bicubic import bicubic_down4, bicubic_up4, modcrop
from ucip_adapt.detection import Choice, Detection, choose_adapter, detect_picture
from ucip_adapt.errors import ConfigError, DataError, unknown_name
from ucip_adapt.imaging import Picture, read_picture
from ucip_adapt.imaging.enlarge import enlarge_picture
from ucip_adapt.imaging.read import TooManyPixelsError
from ucip_adapt.metrics import get_protocol, score
from ucip_adapt.models import bicubic_x4
from ucip_adapt.upscaler import load

__all__ = [
    "MAX_FILE_PIXELS",
    "MAX_PIXELS",
    "ORIGINAL",
    "Restored",
    "Row",
    "Session",
    "Wish",
    "middle",
    "samples",
]

MAX_PIXELS = 512 * 512
"""Default limit of what the network enlarges at once: seconds on one core, 2048 x 2048 come out."""

MAX_FILE_PIXELS = 64_000_000
"""What a file may have that only the middle is taken of: as many as a telephone's camera makes.

Reading it takes 0.4 GB, 1.2 GB at 16 bits with transparency, whatever the size of the file."""

ORIGINAL = "original"
"""Name of the truth among the versions of a picture."""

_PROTOCOL = "y-c4"
_SCALE = 4
_SMALLEST_TRUTH = 32  # what is left after the protocol's crop has to hold SSIM's window
_BLOCK = 64  # transform blocks of up to this size stay whole when a picture is cut


@dataclass(frozen=True)
class Wish:
    """What to do with a picture.

    Attributes:
        codec: The codec that damages it after it was reduced to a quarter; None takes the picture
            as it is.
        quality: Value of the codec's own knob.
        adapter: ``"auto"``, ``"none"``, or the name, folder or Hub id of an adapter.
        crop: Whether to take the middle of a picture that is too large, rather than refuse it.

    Example:
        >>> Wish("webp", 20).adapter
        'auto'
    """

    codec: str | None = None
    quality: int = 0
    adapter: str = "auto"
    crop: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table of scores, protocol ``y-c4``.

    Attributes:
        method: ``"bicubic"``, ``"base"`` or ``"adapter"``.
        psnr_db: Against the original, in dB.
        ssim: Against the original.
    """

    method: str
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Restored:
    """What came of a picture.

    Attributes:
        result: The enlarged picture, with all that the source carried.
        versions: All versions of ``result``'s size by name: ``"bicubic"``, where they are known
            also ``"base"``, and ``"original"``, and last the result, ``"base"`` or ``"adapter"``.
        rows: Scores of all versions but the original; empty where the truth is not known.
        lq_size: Height and width of what was enlarged.
        num_bytes: Size of the compressed picture, all of it also where only its middle was taken.
        bpp: Bits per pixel of the compressed picture.
        detection: How it was compressed.
        choice: Which adapter was used, and why.
        base: Name of the base.
        seconds: Time of the network on the result.
        notes: What was converted, in words for the user.
    """

    result: Picture
    versions: dict[str, Picture]
    rows: tuple[Row, ...]
    lq_size: tuple[int, int]
    num_bytes: int
    bpp: float
    detection: Detection
    choice: Choice
    base: str
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A small picture to enlarge, and the truth where it is known."""

    lq: Picture
    truth: NDArray[np.uint8] | None
    num_bytes: int
    bpp: float
    detection: Detection


class Session:
    """The page's work, on one base and within one limit.

    Args:
        base: Base network; None for the adapter's own.
        device: Where it runs; see :func:`ucip_adapt.load`.
        max_pixels: Most pixels that the network enlarges at once.
        own_adapters: Whether folders and Hub ids may be named, beside the shipped adapters: not
            where strangers use the page.

    Raises:
        ConfigError: If the limit allows nothing.

    Example:
        >>> page = Session(max_pixels=400)
        >>> picture = samples()["girl"].read_bytes()
        >>> restored = page.restore(picture, Wish("webp", 20, crop=True))
        >>> restored.result.size, restored.choice.adapter
        ((80, 80), 'webp')
        >>> [row.method for row in restored.rows]
        ['bicubic', 'base', 'adapter']
    """

    def __init__(
        self,
        *,
        base: str | None = None,
        device: str = "cpu",
        max_pixels: int = MAX_PIXELS,
        own_adapters: bool = True,
    ) -> None:
        least = (_SMALLEST_TRUTH // _SCALE) ** 2
        if max_pixels < least:
            raise ConfigError(f"--max-pixels {max_pixels}: at least {least} are needed")
        self.base = base
        self.device = device
        self.max_pixels = max_pixels
        self.own_adapters = own_adapters
        self._codecs = {
            name: codec
            for name, codec in all_codecs().items()
            if not isinstance(codec, NamedCodec) and codec.available().ok
        }

    @property
    def codecs(self) -> dict[str, CodecSpec]:
        """The codecs that work here, by name."""
        return {name: codec.spec for name, codec in self._codecs.items()}

    @property
    def adapters(self) -> list[str]:
        """What can be chosen: ``auto``, ``none``, and the shipped adapters."""
        return ["auto", "none", *shipped_adapters()]

    @property
    def max_file_pixels(self) -> int:
        """Most pixels of a file that is read at all, be it for its middle."""
        return max(MAX_FILE_PIXELS, self.max_pixels * _SCALE**2)

    def read(self, data: bytes) -> Picture:
        """Read a picture that is shown, or that the middle may be taken of.

        Args:
            data: The file's content.

        Returns:
            The whole picture.

        Raises:
            DataError: If it cannot be read, or has more than ``max_file_pixels``.
        """
        try:
            return read_picture(data, max_pixels=self.max_file_pixels)
        except TooManyPixelsError as error:
            raise DataError(
                f"{error}, also where the middle is taken: cut it yourself, or give the file to "
                "`ucip-adapt upscale --max-pixels N`"
            ) from error

    def restore(self, data: bytes, wish: Wish) -> Restored:
        """Damage a picture if that is asked for, and enlarge it as :func:`ucip_adapt.load` does.

        Args:
            data: The file's content.
            wish: What to do with it.

        Returns:
            All versions of the picture, with scores where the truth is known.

        Raises:
            UcipError: If the picture cannot be read, is too large or too small, or a codec or an
                adapter cannot be used.
        """
        if not self.own_adapters and wish.adapter not in self.adapters:
            raise unknown_name("adapter", wish.adapter, self.adapters)
        source = self._as_it_is(data, wish) if wish.codec is None else self._damaged(data, wish)
        choice = choose_adapter(wish.adapter, source.detection, base=self.base)
        model = load(choice.adapter, base=self.base, device=self.device)
        began = time.monotonic()
        result = model.upscale_picture(source.lq)
        seconds = time.monotonic() - began
        versions = {"bicubic": _bicubic(source)}
        if source.truth is not None:
            if choice.adapter is not None:
                base = load(None, base=self.base or model.base, device=self.device)
                versions["base"] = base.upscale_picture(source.lq)
            versions[ORIGINAL] = Picture(source.truth)
        versions["base" if choice.adapter is None else "adapter"] = result
        return Restored(
            result=result,
            versions=versions,
            rows=_rows(versions),
            lq_size=source.lq.size,
            num_bytes=source.num_bytes,
            bpp=source.bpp,
            detection=source.detection,
            choice=choice,
            base=model.base,
            seconds=seconds,
            notes=source.lq.notes,
        )

    def _as_it_is(self, data: bytes, wish: Wish) -> _Source:
        whole = self.read(data)
        height, width = whole.size
        lq = self._within(whole, self.max_pixels, crop=wish.crop)
        bpp = 8 * len(data) / (height * width)
        return _Source(lq, None, len(data), bpp, detect_picture(lq, data))

    def _damaged(self, data: bytes, wish: Wish) -> _Source:
        """Reduce a picture to a quarter and compress it whole: the suite's own order."""
        name = str(wish.codec)
        if name not in self._codecs:
            raise unknown_name("codec", name, self._codecs)
        codec = self._codecs[name]
        codec.spec.check_quality(wish.quality)
        # 16 times the pixels, because a sixteenth of them is left.
        picture = self._within(self.read(data), self.max_pixels * _SCALE**2, crop=wish.crop)
        if min(picture.size) < _SMALLEST_TRUTH:
            raise DataError(
                f"{_size(picture)} pixels are too few to be reduced to a quarter: at least "
                f"{_SMALLEST_TRUTH} x {_SMALLEST_TRUTH} are needed"
            )
        truth, notes = _rgb8(picture)
        truth = modcrop(truth)
        coded = code_image(codec, bicubic_down4(truth), wish.quality, name="")
        how = f"compressed here by {name}, {codec.spec.parameter} {wish.quality}"
        return _Source(
            Picture(coded.pixels, notes=notes),
            truth,
            coded.num_bytes,
            coded.bpp,
            Detection(name, wish.quality, how),
        )

    def _within(self, picture: Picture, limit: int, *, crop: bool) -> Picture:
        height, width = picture.size
        if height * width <= limit:
            return picture
        if not crop:
            raise DataError(
                f"{_size(picture)} pixels are more than the {limit:,} that this page takes at "
                "once: let it take the middle, or give the file to `ucip-adapt upscale`"
            )
        return middle(picture, limit)


def samples() -> dict[str, Path]:
    """The pictures that come with the package and that nothing was trained on (CC0).

    Returns:
        Files by name, in alphabetical order.

    Example:
        >>> "girl" in samples()
        True
    """
    return {path.stem: path for path in sorted(image_folder("validation").glob("*.webp"))}


def middle(picture: Picture, limit: int) -> Picture:
    """Cut the middle out of a picture, of its own shape.

    Args:
        picture: The picture.
        limit: Most pixels that may be left.

    Returns:
        What is left, from whole blocks of 64 x 64 on, so that a codec's own blocks stay in place;
        a note says what was cut.

    Example:
        >>> middle(Picture(np.zeros((300, 600, 1), np.uint8)), 20_000).size
        (100, 200)
    """
    height, width = picture.size
    ratio = (limit / (height * width)) ** 0.5
    size = max(1, int(height * ratio)), max(1, int(width * ratio))
    # A strip of one line keeps its one line; then the other side has to give.
    size = min(size[0], limit // size[1] or 1), min(size[1], limit // size[0] or 1)
    top, left = (
        (all_of - part) // 2 // _BLOCK * _BLOCK
        for all_of, part in zip((height, width), size, strict=True)
    )
    window = np.s_[top : top + size[0], left : left + size[1]]
    note = f"the middle, {size[1]} x {size[0]} of {width} x {height} pixels"
    return replace(
        picture,
        colour=np.ascontiguousarray(picture.colour[window]),
        alpha=None if picture.alpha is None else np.ascontiguousarray(picture.alpha[window]),
        notes=(*picture.notes, note),
    )


def _rgb8(picture: Picture) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Three channels of 8 bits, which is what codecs take, and what was lost on the way."""
    notes = picture.notes
    colour = picture.colour
    if picture.depth == 16:
        colour = np.rint(colour / 257).astype(np.uint8)
        notes = (*notes, "16 bits became 8")
    if picture.alpha is not None:
        notes = (*notes, "transparency was left out")
    height, width = picture.size
    return np.array(np.broadcast_to(colour, (height, width, 3))), notes


def _bicubic(source: _Source) -> Picture:
    if source.truth is not None:  # the baseline of every table, which rounds between its passes
        return Picture(bicubic_up4(source.lq.colour))
    return enlarge_picture(source.lq, bicubic_x4)


def _rows(versions: dict[str, Picture]) -> tuple[Row, ...]:
    if ORIGINAL not in versions:
        return ()
    truth = versions[ORIGINAL].colour
    protocol = get_protocol(_PROTOCOL)
    rows = []
    for method, picture in versions.items():
        if method != ORIGINAL:
            scores = score(picture.colour, truth, protocol)
            rows.append(Row(method, scores.psnr_db, scores.ssim))
    return tuple(rows)


def _size(picture: Picture) -> str:
    height, width = picture.size
    return f"{width} x {height}"
