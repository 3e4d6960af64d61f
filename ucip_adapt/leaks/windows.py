"""First stage: every picture cut into squares, and all squares compared by one matrix product.

A square is 16 x 16 numbers, whatever its size in the picture. *Windows* are squares of many sizes
at every place; *templates* are a few large ones, plain and mirrored. Where a template of one
picture is nearly equal to a window of another, the second stage looks closely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

__all__ = ["Squares", "templates_of", "windows_of"]

SIDE = 16
"""Numbers along each side of a square."""

# Sides of the windows as parts of the picture's short side: 1 down to 0.386, a tenth apart. Halfway
# between two of them a copy is 5 % off, under half a number at the edge of a square.
_WINDOW_PARTS = tuple(1.1**-step for step in range(11))

# Side as a part of the short side, and place (0 left or top, 1 right or bottom). The small ones
# find copies of which the edges are gone.
_TEMPLATES = (
    (1.0, 0.5, 0.5),
    *((0.7, x, y) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5))),
)

# Squares with less detail than this (root mean square, in grey levels) look like each other: sky.
_LEAST_DETAIL = 3.0


@dataclass(frozen=True)
class Squares:
    """Squares of one picture that have some detail.

    Attributes:
        values: Shape ``(n, 256)``, each row of length 1 and without mean and slope, so that the
            product of two rows is their correlation.
        places: Shape ``(n, 3)``: left, top and side, in pixels of the grey picture.
        mirrored: Shape ``(n,)``: whether the square was flipped left to right.
    """

    values: Tensor
    places: Tensor
    mirrored: Tensor


def windows_of(grey: Image.Image) -> Squares:
    """All windows of a picture.

    Args:
        grey: The picture, mode F.

    Returns:
        Some thousand squares; none for a picture without detail.

    Example:
        >>> len(windows_of(Image.new("F", (200, 100), 9.0)).values)
        0
    """
    short = min(grey.size)
    values, places = [], []
    for part in _WINDOW_PARTS:
        zoom = SIDE / (part * short)
        width, height = max(SIDE, round(grey.width * zoom)), max(SIDE, round(grey.height * zoom))
        small = torch.from_numpy(_resized(grey, (width, height)))
        squares = functional.unfold(small[None, None], SIDE)[0].T  # (places, 256), row by row
        top, left = torch.meshgrid(
            torch.arange(height - SIDE + 1), torch.arange(width - SIDE + 1), indexing="ij"
        )
        step_x, step_y = grey.width / width, grey.height / height
        side = torch.full((left.numel(),), SIDE * (step_x + step_y) / 2)
        values.append(squares)
        places.append(torch.stack([left.flatten() * step_x, top.flatten() * step_y, side], dim=1))
    everything = torch.cat(values)
    return _keep_detailed(
        everything, torch.cat(places), torch.zeros(len(everything), dtype=torch.bool)
    )


def templates_of(grey: Image.Image) -> Squares:
    """The few squares that stand for a picture, plain and mirrored.

    Args:
        grey: The picture, mode F.

    Returns:
        At most 12 squares.
    """
    short = min(grey.size)
    values, places, mirrored = [], [], []
    for part, x, y in _TEMPLATES:
        side = short * part
        left, top = (grey.width - side) * x, (grey.height - side) * y
        square = _resized(grey, (SIDE, SIDE), (left, top, left + side, top + side))
        for flip in (False, True):
            values.append(torch.from_numpy(square[:, ::-1].copy() if flip else square).flatten())
            places.append((left, top, side))
            mirrored.append(flip)
    return _keep_detailed(torch.stack(values), torch.tensor(places), torch.tensor(mirrored))


def _resized(
    grey: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    return np.array(grey.resize(size, Image.Resampling.BILINEAR, box=box), dtype=np.float32)


def _keep_detailed(values: Tensor, places: Tensor, mirrored: Tensor) -> Squares:
    """Take mean and slope away, which any two pictures of land and sky share, and normalise."""
    axis = torch.linspace(-1.0, 1.0, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    plane = torch.stack([torch.ones_like(x), x, y]).flatten(1)
    plane = plane / plane.norm(dim=1, keepdim=True)  # the three are orthogonal already
    rest = values - (values @ plane.T) @ plane
    length = rest.norm(dim=1)
    kept = length / SIDE > _LEAST_DETAIL
    return Squares(rest[kept] / length[kept, None], places[kept].float(), mirrored[kept])
