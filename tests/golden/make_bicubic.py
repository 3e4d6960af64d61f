"""Make the golden pairs of bicubic x1/4: small CC0 crops and their reductions by a slow plain loop.

The loop follows the definition of MATLAB's ``imresize(image, 1/4, "bicubic")`` on uint8, in float64
and without any code of the package or of an image library: Keys' kernel (a = -0.5) stretched by 4,
weights divided by their sum, first along the first axis, then along the second, each pass rounded
half away from zero to uint8. ``edge`` repeats the last pixel outside the image, as in old releases
and the benchmark files that everyone uses; ``symmetric`` mirrors, as in current ones.

Run it from anywhere: ``python tests/golden/make_bicubic.py``. It writes ``bicubic/<name>.hr.png``,
``<name>.edge.png`` and ``<name>.symmetric.png`` beside itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parents[1] / "ucip_adapt" / "assets" / "images"

# Embedded image, top and left of its crop: hard edges, dark brickwork, hair on clipped white.
CROPS = {"train/city": (300, 200), "train/night": (260, 330), "validation/girl": (170, 250)}
HEIGHT, WIDTH, SCALE = 48, 64, 4


def kernel(distance: float) -> float:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = abs(distance)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x <= 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def outside(position: int, length: int, rule: str) -> int:
    """The pixel that stands for a position that may lie outside 0 .. length - 1."""
    if rule == "edge":
        return min(max(position, 0), length - 1)
    position %= 2 * length
    return position if position < length else 2 * length - 1 - position


def reduce_line(line: list[int], rule: str) -> list[int]:
    """Reduce a line of 8-bit values to a quarter of its length."""
    reduced = []
    for out in range(len(line) // SCALE):
        centre = (out + 0.5) * SCALE - 0.5
        taps = range(math.floor(centre - 2 * SCALE), math.ceil(centre + 2 * SCALE) + 1)
        weights = [kernel((centre - tap) / SCALE) for tap in taps]
        pixels = [line[outside(tap, len(line), rule)] for tap in taps]
        total = sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights)
        away = math.copysign(math.floor(abs(total) + 0.5), total)
        reduced.append(int(min(max(away, 0), 255)))
    return reduced


def reduce_image(image: np.ndarray, rule: str) -> np.ndarray:
    """Reduce ``H x W x 3`` uint8 to a quarter: columns of pixels first, then rows."""
    height, width, channels = image.shape
    first = np.zeros((height // SCALE, width, channels), np.uint8)
    for x in range(width):
        for channel in range(channels):
            first[:, x, channel] = reduce_line(image[:, x, channel].tolist(), rule)
    second = np.zeros((height // SCALE, width // SCALE, channels), np.uint8)
    for y in range(height // SCALE):
        for channel in range(channels):
            second[y, :, channel] = reduce_line(first[y, :, channel].tolist(), rule)
    return second


def main() -> None:
    """Write every pair."""
    for source, (top, left) in CROPS.items():
        with Image.open(IMAGES / f"{source}.webp") as opened:
            hr = np.array(opened.convert("RGB"))[top : top + HEIGHT, left : left + WIDTH]
        name = source.split("/")[1]
        Image.fromarray(hr).save(HERE / "bicubic" / f"{name}.hr.png", optimize=True)
        for rule in ("edge", "symmetric"):
            lr = Image.fromarray(reduce_image(hr, rule))
            lr.save(HERE / "bicubic" / f"{name}.{rule}.png", optimize=True)


if __name__ == "__main__":
    main()
