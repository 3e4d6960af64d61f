"""A picture with all that has to survive its enlargement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture"]


@dataclass(frozen=True)
class Picture:
    """Colours, transparency and metadata of a still picture, upright.

    Attributes:
        colour: ``H x W x 1`` (grey) or ``H x W x 3`` (RGB), uint8 or uint16.
        alpha: ``H x W`` of the same type, or None where the picture is opaque.
        icc_profile: The colour profile, as the file holds it.
        exif: EXIF data without its orientation, which has been applied.
        notes: What was converted on reading, in words for the user.

    Example:
        >>> grey = Picture(np.zeros((5, 7, 1), np.uint8))
        >>> grey.size, grey.mode, grey.depth
        ((5, 7), 'L', 8)
    """

    colour: NDArray[Any]
    alpha: NDArray[Any] | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.colour.ndim != 3 or self.colour.shape[2] not in (1, 3) or 0 in self.colour.shape:
            raise ValueError(f"colour must be H x W x 1 or 3, got {self.colour.shape}")
        if self.colour.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"colour must be uint8 or uint16, got {self.colour.dtype}")
        if self.alpha is not None and (
            self.alpha.shape != self.colour.shape[:2] or self.alpha.dtype != self.colour.dtype
        ):
            raise ValueError(
                f"alpha {self.alpha.dtype} {self.alpha.shape} does not fit colours "
                f"{self.colour.dtype} {self.colour.shape}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.colour.shape[0], self.colour.shape[1]

    @property
    def depth(self) -> int:
        """Bits per channel, 8 or 16."""
        return 8 * self.colour.dtype.itemsize

    @property
    def mode(self) -> str:
        """``L``, ``LA``, ``RGB`` or ``RGBA``, with ``;16`` behind it for 16 bits."""
        channels = "L" if self.colour.shape[2] == 1 else "RGB"
        return channels + ("A" if self.alpha is not None else "") + (";16" * (self.depth == 16))
