"""Stored streams of HM and VTM: what the reference encoders made, read instead of made again.

A folder holds ``index.csv`` and the streams that it lists. A picture is found by the sha256 of the
low-resolution image it was made of, so that the answer is right whatever the image is called, and
is checked twice: the stream's sha256 before it is decoded, that of the decoded picture after it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb
from ucip_adapt.codecs.pyav import decode_rgb, pyav
from ucip_adapt.codecs.reference import HM, VTM, ReferenceCodec
from ucip_adapt.errors import CodecError, ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "REFERENCE",
    "StoredCodec",
    "StoredStream",
    "StreamIndex",
    "embedded_streams",
    "open_streams",
    "streams_codec",
    "use_streams",
    "use_streams_of",
]

REFERENCE = {codec.spec.name: codec for codec in (HM, VTM)}
"""Codecs whose streams may be stored, by name."""

_COLUMNS = ("path", "set", "name", "codec", "version", "qp", "width", "height", "bytes")
_DIGESTS = ("sha256", "rgb_sha256", "lr_sha256")


@dataclass(frozen=True)
class StoredStream:
    """One line of an index.

    Attributes:
        path: File, relative to the index, with forward slashes.
        dataset: Image set.
        name: Image, without suffix.
        software: ``"HM"`` or ``"VTM"``.
        version: Its version.
        qp: Its QP.
        width: Of the low-resolution image, in pixels.
        height: As ``width``.
        num_bytes: Length of the stream.
        sha256: Of the stream.
        rgb_sha256: Of the decoded pixels, ``H x W x 3`` uint8.
        lr_sha256: Of the low-resolution image's pixels.
    """

    path: str
    dataset: str
    name: str
    software: str
    version: str
    qp: int
    width: int
    height: int
    num_bytes: int
    sha256: str
    rgb_sha256: str
    lr_sha256: str


class StreamIndex:
    """A folder of stored streams.

    Args:
        folder: Folder with ``index.csv``.

    Raises:
        DataError: If the index cannot be read, a line is malformed, or a path leaves the folder.

    Example:
        >>> index = StreamIndex(embedded_streams())
        >>> index.versions("VTM")
        ['23.13']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "index.csv"
        try:
            data = path.read_bytes()
            lines = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"cannot read the stream index {path}: {error}") from error
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._streams = [_parse(path, number, line) for number, line in enumerate(lines, 2)]
        if not self._streams:
            raise DataError(f"the stream index {path} lists nothing")
        self._by_pixels = {(s.software, s.qp, s.lr_sha256): s for s in self._streams}

    def versions(self, software: str) -> list[str]:
        """Versions of an encoder whose streams are here.

        Args:
            software: ``"HM"`` or ``"VTM"``.

        Returns:
            Each once, sorted; empty if there is no stream of it.
        """
        return sorted({s.version for s in self._streams if s.software == software})

    def find(self, software: str, qp: int, lr_sha256: str) -> StoredStream | None:
        """The stream of a low-resolution image.

        Args:
            software: ``"HM"`` or ``"VTM"``.
            qp: Its QP.
            lr_sha256: Sha256 of the image's pixels, ``H x W x 3`` uint8 in C order.

        Returns:
            The entry, or None where there is none.
        """
        return self._by_pixels.get((software, qp, lr_sha256))

    def named(self, software: str, qp: int, dataset: str, name: str) -> StoredStream | None:
        """The stream of an image by its name, whatever its pixels are.

        Args:
            software: ``"HM"`` or ``"VTM"``.
            qp: Its QP.
            dataset: Image set.
            name: Image, without suffix.

        Returns:
            The entry, or None where there is none.
        """
        wanted = (software, qp, dataset, name)
        for stream in self._streams:
            if (stream.software, stream.qp, stream.dataset, stream.name) == wanted:
                return stream
        return None

    def read(self, stream: StoredStream) -> Degraded:
        """Read and decode a stream.

        Args:
            stream: An entry of this index.

        Returns:
            The picture and its bytes.

        Raises:
            DataError: If the file is missing, leaves the folder, or is not the one of the index.
            CodecError: If PyAV is missing or cannot decode it.
        """
        data = self._read_bytes(stream)
        kind = {codec.software: codec.kind for codec in REFERENCE.values()}[stream.software]
        pixels = decode_rgb(data, kind, stream.height, stream.width, what=stream.path)
        if _sha256(pixels) != stream.rgb_sha256:
            raise DataError(
                f"{self.folder / stream.path} decodes to other pixels than the index says: is this "
                f"PyAV fit for {kind} streams?"
            )
        return Degraded(pixels=pixels, num_bytes=len(data), stream=data)

    def _read_bytes(self, stream: StoredStream) -> bytes:
        path = self.folder / stream.path
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise DataError(f"{path} leads out of its folder")
            with path.open("rb") as file:
                data = file.read(stream.num_bytes + 1)
        except OSError as error:
            raise DataError(f"cannot read the stored stream {path}: {error}") from error
        if len(data) != stream.num_bytes or hashlib.sha256(data).hexdigest() != stream.sha256:
            raise DataError(f"{path} is damaged: its bytes are not those of the index")
        return data


