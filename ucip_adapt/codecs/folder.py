"""Images that were degraded elsewhere, found by name: ``folder:PATH``."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb, require_available
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.errors import CodecError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FolderCodec", "folder_codec"]

PREFIX = "folder:"
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class FolderCodec:
    """A folder of decoded (or coded) low-resolution images in place of a codec.

    ``PATH/QUALITY/NAME.png``, with whole numbers for the qualities, or ``PATH/NAME.png`` for one
    setting, which is called 0. Files of a lossy format are decoded, and their length is the rate;
    of PNG, BMP and TIFF files nobody knows how long the bitstream was.

    Attributes:
        spec: Its name is the whole text, ``folder:`` included.
        root: The folder.
        folders: Where the images of each of the qualities are, in the same order.
    """

    spec: CodecSpec
    root: Path
    folders: tuple[Path, ...]

    def available(self) -> Availability:
        """Whether the folder is there."""
        if self.root.is_dir() and self.spec.qualities:
            return Availability(ok=True)
        what = (
            "holds neither images nor folders of them" if self.root.is_dir() else "does not exist"
        )
        return Availability(
            ok=False,
            reason=f"{self.root} {what}",
            install="Put the images into QUALITY/NAME.png in it",
        )

    def fingerprint(self) -> dict[str, Any]:
        """Sha256 over the names and contents of all files."""
        require_available(self.spec.name, self.available())
        digest = hashlib.sha256()
        for quality in self.spec.qualities:
            for name, path in sorted(self._images(quality).items()):
                line = f"{quality}/{name}{path.suffix} {file_sha256(path)}\n"
                digest.update(line.encode())
        return {
            "codec": self.spec.name,
            "library": "folder",
            "version": "",
            "options": {},
            "sha256": digest.hexdigest(),
        }

    def _images(self, quality: int) -> dict[str, Path]:
        return _listing(self.folders[self.spec.qualities.index(quality)])

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Refuse: an image without its name cannot be found.

        Raises:
            CodecError: Always; :func:`~ucip_adapt.codecs.base.code_image` passes the name on.
        """
        raise CodecError(f"{self.spec.name} finds images by their names; none was given")

    def lookup(self, name: str, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Read the image of that name.

        Args:
            name: File name of the image, without suffix.
            rgb: The image before compression; what is found has to have its size.
            quality: One of the qualities that have a folder.

        Raises:
            CodecError: If there is no such image, or it is not of that size.
        """
        from ucip_adapt.data.images import read_rgb

        require_available(self.spec.name, self.available())
        check_rgb(rgb, self.spec.name)
        if quality not in self.spec.qualities:
            known = ", ".join(map(str, self.spec.qualities))
            raise CodecError(f"{self.spec.name} has no quality {quality}. Known: {known}")
        images = self._images(quality)
        if name not in images:
            raise CodecError(
                f"{self.spec.name} has no image '{name}' at quality {quality} "
                f"(of {len(images)} images)"
            )
        path = images[name]
        try:
            pixels = read_rgb(path)
        except DataError as error:
            raise CodecError(str(error)) from error
        if pixels.shape != rgb.shape:
            raise CodecError(
                f"{path} has {pixels.shape[:2]} pixels, the image it stands for {rgb.shape[:2]}"
            )
        if path.suffix.lower() in _LOSSLESS:
            return Degraded(pixels, num_bytes=0)
        stream = path.read_bytes()
        return Degraded(pixels, num_bytes=len(stream), stream=stream)


@functools.cache
def _listing(folder: Path) -> dict[str, Path]:
    """Images by name; looked up once, because it is asked for with every image."""
    from ucip_adapt.data.images import list_images

    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} have the same name: which one is it?")
        found[path.stem] = path
    return found


def folder_codec(text: str) -> FolderCodec:
    """Understand a ``folder:`` text.

    Args:
        text: The text with its prefix ``folder:``.

    Returns:
        The codec; its qualities, in rising order, are the folders that have a number for a name,
        with leading zeros or without.

    Raises:
        DataError: If two folders have the same number, as ``8`` and ``08``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for quality in ("40", "08", "notes"):
        ...         Path(folder, quality).mkdir()
        ...     folder_codec(f"folder:{folder}").spec.qualities
        (8, 40)
    """
    root = Path(text.removeprefix(PREFIX)).expanduser().resolve()
    folders = _setting_folders(root)
    qualities = tuple(folders)
    spec = CodecSpec(
        name=text,
        family="folder",
        parameter="quality",
        qualities=qualities,
        quality_range=(min(qualities, default=0), max(qualities, default=0)),
        faithful=False,
        stored=True,
    )
    return FolderCodec(spec, root, tuple(folders.values()))


def _setting_folders(root: Path) -> dict[int, Path]:
    """Folders by quality, in rising order; files without such folders are quality 0."""
    inside = sorted(root.iterdir()) if root.is_dir() else []
    found: dict[int, Path] = {}
    for path in inside:
        if not (path.is_dir() and path.name.isdecimal()):
            continue
        quality = int(path.name)
        if quality in found:
            raise DataError(
                f"{found[quality]} and {path} are both quality {quality}: rename or remove one"
            )
        found[quality] = path
    if not found and any(path.is_file() for path in inside):
        return {0: root}
    return dict(sorted(found.items()))
