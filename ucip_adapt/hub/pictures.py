"""Before-and-after pictures: the same crop of the input, each method's result and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ucip_adapt.data.benchmarks import EvalImage
from ucip_adapt.data.images import save_png
from ucip_adapt.evaluation import Upscale
from ucip_adapt.metrics import get_protocol, score

__all__ = ["busiest_crop", "comparison_picture"]

_CAPTION = 34
_ZOOM = 2


def busiest_crop(truth: NDArray[np.uint8], size: int) -> tuple[int, int]:
    """Top-left corner, in steps of 16 pixels, of the crop with the most detail.

    Detail is the mean difference of neighbouring pixels, of which a bright shape on a dark ground
    has little.

    It looks at the truth alone, so that no method chooses the place where it looks best.

    Args:
        truth: ``H x W x 3`` uint8.
        size: Side of the crop in pixels.

    Returns:
        Top and left.

    Example:
        >>> image = np.zeros((64, 64, 3), np.uint8)
        >>> image[40:, 40:] = np.arange(24, dtype=np.uint8)[:, None, None] * 10
        >>> busiest_crop(image, 32)
        (32, 32)
    """
    grey = truth.astype(np.float64).mean(axis=2)
    places = [
        (top, left)
        for top in range(0, max(grey.shape[0] - size, 0) + 1, 16)
        for left in range(0, max(grey.shape[1] - size, 0) + 1, 16)
    ]
    detail = np.zeros_like(grey)
    detail[1:] += np.abs(np.diff(grey, axis=0))
    detail[:, 1:] += np.abs(np.diff(grey, axis=1))
    return max(places, key=lambda p: float(detail[p[0] : p[0] + size, p[1] : p[1] + size].mean()))


def comparison_picture(
    path: Path,
    image: EvalImage,
    lq: NDArray[np.uint8],
    methods: Mapping[str, Upscale],
    *,
    title: str,
    size: int = 160,
) -> None:
    """Write a row of panels: input (nearest), every method, truth; PSNR of the whole image below.

    Args:
        path: The PNG.
        image: Truth and name.
        lq: The compressed input.
        methods: Methods by name, in the order of the panels.
        title: What the first panel's caption says of the input.
        size: Side of the crop in pixels of the truth; a multiple of 4.

    Raises:
        DataError: If the picture cannot be written.

    Example:
        >>> import tempfile
        >>> from ucip_adapt import bicubic_up4
        >>> gt = np.zeros((64, 64, 3), np.uint8)
        >>> image = EvalImage("black", gt, gt[::4, ::4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.png")
        ...     comparison_picture(path, image, image.lr, {"bicubic": bicubic_up4}, title="input")
        ...     print(Image.open(path).size)
        (392, 162)
    """
    size = min(size, *image.gt.shape[:2])
    top, left = busiest_crop(image.gt, size)
    protocol = get_protocol("y-c4")
    panels = [(f"{title}", lq.repeat(4, axis=0).repeat(4, axis=1))]
    for name, upscale in methods.items():
        sr = upscale(lq)
        psnr = score(sr, image.gt, protocol).psnr_db
        panels.append((f"{name}\n{psnr:.2f} dB (y-c4)", sr))
    panels.append((f"truth\n{image.name}", image.gt))
    side = size * _ZOOM
    sheet = Image.new("RGB", ((side + 4) * len(panels) - 4, side + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, (caption, pixels) in enumerate(panels):
        crop = Image.fromarray(np.ascontiguousarray(pixels[top : top + size, left : left + size]))
        x = column * (side + 4)
        sheet.paste(crop.resize((side, side), Image.Resampling.NEAREST), (x, 0))
        draw.multiline_text((x + 2, side + 2), caption, fill="black", font=font, spacing=1)
    save_png(path, np.asarray(sheet))