def _parse(path: Path, number: int, line: dict[str, str]) -> StoredStream:
    """Check a line: the file may come from anywhere."""
    where = f"{path}, line {number}"
    missing = [name for name in (*_COLUMNS, *_DIGESTS) if not line.get(name)]
    if missing:
        raise DataError(f"{where}: no {missing[0]}")
    place = PurePosixPath(line["path"])
    if place.is_absolute() or ".." in place.parts or any(c in line["path"] for c in "\\:\0"):
        raise DataError(f"{where}: the path {line['path']!r} leads out of the folder")
    if line["codec"] not in {codec.software for codec in REFERENCE.values()}:
        raise DataError(f"{where}: unknown codec {line['codec']!r}")
    if not all(line[name].isdecimal() for name in ("qp", "width", "height", "bytes")):
        raise DataError(f"{where}: qp, width, height and bytes are numbers")
    qp, width, height, num_bytes = (int(line[n]) for n in ("qp", "width", "height", "bytes"))
    if not (0 < width < 1 << 16 and 0 < height < 1 << 16 and 0 < num_bytes < 1 << 28):
        raise DataError(f"{where}: {width} x {height} pixels in {num_bytes} bytes")
    return StoredStream(
        *(line["path"], line["set"], line["name"], line["codec"], line["version"]),
        *(qp, width, height, num_bytes),
        *(line[name] for name in _DIGESTS),
    )


