"""From a high-resolution image to its compressed low-resolution one, in the paper's order.

The **whole** image is reduced to a quarter, the **whole** small image is compressed; crops are
taken afterwards. A compressed crop is another degradation: its block grid starts elsewhere and its
entropy coder has seen less.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ucip_adapt.codecs import Codec, get_codec
from ucip_adapt.codecs.base import (
    NamedCodec,
    check_image_names,
    code_image,
    fingerprint_digest,
    require_available,
)
from ucip_adapt.data.bicubic import EdgeRule, bicubic_down4, modcrop
from ucip_adapt.data.cache import ArrayCache, CachedArray, file_digest
from ucip_adapt.data.images import read_rgb
from ucip_adapt.errors import CodecError, ConfigError, DataError

__all__ = [
    "DegradedImage",
    "Picture",
    "Pixels",
    "Setting",
    "check_namesakes",
    "compress_lr",
    "degrade_images",
    "parse_settings",
    "read_gt",
    "require_codec",
]


Pixels = NDArray[np.uint8] | CachedArray
"""An image in memory or in the cache; ``image[top:bottom, left:right]`` cuts either."""


class Setting(NamedTuple):
    """One codec at one quality, a cell of the suite.

    Attributes:
        codec: Name of the codec.
        quality: Value of the codec's own knob.

    Example:
        >>> str(Setting("webp", 10))
        'webp:10'
    """

    codec: str
    quality: int

    def __str__(self) -> str:
        """``codec:quality``, as flags write it."""
        return f"{self.codec}:{self.quality}"


def parse_settings(
    codec: str, qualities: tuple[int, ...] | None = None, *, allow_command: bool = False
) -> list[Setting]:
    """Settings of a codec: the given qualities, or those that its suite uses.

    Args:
        codec: Name of the codec.
        qualities: Values of its own knob; None or nothing means the suite's.
        allow_command: Whether ``command:...`` and ``folder:...`` are allowed, see
            :func:`~ucip_adapt.codecs.get_codec`.

    Returns:
        One setting per quality, in the given order.

    Raises:
        UnknownNameError: If there is no such codec.
        CommandRefusedError: If the name is a command or a folder, and neither is allowed.
        ConfigError: If a quality is out of the codec's range, or named twice, or none is named for
            a command.

    Example:
        >>> [str(setting) for setting in parse_settings("webp", (10, 40))]
        ['webp:10', 'webp:40']
    """
    found = get_codec(codec, allow_command=allow_command)
    spec = found.spec
    if spec.family == "folder":
        # Of one that is not there, qualities would be the wrong complaint.
        require_available(spec.name, found.available())
    chosen = qualities or spec.qualities
    if not chosen:
        raise ConfigError(
            f"{codec} has no qualities of its own; name them, as in --qualities 10 40"
        )
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"qualities {chosen}: one is named twice")
    return [Setting(codec, spec.check_quality(quality)) for quality in chosen]


@dataclass(frozen=True)
class DegradedImage:
    """One image and its compressed versions.

    Attributes:
        name: File name without suffix.
        gt: Ground truth, ``4H x 4W x 3`` uint8.
        lq: Compressed low-resolution images, ``H x W x 3`` uint8, by setting.
        path: File of the truth; None where it lies in a shard of a suite.

    Example:
        >>> gt = np.zeros((32, 48, 3), np.uint8)
        >>> DegradedImage("black", gt, {Setting("webp", 10): gt[::4, ::4]}).name
        'black'
    """

    name: str
    gt: Pixels
    lq: dict[Setting, Pixels]
    path: Path | None = None


def read_gt(path: Path) -> NDArray[np.uint8]:
    """Read a high-resolution image and crop it to sides that are multiples of 4.

    Args:
        path: The file.

    Returns:
        ``4H x 4W x 3`` uint8.

    Raises:
        DataError: If it cannot be read, or is too small; the message names it.
    """
    image = read_rgb(path)
    if min(image.shape[:2]) < 4:
        height, width = image.shape[:2]
        raise DataError(
            f"{path} is too small: {width} x {height} pixels, at least 4 x 4 are needed"
        )
    return modcrop(image)


def _degrade_file(
    path: Path,
    settings: dict[Setting, tuple[Codec, str]],
    cache: ArrayCache,
    edge: EdgeRule,
    min_side: int,
) -> DegradedImage:
    source = file_digest(path)
    gt = cache.reference(f"gt {source}", lambda: read_gt(path))
    height, width = gt.shape[0] // 4, gt.shape[1] // 4
    if min(height, width) < min_side:
        raise DataError(
            f"{path} is too small: {gt.shape[1]} x {gt.shape[0]} pixels give a low-resolution "
            f"image of {width} x {height}, and crops of {min_side} are asked for (--patch_size)"
        )

    @functools.cache
    def lr() -> NDArray[np.uint8]:
        return bicubic_down4(np.asarray(gt), edge=edge)

    def compressed(setting: Setting) -> CachedArray:
        codec, digest = settings[setting]
        key = f"lq {source} {edge} {digest} {setting}"
        return cache.reference(
            _with_name(key, codec, path.stem),
            lambda: code_image(codec, lr(), setting.quality, name=path.stem).pixels,
        )

    lq: dict[Setting, Pixels] = {setting: compressed(setting) for setting in settings}
    return DegradedImage(path.stem, gt, lq, path)


def degrade_images(
    paths: list[Path],
    settings: list[Setting],
    cache: ArrayCache,
    *,
    edge: EdgeRule = "symmetric",
    min_side: int = 1,
    workers: int = 2,
    progress: bool = False,
) -> list[DegradedImage]:
    """Reduce and compress images at every setting; what the cache holds is not made again.

    Args:
        paths: Image files.
        settings: Codecs and qualities.
        cache: Where decoded pixels are kept.
        edge: Rule of :func:`~ucip_adapt.data.bicubic.bicubic_down4`.
        min_side: Smallest side of a low-resolution image that is allowed, in pixels.
        workers: Threads; codecs and Pillow release the interpreter lock.
        progress: Whether to show a bar.

    Returns:
        One entry per path, in their order; its pixels stay in the cache until they are read.

    Raises:
        DataError: If an image cannot be read or is too small, or the cache cannot be written; the
            message names it.
        CodecError: If a codec is not available, or failed, or goes by names and two images have the
            same one.
        UnknownNameError: If there is no such codec.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(Path(folder, "black.png"))
        ...     images = degrade_images(
        ...         [Path(folder, "black.png")],
        ...         parse_settings("webp", (10, 40)),
        ...         ArrayCache(Path(folder, "cache")),
        ...     )
        >>> {str(setting): lq.shape for setting, lq in images[0].lq.items()}
        {'webp:10': (16, 24, 3), 'webp:40': (16, 24, 3)}
    """
    codecs = {name: require_codec(name) for name in {setting.codec for setting in settings}}
    for codec in codecs.values():
        check_image_names(codec, [path.stem for path in paths])
    # Asked once: some fingerprints look at every file of a folder.
    digests = {name: fingerprint_digest(codec.fingerprint()) for name, codec in codecs.items()}
    known = {setting: (codecs[setting.codec], digests[setting.codec]) for setting in settings}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        jobs = pool.map(lambda path: _degrade_file(path, known, cache, edge, min_side), paths)
        return list(tqdm(jobs, total=len(paths), desc="images", unit="image", disable=not progress))


class Picture(Protocol):
    """An image with its truth, to train on or to be measured on.

    Example:
        >>> picture: Picture = DegradedImage("black", np.zeros((32, 48, 3), np.uint8), {})
        >>> picture.name
        'black'
    """

    @property
    def name(self) -> str:
        """File name without suffix."""
        ...

    @property
    def gt(self) -> Pixels:
        """Truth."""
        ...

    @property
    def path(self) -> Path | None:
        """File of the truth, if it is one."""
        ...


def check_namesakes(codec: Codec, groups: Iterable[tuple[str, Iterable[Picture]]]) -> None:
    """Refuse two pictures of one name where the codec goes by names: both would get the same.

    One picture that is in several groups is fine.

    Args:
        codec: The codec.
        groups: All pictures that it is asked for, behind what the message calls their place.

    Raises:
        CodecError: If it is a :class:`~ucip_adapt.codecs.base.NamedCodec` and a name is that of two
            pictures; the message says which files.

    Example:
        >>> black, grey = (np.full((32, 48, 3), level, np.uint8) for level in (0, 128))
        >>> groups = [
        ...     ("training", [DegradedImage("0001", black, {})]),
        ...     ("Set5", [DegradedImage("0001", grey, {})]),
        ... ]
        >>> check_namesakes(get_codec("webp"), groups)
    """
    if not isinstance(codec, NamedCodec):
        return
    seen: dict[str, tuple[str, Picture]] = {}
    for group, pictures in groups:
        for picture in pictures:
            other_group, other = seen.setdefault(picture.name, (group, picture))
            if other is not picture and not _same(other, picture):
                first, second = _where(other_group, other), _where(group, picture)
                raise CodecError(
                    f"{codec.spec.name} finds images by their names, and {first} and {second} are "
                    "two pictures of one name: rename one of them, and its coded versions"
                )


def _same(one: Picture, two: Picture) -> bool:
    if one.path is not None and one.path == two.path:
        return True
    return np.array_equal(np.asarray(one.gt), np.asarray(two.gt))


def _where(group: str, picture: Picture) -> str:
    return f"'{picture.name}' of {group}" if picture.path is None else str(picture.path)


def _with_name(key: str, codec: Codec, name: str) -> str:
    """Add the image's name to a key where it decides the pixels."""
    return f"{key} {name}" if isinstance(codec, NamedCodec) else key


