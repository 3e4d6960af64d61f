"""Training crops: the same place, the same flips, of a compressed image and its truth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ucip_adapt.data.degrade import DegradedImage, Setting
from ucip_adapt.errors import ConfigError, DataError

__all__ = ["CropSample", "PairedCrops", "to_tensor"]

_DIGEST_ROWS = 16


class CropSample(TypedDict):
    """One training sample.

    Example:
        >>> part = torch.zeros(3, 8, 8)
        >>> CropSample(lq=part, gt=part, slot=0, index=7)["index"]
        7
    """

    lq: Tensor
    """Compressed crop, ``(3, p, p)`` in [0, 1]."""
    gt: Tensor
    """Truth, ``(3, 4p, 4p)`` in [0, 1]."""
    slot: int
    """Position of the sample's slot among the slots of the run."""
    index: int
    """Number of the sample in the run."""


def to_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    """Turn an image into what the network takes.

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        Shape ``(3, H, W)``, float32, values in [0, 1]; a copy.

    Example:
        >>> to_tensor(np.full((1, 2, 3), 255, np.uint8)).shape
        torch.Size([3, 1, 2])
    """
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous().float().div_(255)


def _check_image(image: DegradedImage, settings: list[Setting], patch_size: int) -> None:
    """Refuse at the start what would fail, or be cut askew, in the middle of a run."""
    if min(image.gt.shape[:2]) < 4 * patch_size:
        raise DataError(f"image {image.name} is smaller than a crop of {patch_size} LQ pixels")
    if list(image.lq) != settings:
        raise DataError(
            f"image {image.name} has the settings {', '.join(map(str, image.lq))}; the first image "
            f"has {', '.join(map(str, settings))}"
        )
    for setting, lq in image.lq.items():
        if image.gt.shape != (4 * lq.shape[0], 4 * lq.shape[1], 3):
            raise DataError(
                f"image {image.name} at {setting}: truth {image.gt.shape[:2]} is not four times "
                f"the compressed image {lq.shape[:2]}"
            )


def _slots_of(settings: list[Setting]) -> list[int]:
    """One slot per codec, in the order of their first settings."""
    codecs = list(dict.fromkeys(setting.codec for setting in settings))
    return [codecs.index(setting.codec) for setting in settings]


class PairedCrops(Dataset[CropSample]):
    """Endless crops, each a function of ``(seed, index)`` and of nothing else.

    Images come in a new random order every epoch. Slots take turns, and within a slot its settings
    do: each slot is drawn equally often, however many qualities it has.

    Args:
        images: Degraded images, all with the same settings.
        patch_size: Side of a crop in LQ pixels.
        seed: Seed of order, places and flips.
        slots: Number of the slot of each setting, from 0; None makes each codec a slot.

    Raises:
        DataError: If there is no image, one is smaller than a crop, or one lacks a setting that
            another has, or its compressed image is not a quarter of the truth.
        ConfigError: If ``patch_size`` is under 2, or ``slots`` are not one number per setting.

    Example:
        >>> from ucip_adapt.data import DegradedImage, Setting
        >>> gt = np.zeros((64, 96, 3), np.uint8)
        >>> image = DegradedImage("black", gt, {Setting("webp", 10): gt[::4, ::4]})
        >>> crops = PairedCrops([image], patch_size=8, seed=0)
        >>> crops[12345]["lq"].shape, crops[12345]["gt"].shape
        (torch.Size([3, 8, 8]), torch.Size([3, 32, 32]))
    """

    def __init__(
        self,
        images: list[DegradedImage],
        *,
        patch_size: int,
        seed: int,
        slots: Sequence[int] | None = None,
    ) -> None:
        if not images:
            raise DataError("no training images")
        if patch_size < 2:
            raise ConfigError(f"patch_size={patch_size}: need at least 2 pixels")
        self.settings: list[Setting] = list(images[0].lq)
        if not self.settings:
            raise DataError("no codec settings to train on")
        for image in images:
            _check_image(image, self.settings, patch_size)
        self.images = images
        self.slots = list(slots) if slots is not None else _slots_of(self.settings)
        if len(self.slots) != len(self.settings) or sorted(set(self.slots)) != list(
            range(max(self.slots, default=-1) + 1)
        ):
            raise ConfigError(
                f"slots {self.slots}: need a number from 0 for each of {len(self.settings)} "
                "settings, and none left out"
            )
        self._turns = [
            [turn for turn, slot in enumerate(self.slots) if slot == number]
            for number in sorted(set(self.slots))
        ]
        self.patch_size = patch_size
        self.seed = seed
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.zeros(0, np.intp))

    def images_sha256(self) -> str:
        """What a crop is cut from: a digest of the true images' names and pixels, in order.

        Of the pixels every sixteenth row counts: it tells another picture, and thousands of large
        images do not have to be read whole before training starts.

        Returns:
            64 hexadecimal digits; other images, or another order, give others.

        Raises:
            DataError: If the image cache changed during the run.
        """
        digest = hashlib.sha256()
        for image in self.images:
            rows = np.ascontiguousarray(image.gt[(slice(None, None, _DIGEST_ROWS),)])
            digest.update(f"{image.name} {image.gt.shape} ".encode())
            digest.update(rows.data)
        return digest.hexdigest()

    def _image(self, index: int) -> DegradedImage:
        epoch, place = divmod(index, len(self.images))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.images))
            self._order = (epoch, order)
        return self.images[int(self._order[1][place])]

    def __getitem__(self, index: int) -> CropSample:
        """Cut sample number ``index``, any number from 0.

        Raises:
            DataError: If the image cache changed during the run.
        """
        image = self._image(index)
        rounds, slot = divmod(index, len(self._turns))
        turn = self._turns[slot][rounds % len(self._turns[slot])]
        lq = image.lq[self.settings[turn]]
        random = np.random.default_rng([self.seed, 2, index])
        size = self.patch_size
        top = int(random.integers(lq.shape[0] - size + 1))
        left = int(random.integers(lq.shape[1] - size + 1))
        lq_crop = lq[top : top + size, left : left + size]
        gt_crop = image.gt[4 * top : 4 * (top + size), 4 * left : 4 * (left + size)]
        vertical, horizontal = random.integers(2, size=2)
        rows = slice(None, None, -1 if vertical else 1)
        columns = slice(None, None, -1 if horizontal else 1)
        return {
            "lq": to_tensor(lq_crop[rows, columns]),
            "gt": to_tensor(gt_crop[rows, columns]),
            "slot": slot,
            "index": index,
        }
