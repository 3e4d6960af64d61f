"""Before and after in a grid of codecs by qualities, as in the paper's figures, without numbers."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ucip_adapt.errors import ConfigError, DataError, UcipError
from ucip_adapt.report.markup import Html, Section, element
from ucip_adapt.report.sources import Problem

if TYPE_CHECKING:
    from PIL import Image

    from ucip_adapt.imaging import Picture as FullPicture

__all__ = ["Picture", "make_pictures", "picture_section", "read_pictures"]

LARGEST_SUM = 1_800_000
"""Bytes of all pictures together, so that the page stays below 3 MB."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAME = re.compile(r"(?P<codec>.+)-(?P<quality>\d+)")
_WIDEST, _HIGHEST = 960, 4096  # pixels; a WebP file has at most 16383
_CROP = 40  # LQ pixels
_IMAGE = "dog"  # of the embedded validation images: edges, hair and smooth parts in one crop


@dataclass(frozen=True)
class Picture:
    """A picture for the page.

    Attributes:
        codec: Its row in the grid; its name where it is in none.
        quality: Its column; None where it is in none.
        webp: The picture.
        size: Width and height in pixels.
        text: What it shows.
    """

    codec: str
    quality: int | None
    webp: bytes
    size: tuple[int, int]
    text: str


def read_pictures(folder: Path) -> tuple[list[Picture], list[Problem]]:
    """Take pictures from a folder; those called ``CODEC-QUALITY.png`` form the grid.

    Args:
        folder: Folder with PNG, JPEG or WebP files.

    Returns:
        The pictures, at most 960 pixels wide and 4096 high, upright and on white, and the files
        that could not be read.

    Raises:
        DataError: If there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"--pictures {folder}: no such folder; 'make' makes pictures")
    from ucip_adapt.imaging import read_picture

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(f"--pictures {folder}: no PNG, JPEG or WebP picture in it")
    pictures, problems = [], []
    for path in paths:
        try:
            pixels = _shown(read_picture(path))
        except UcipError as error:
            problems.append(Problem(path.name, f"no readable picture: {error}"))
            continue
        pixels.thumbnail((_WIDEST, _HIGHEST))
        match = _NAME.fullmatch(path.stem)
        codec, quality = (match["codec"], int(match["quality"])) if match else (path.stem, None)
        pictures.append(Picture(codec, quality, _webp(pixels), pixels.size, path.name))
    return pictures, problems


def _shown(picture: FullPicture) -> Image.Image:
    """8 bits on a white ground: a page has no other."""
    import numpy as np
    from PIL import Image

    planes = np.broadcast_to(picture.colour, (*picture.colour.shape[:2], 3)).astype(np.float32)
    levels = 2**picture.depth - 1
    if picture.alpha is not None:
        opaque = picture.alpha[..., None].astype(np.float32) / levels
        planes = opaque * planes + (1 - opaque) * levels
    return Image.fromarray(np.rint(planes * 255 / levels).astype(np.uint8))


def make_pictures(adapters: Sequence[str] = ()) -> tuple[list[Picture], list[Problem]]:
    """Damage an embedded CC0 validation image, and restore it with the base and with adapters.

    Args:
        adapters: Names or folders of adapters; none means all shipped ones.

    Returns:
        For each adapter and each of its codec's qualities the same crop four times, side by side:
        input, base, adapter, truth; and the adapters that could not be used.

    Raises:
        ConfigError: If there is no adapter.
    """
    from ucip_adapt.assets import shipped_adapters

    names = list(adapters) or shipped_adapters()
    if not names:
        raise ConfigError("--pictures make needs an adapter: none is shipped, name some")
    pictures: list[Picture] = []
    problems: list[Problem] = []
    for name in names:
        try:
            pictures += _of_adapter(name)
        except UcipError as error:
            problems.append(Problem(f"pictures of {name}", str(error)))
    return pictures, problems


def _of_adapter(name: str) -> list[Picture]:
    from ucip_adapt.codecs.base import code_image
    from ucip_adapt.data import load_eval_set
    from ucip_adapt.data.degrade import require_codec
    from ucip_adapt.hub.library import describe_adapter, locate_adapter
    from ucip_adapt.hub.pictures import busiest_crop
    from ucip_adapt.upscaler import load

    about = describe_adapter(locate_adapter(name))
    codec = require_codec(about.codec)
    tuned = load(name)
    base = load(base=about.base)
    image = next(one for one in load_eval_set("GB82-val").images if one.name == _IMAGE)
    top, left = busiest_crop(image.gt, 4 * _CROP)
    found = []
    for quality in about.qualities:
        lq = code_image(codec, image.lr, quality, name=image.name).pixels
        panels = [
            lq.repeat(4, axis=0).repeat(4, axis=1),
            base.upscale(lq),
            tuned.upscale(lq),
            image.gt,
        ]
        strip = _strip([one[top : top + 4 * _CROP, left : left + 4 * _CROP] for one in panels])
        text = f"{about.codec} {quality}: input, {about.base}, with adapter {name}, truth"
        found.append(Picture(about.codec, quality, _webp(strip), strip.size, text))
    return found


def _strip(panels: Sequence[object]) -> Image.Image:
    import numpy as np
    from PIL import Image

    gap = np.full((4 * _CROP, 4, 3), 255, np.uint8)
    spaced = [part for panel in panels for part in (panel, gap)][:-1]
    return Image.fromarray(np.concatenate(spaced, axis=1))  # type: ignore[arg-type]


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, method=4)
    return buffer.getvalue()


def picture_section(pictures: Sequence[Picture]) -> tuple[Section, list[Problem]]:
    """The grid: a heading for each codec, its qualities below; then pictures outside of it.

    Args:
        pictures: See :func:`read_pictures` and :func:`make_pictures`.

    Returns:
        The section, and the pictures that there was no room for.
    """
    shown, problems, used = [], [], 0
    for picture in pictures:
        used += len(picture.webp)
        if used > LARGEST_SUM:
            problems.append(
                Problem(picture.text, f"no room: pictures may have {LARGEST_SUM:,} bytes")
            )
            used -= len(picture.webp)
        else:
            shown.append(picture)
    grid = [one for one in shown if one.quality is not None]
    parts = []
    for codec in dict.fromkeys(one.codec for one in grid):
        own = sorted((one for one in grid if one.codec == codec), key=lambda one: one.quality or 0)
        parts += [element("h4", [codec]), element("div", _figures(own), {"class": "grid"})]
    others = [one for one in shown if one.quality is None]
    if others:
        parts.append(element("div", _figures(others), {"class": "grid"}))
    title = "Before and after, codec by quality"
    return Section(title, parts, (), "Pictures"), problems


def _figures(pictures: Iterable[Picture]) -> list[Html]:
    return [
        element(
            "figure",
            [
                element(
                    "img",
                    [],
                    {
                        "src": "data:image/webp;base64," + base64.b64encode(one.webp).decode(),
                        "width": str(one.size[0]),
                        "height": str(one.size[1]),
                        "alt": one.text,
                        "loading": "lazy",
                    },
                ),
                element("figcaption", [one.text]),
            ],
        )
        for one in pictures
    ]