def compress_lr(
    lr: NDArray[np.uint8],
    setting: Setting,
    cache: ArrayCache,
    *,
    codec: Codec | None = None,
    name: str = "",
) -> NDArray[np.uint8]:
    """Compress a whole low-resolution image; what the cache holds is not made again.

    Args:
        lr: ``H x W x 3`` uint8.
        setting: Codec and quality.
        cache: Where decoded pixels are kept.
        codec: What stands for the setting's codec; None takes it from the table.
        name: File name of the image without suffix, for codecs that go by it.

    Returns:
        The decoded image, same shape.

    Raises:
        CodecError: If the codec is not available, or failed.
        DataError: If the cache cannot be read or written.
        UnknownNameError: If there is no such codec.

    Example:
        >>> import tempfile
        >>> grey = np.full((16, 24, 3), 128, np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lq = compress_lr(grey, Setting("jpeg", 40), ArrayCache(Path(folder)))
        ...     print(lq.shape)
        (16, 24, 3)
    """
    codec = codec or require_codec(setting.codec)
    source = hashlib.sha256(lr.tobytes()).hexdigest()
    key = f"lr {source} {lr.shape} {fingerprint_digest(codec.fingerprint())} {setting}"
    return cache.get(
        _with_name(key, codec, name),
        lambda: code_image(codec, np.asarray(lr), setting.quality, name=name).pixels,
    )


def require_codec(name: str) -> Codec:
    """Find a codec that works here.

    Args:
        name: Its name.

    Returns:
        The codec.

    Raises:
        UnknownNameError: If there is no such codec.
        CodecError: If it is not available, with the reason and the line that installs it.

    Example:
        >>> require_codec("webp").spec.name
        'webp'
    """
    codec = get_codec(name)
    require_available(name, codec.available())
    return codec
