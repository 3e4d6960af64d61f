"""Images to be measured on: benchmark sets with stored low-resolution images, or any folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.assets import image_folder
from ucip_adapt.data.bicubic import EdgeRule, bicubic_down4, modcrop
from ucip_adapt.data.images import list_images, match_by_stem, read_rgb
from ucip_adapt.errors import ConfigError, DataError

__all__ = ["BENCHMARKS", "EMBEDDED", "EvalImage", "EvalSet", "data_root", "load_eval_set"]

BENCHMARKS = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
"""Sets of the paper's tables: folders ``<set>/HR`` (and ``<set>/LRbicx4``) under the data root."""

EMBEDDED = "GB82-val"
"""Name of the validation images inside the package."""

_SMALLEST = 5
"""Shortest side of a reduced image: times 4, less 4 at each edge, leaves SSIM its 11 pixels."""


@dataclass(frozen=True)
class EvalImage:
    """One image to be measured on, not yet compressed.

    Attributes:
        name: File name without suffix.
        gt: Truth, ``4H x 4W x 3`` uint8.
        lr: Reduced image, ``H x W x 3`` uint8.

    Example:
        >>> gt = np.zeros((32, 48, 3), np.uint8)
        >>> EvalImage("black", gt, bicubic_down4(gt)).lr.shape
        (8, 12, 3)
    """

    name: str
    gt: NDArray[np.uint8]
    lr: NDArray[np.uint8]


@dataclass(frozen=True)
class EvalSet:
    """A named list of images.

    Attributes:
        name: Name in tables.
        images: In the order of file names.
        lr_source: Where the reduced images come from: ``"stored"``, or the edge rule that made
            them.

    Example:
        >>> load_eval_set("GB82-val", limit=1).lr_source
        'symmetric'
    """

    name: str
    images: tuple[EvalImage, ...]
    lr_source: str


def data_root(option: Path | None = None) -> Path | None:
    """The folder with the benchmark sets: the option, else ``UCIP_DATA``, else None.

    Args:
        option: What ``--data`` said.

    Returns:
        The folder, or None where neither names one.

    Raises:
        DataError: If the folder named does not exist.

    Example:
        >>> data_root(Path("no/such/folder"))
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.DataError: data root 'no/such/folder' is not a folder (--data, UCIP_DATA)
    """
    name = option or os.environ.get("UCIP_DATA")
    if not name:
        return None
    root = Path(name)
    if not root.is_dir():
        raise DataError(f"data root '{root}' is not a folder (--data, UCIP_DATA)")
    return root


def load_eval_set(name: str, root: Path | None = None, *, limit: int | None = None) -> EvalSet:
    """Load a set by name: a benchmark, the embedded validation images, or any folder.

    Each has the name that tables show: that of a folder is its last part.

    Args:
        name: A name of :data:`BENCHMARKS`, :data:`EMBEDDED`, or the path of a folder.
        root: Data root, see :func:`data_root`.
        limit: Take only the first so many images.

    Returns:
        The images in memory, not yet compressed: truths and their quarters.

    Raises:
        DataError: If the set or the folder is not there, is empty, or an image cannot be used; the
            message names it.
        ConfigError: If ``limit`` is under 1.

    Example:
        >>> image = load_eval_set("GB82-val", limit=1).images[0]
        >>> image.gt.shape[0] == 4 * image.lr.shape[0]
        True
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: a set needs at least 1 image")
    if name == EMBEDDED:
        return _from_folder(EMBEDDED, image_folder("validation"), limit)
    if name in BENCHMARKS:
        if root is None:
            raise DataError(
                f"{name} is not in the package: name the folder that holds it with --data or "
                "UCIP_DATA"
            )
        hr, lr = root / name / "HR", root / name / "LRbicx4"
        if not lr.is_dir():
            return _from_folder(name, hr, limit)
        pairs = match_by_stem(list_images(hr)[:limit], list_images(lr))
        images = tuple(
            _checked(EvalImage(a.stem, modcrop(read_rgb(a)), read_rgb(b))) for a, b in pairs
        )
        return EvalSet(name, images, "stored")
    return _from_folder(Path(name).resolve().name, Path(name), limit)


def _checked(image: EvalImage) -> EvalImage:
    height, width = image.lr.shape[:2]
    if min(height, width) < _SMALLEST:
        raise DataError(
            f"{image.name} is too small to be measured: {4 * width} x {4 * height} pixels, at "
            f"least {4 * _SMALLEST} x {4 * _SMALLEST} are needed"
        )
    if image.gt.shape[:2] != (4 * height, 4 * width):
        raise DataError(
            f"{image.name}: truth {image.gt.shape[:2]} is not four times the reduced image "
            f"{(height, width)}"
        )
    return image


def _from_folder(name: str, folder: Path, limit: int | None) -> EvalSet:
    rule: EdgeRule = "symmetric"
    images = []
    for path in list_images(folder)[:limit]:
        gt = modcrop(read_rgb(path))
        lr = bicubic_down4(gt, edge=rule) if gt.size else gt
        images.append(_checked(EvalImage(path.stem, gt, lr)))
    return EvalSet(name, tuple(images), rule)
