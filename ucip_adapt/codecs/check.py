"""Does a codec do what a codec should? Rate and distortion over its qualities, on one picture."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs.base import Codec, code_image
from ucip_adapt.errors import CodecError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Check", "Point", "check_codec", "sample_image"]

_SAMPLE = "dog.webp"


@dataclass(frozen=True)
class Point:
    """One setting on the sample.

    Attributes:
        quality: Value of the codec's own knob.
        bpp: Bits per pixel, headers included.
        psnr_db: PSNR over R, G and B against the sample; infinite where nothing is lost.
        seconds: Wall time of the encoder, where the codec measures it.
    """

    quality: int
    bpp: float
    psnr_db: float
    seconds: float | None


@dataclass(frozen=True)
class Check:
    """What came of a check.

    Attributes:
        name: Name of the codec.
        points: Settings that could be coded, in the order of the qualities.
        problem: What is wrong; empty if nothing is.
    """

    name: str
    points: tuple[Point, ...]
    problem: str

    @property
    def ok(self) -> bool:
        """Whether the codec passed."""
        return not self.problem


@functools.cache
def sample_image() -> NDArray[np.uint8]:
    """The picture that is coded: an embedded photograph, a quarter as wide and high.

    Returns:
        ``144 x 144 x 3`` uint8, read-only.

    Example:
        >>> sample_image().shape
        (144, 144, 3)
    """
    import numpy as np
    from PIL import Image

    # Pillow's own averaging: the suite's bicubic would load torch, which most codecs do not need.
    with Image.open(image_folder("validation") / _SAMPLE, formats=("WEBP",)) as image:
        sample = np.array(image.convert("RGB").reduce(4))
    sample.flags.writeable = False
    return sample


def check_codec(codec: Codec, qualities: Sequence[int] = ()) -> Check:
    """Code the sample at every quality, twice at the first.

    Args:
        codec: A codec that is available.
        qualities: From the worst picture to the best; by default those of its suite.

    Returns:
        The points, and the first problem: an error, another result the second time, a result of
        another kind or size, or a rate or a fidelity that does not rise.

    Example:
        >>> from ucip_adapt import get_codec
        >>> check_codec(get_codec("webp")).ok
        True
        >>> check_codec(get_codec("webp"), (40, 10)).problem.partition(" (")[0]
        'the rate does not rise from quality 40 to 10'
    """
    name, points = codec.spec.name, []
    chosen = qualities or codec.spec.qualities
    if not chosen:
        return Check(name, (), "no qualities are named")
    try:
        for quality in chosen:
            points.append(_measure(codec, quality))  # noqa: PERF401 - what was coded stays known
        problem = _first_problem(codec, points)
    except (CodecError, ConfigError) as error:
        problem = str(error)
    return Check(name, tuple(points), problem)


def _measure(codec: Codec, quality: int) -> Point:
    import numpy as np

    sample = sample_image()
    coded = code_image(codec, sample, quality, name="")
    error = float(np.mean((coded.pixels.astype(np.float64) - sample) ** 2))
    psnr_db = 10 * math.log10(255**2 / error) if error else math.inf
    return Point(quality, coded.bpp, psnr_db, coded.seconds)


def _first_problem(codec: Codec, points: Sequence[Point]) -> str:
    import numpy as np

    knob = codec.spec.parameter
    first, second = (
        code_image(codec, sample_image(), points[0].quality, name="") for _ in range(2)
    )
    if first.num_bytes != second.num_bytes or not np.array_equal(first.pixels, second.pixels):
        return f"{knob} {points[0].quality} gives another result each time"
    for low, high in itertools.pairwise(points):
        where = f"from {knob} {low.quality} to {high.quality}"
        if not low.bpp < high.bpp:
            return f"the rate does not rise {where} ({low.bpp:.3f} to {high.bpp:.3f} bpp)"
        if not low.psnr_db < high.psnr_db:
            return f"the PSNR does not rise {where} ({low.psnr_db:.2f} to {high.psnr_db:.2f} dB)"
    return ""
