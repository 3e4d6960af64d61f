"""Training crops for a codec: small pictures, as the ones it will have to code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ucip_adapt.data import read_rgb
from ucip_adapt.data.bicubic import bicubic_down2, bicubic_down4, modcrop
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.errors import DataError

__all__ = ["CodecCrop", "CodecCrops", "reduced"]


class CodecCrop(TypedDict):
    """One training sample."""

    image: Tensor
    """``(3, p, p)`` in [0, 1]."""
    index: int
    """Number of the sample in the run."""


def reduced(paths: Iterable[Path]) -> list[NDArray[np.uint8]]:
    """Read images and reduce each to a quarter and to a half.

    Args:
        paths: Clean images.

    Returns:
        All quarters, then all halves, ``H x W x 3`` uint8.
    """
    whole = [modcrop(read_rgb(path)) for path in paths]
    return [bicubic_down4(image) for image in whole] + [bicubic_down2(image) for image in whole]


class CodecCrops(Dataset[CodecCrop]):
    """Crops of reduced images; a sample is a function of seed and index alone.

    Of three samples, two on average come from images at a quarter, which is what super-resolution
    codes; a half of the clean image gives more, and smoother, places to learn from.

    Args:
        images: As :func:`reduced` returns them.
        patch_size: Side of a crop in pixels.
        seed: Of image, place and flips.

    Raises:
        DataError: If an image is smaller than a crop.
    """

    def __init__(self, images: list[NDArray[np.uint8]], *, patch_size: int, seed: int) -> None:
        for image in images:
            if min(image.shape[:2]) < patch_size:
                raise DataError(
                    f"a reduced training image has {image.shape[0]} x {image.shape[1]} pixels, "
                    f"less than a crop of {patch_size}"
                )
        self._images = images
        self._size = patch_size
        self._seed = seed

    def images_sha256(self) -> str:
        """What a crop is cut from: a digest of the reduced images' pixels, in order.

        Returns:
            64 hexadecimal digits; other images, or another order, give others.
        """
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(f"{image.shape} ".encode())
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def __getitem__(self, index: int) -> CodecCrop:
        """Cut sample number ``index``, any number from 0."""
        random = np.random.default_rng([self._seed, index])
        count = len(self._images) // 2
        # Drawn and not counted off: the recipe takes a sample's rate from its number, and by
        # ``index % 3`` one of three rates would see halves and nothing else.
        halved = random.integers(3) == 0
        image = self._images[int(random.integers(count)) + (count if halved else 0)]
        top = int(random.integers(image.shape[0] - self._size + 1))
        left = int(random.integers(image.shape[1] - self._size + 1))
        crop = image[top : top + self._size, left : left + self._size]
        vertical, horizontal = random.integers(2, size=2)
        crop = crop[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        return {"image": to_tensor(crop), "index": index}
