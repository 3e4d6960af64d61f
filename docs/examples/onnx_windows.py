"""Enlarge a picture by an exported network, with NumPy, Pillow and onnxruntime alone.

    python onnx_windows.py webp.onnx photo.webp photo_x4.png

A network normalises by the statistics of its whole input. Bases that were trained on small crops
say in the file's metadata in which windows they are to be applied; `upscale` cuts those, and
blends the results with Hann weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SCALE = 4
SMALLEST = 8  # pixels; smaller images get their edge repeated


def upscale(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    image: NDArray[np.float32],
    window: int,
    stride: int,
) -> NDArray[np.float32]:
    """Enlarge one image.

    Args:
        run: The network, from ``(1, 3, h, w)`` to ``(1, 3, 4h, 4w)``.
        image: RGB, shape ``(3, H, W)``, values in [0, 1].
        window: Side of a window in input pixels; 0 takes the image whole.
        stride: Step between windows.

    Returns:
        Shape ``(3, 4H, 4W)``, values in [0, 1].
    """
    _, height, width = image.shape
    short = (max(SMALLEST - height, 0), max(SMALLEST - width, 0))
    padded = np.pad(image, ((0, 0), (0, short[0]), (0, short[1])), mode="edge")
    _, h, w = padded.shape
    high, wide = min(window or h, h), min(window or w, w)
    weight = np.outer(hann(SCALE * high), hann(SCALE * wide))
    total = np.zeros((3, SCALE * h, SCALE * w))
    weights = np.zeros(total.shape[1:])
    for top in starts(h, high, stride):
        for left in starts(w, wide, stride):
            crop = padded[None, :, top : top + high, left : left + wide]
            area = (
                slice(SCALE * top, SCALE * (top + high)),
                slice(SCALE * left, SCALE * (left + wide)),
            )
            total[:, *area] += weight * run(np.ascontiguousarray(crop))[0]
            weights[area] += weight
    sr = (total / weights)[:, : SCALE * height, : SCALE * width]
    return np.clip(sr, 0, 1).astype(np.float32)


def hann(size: int) -> NDArray[np.float64]:
    """Weights at pixel centres, positive everywhere."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


def starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover an axis; the last ends with the axis."""
    last = size - window
    return [*range(0, last, stride), last] if last else [0]


def main(network: str, source: str, target: str) -> None:
    """Read a picture, enlarge it, write it."""
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    picture = np.asarray(Image.open(source).convert("RGB"), np.float32) / 255
    sr = upscale(
        lambda lq: session.run(["sr"], {"lq": lq})[0],
        picture.transpose(2, 0, 1),
        int(told.get("window", 0)),
        int(told.get("window_stride", 0)),
    )
    levels = np.round(255 * sr.transpose(1, 2, 0)).astype(np.uint8)
    Image.fromarray(levels).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
