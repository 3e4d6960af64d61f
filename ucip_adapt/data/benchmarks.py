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
        path: File of the truth; None where there is none.

    Example:
        >>> gt = np.zeros((32, 48, 3), np.uint8)
        >>> EvalImage("black", gt, bicubic_down4(gt)).lr.shape
        (8, 12, 3)
    """

    name: str
    gt: NDArray[np.uint8]
    lr: NDArray[np.uint8]
    path: Path | None = None


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
        name: A name of :data:`BENCHMARKS`, alone or with a part of it: ``"BSD100/every4"`` is every
            fourth image from the first, ``"Urban100/subset25"`` those that ``subset25.txt`` in the
            benchmark's folder names; :data:`EMBEDDED`; or the path of a folder, of images or with
            ``HR`` and ``LRbicx4`` as a benchmark has them.
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
        return _from_folder(EMBEDDED, list_images(image_folder("validation"))[:limit])
    benchmark, _, part = name.partition("/")
    if benchmark not in BENCHMARKS or (part and Path(name).is_dir()):
        folder = Path(name)
        if (folder / "HR").is_dir():  # a benchmark by its path: not HR and LR images together
            return _stored(folder.resolve().name, folder, list_images(folder / "HR")[:limit])
        return _from_folder(folder.resolve().name, list_images(folder)[:limit])
    if root is None:
        raise DataError(
            f"{name} is not in the package: name the folder that holds it with --data or UCIP_DATA"
        )
    truths = _part(list_images(root / benchmark / "HR"), root / benchmark, part)[:limit]
    return _stored(name, root / benchmark, truths)


def _stored(name: str, folder: Path, truths: list[Path]) -> EvalSet:
    """A set with the reduced images that are stored beside the true ones, if any are."""
    lr = folder / "LRbicx4"
    if not lr.is_dir():
        return _from_folder(name, truths)
    pairs = match_by_stem(truths, list_images(lr))
    images = tuple(
        _checked(EvalImage(a.stem, modcrop(read_rgb(a)), read_rgb(b), a)) for a, b in pairs
    )
    return EvalSet(name, images, "stored")


def _part(paths: list[Path], folder: Path, part: str) -> list[Path]:
    """The images of a benchmark that a part of it holds, in the benchmark's order."""
    if not part:
        return paths
    step = part.removeprefix("every")
    if step != part and step.isdecimal() and int(step):
        return paths[:: int(step)]
    file = folder / f"{part}.txt"
    if "/" in part or not file.is_file():
        raise DataError(
            f"{folder.name} has no part '{part}': write {folder.name}/everyN, or the name of a "
            f"list of images such as {folder.name}/{part}.txt under the data root"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    missing = sorted(set(names) - {path.stem for path in paths})
    if missing or not names:
        what = f"names {missing[0]}, which is not there" if missing else "is empty"
        raise DataError(f"{folder.name}/{file.name} {what}")
    return [path for path in paths if path.stem in set(names)]


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


def _from_folder(name: str, paths: list[Path]) -> EvalSet:
    rule: EdgeRule = "symmetric"
    images = []
    for path in paths:
        gt = modcrop(read_rgb(path))
        lr = bicubic_down4(gt, edge=rule) if gt.size else gt
        images.append(_checked(EvalImage(path.stem, gt, lr, path)))
    return EvalSet(name, tuple(images), rule)