@dataclass(frozen=True, eq=False)
class StoredCodec:
    """A reference codec that reads stored streams, and encodes what has none where it can.

    Attributes:
        reference: The codec.
        indexes: Where to look, one after the other.
        may_encode: Whether the encoder may step in for images without a stream.
        name: Name of the codec; empty is that of the encoder.

    Example:
        >>> codec = open_streams("hm", [embedded_streams()])
        >>> codec.source
        'streams HM 18.0'
    """

    reference: ReferenceCodec
    indexes: tuple[StreamIndex, ...]
    may_encode: bool = True
    name: str = ""

    @property
    def spec(self) -> CodecSpec:
        """As of the encoder: the streams are its own."""
        return replace(self.reference.spec, name=self.name or self.reference.spec.name)

    @property
    def source(self) -> str:
        """What the pictures come from, as tables and results say it."""
        software = self.reference.software
        versions = sorted({v for index in self.indexes for v in index.versions(software)})
        return f"streams {software} {' and '.join(versions)}"

    def available(self) -> Availability:
        """Whether the streams can be decoded."""
        state = pyav()
        return Availability(ok=True, version=self.source) if state.ok else state

    def fingerprint(self) -> dict[str, Any]:
        """The indexes; and the encoder, where it may step in."""
        mine = {
            "codec": self.spec.name,
            "library": "streams",
            "version": self.source,
            "sha256": [index.sha256 for index in self.indexes],
            "options": {"colour": f"bt601 full 420 {self.reference.bits}"},
        }
        if self.may_encode and self.reference.available().ok:
            mine["encoder"] = self.reference.fingerprint()
        return mine

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Read the stream of an image.

        Args:
            rgb: The low-resolution image, ``H x W x 3`` uint8.
            quality: QP.

        Raises:
            CodecError: If there is neither a stream of it nor an encoder.
            DataError: If the stream is damaged.
            ConfigError: If the QP is out of range.
        """
        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        found = self._find(rgb, quality)
        if found is not None:
            index, stream = found
            return index.read(stream)
        state = self.reference.available()
        if self.may_encode and state.ok:
            return self.reference.roundtrip(rgb, quality)
        height, width = rgb.shape[:2]
        raise CodecError(
            f"{self.spec.name}: no stored stream at QP {quality} was made of this image of "
            f"{width} x {height} pixels (looked in {', '.join(map(str, self._folders()))}), and "
            f"no encoder is here: {state.reason}. {state.install}"
        )

    def for_images(
        self, images: Sequence[NDArray[np.uint8]], quality: int
    ) -> StoredCodec | ReferenceCodec | None:
        """One source for a whole set: the streams if all images have one, else the encoder.

        Args:
            images: The low-resolution images.
            quality: QP.

        Returns:
            What to code all of them with; None if neither will do.
        """
        if self.count(images, quality) == len(images):
            return replace(self, may_encode=False)
        return self.reference if self.may_encode and self.reference.available().ok else None

    def count(self, images: Iterable[NDArray[np.uint8]], quality: int) -> int:
        """Number of images that have a stream.

        Args:
            images: The low-resolution images.
            quality: QP.
        """
        return sum(self._find(image, quality) is not None for image in images)

    def _find(
        self, rgb: NDArray[np.uint8], quality: int
    ) -> tuple[StreamIndex, StoredStream] | None:
        digest = _sha256(rgb)
        for index in self.indexes:
            stream = index.find(self.reference.software, quality, digest)
            # Equal bytes may be an image of another shape.
            if stream is not None and (stream.height, stream.width) == rgb.shape[:2]:
                return index, stream
        return None

    def _folders(self) -> list[Path]:
        return [index.folder for index in self.indexes]


def embedded_streams() -> Path:
    """Folder of the streams of the embedded images.

    Returns:
        The folder, with its ``index.csv``.

    Example:
        >>> (embedded_streams() / "index.csv").is_file()
        True
    """
    return Path(__file__).parents[1] / "assets" / "streams"


def _folders(data_root: Path | None) -> list[Path]:
    folders = [embedded_streams()]
    if data_root is not None and (data_root / "reference_streams" / "index.csv").is_file():
        folders.append(data_root / "reference_streams")
    return folders


def use_streams(names: Iterable[str], data_root: Path | None) -> None:
    """Let reference codecs read stored streams from now on, in this process.

    Args:
        names: Names of codecs; those without stored streams are passed over.
        data_root: Folder whose ``reference_streams`` is read besides the embedded streams, if
            there is one.

    Raises:
        DataError: If an index is damaged.
    """
    folders = _folders(data_root)
    from ucip_adapt.codecs import CODECS  # the table names this module

    for name in names:
        if name in REFERENCE:
            CODECS[name] = open_streams(name, folders)


def use_streams_of(rgb: NDArray[np.uint8], data_root: Path | None) -> list[str]:
    """Let those reference codecs read stored streams that have one of an image.

    Where none has, encoders and stand-ins are used as if there were no streams.

    Args:
        rgb: A low-resolution image, ``H x W x 3`` uint8.
        data_root: As for :func:`use_streams`.

    Returns:
        Names of the codecs.

    Raises:
        DataError: If an index is damaged.

    Example:
        >>> import numpy as np
        >>> use_streams_of(np.zeros((8, 8, 3), np.uint8), None)
        []
    """
    digest = _sha256(rgb)
    indexes = [StreamIndex(folder) for folder in _folders(data_root)]
    found = [
        name
        for name, reference in REFERENCE.items()
        if any(
            index.find(reference.software, quality, digest)
            for index in indexes
            for quality in reference.spec.qualities
        )
    ]
    use_streams(found, data_root)
    return found


def open_streams(name: str, folders: Iterable[Path]) -> StoredCodec:
    """A reference codec that reads what is stored in folders.

    Args:
        name: ``"hm"`` or ``"vtm"``.
        folders: Folders with an ``index.csv``, in the order of preference.

    Returns:
        The codec; its name is the encoder's.

    Raises:
        DataError: If an index is damaged, or none holds a stream of this codec.
        UnknownNameError: If the codec has no stored streams.
    """
    if name not in REFERENCE:
        raise unknown_name("codec with stored streams", name, REFERENCE)
    reference = REFERENCE[name]
    indexes = [StreamIndex(folder) for folder in folders]
    holding = tuple(index for index in indexes if index.versions(reference.software))
    if not holding:
        raise DataError(
            f"no {reference.software} streams in {', '.join(str(i.folder) for i in indexes)}"
        )
    return StoredCodec(reference, holding)


def streams_codec(text: str) -> StoredCodec:
    """Make a codec of ``streams:hm=FOLDER`` or ``streams:vtm=FOLDER``.

    Args:
        text: The whole text; it is the codec's name.

    Returns:
        The codec; it never encodes.

    Raises:
        ConfigError: If the text cannot be understood.
        DataError: If the index is damaged, or holds no stream of this codec.
        UnknownNameError: If the codec has no stored streams.

    Example:
        >>> streams_codec("streams:hm")
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.ConfigError: 'streams:hm': write streams:hm=FOLDER or streams:vtm=FOLDER
    """
    name, equals, folder = text.removeprefix("streams:").partition("=")
    if not equals or not folder:
        raise ConfigError(f"'{text}': write streams:hm=FOLDER or streams:vtm=FOLDER")
    codec = open_streams(name, [Path(folder).expanduser()])
    return replace(codec, may_encode=False, name=text)


def _sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()  # tobytes is in C order, of any view
