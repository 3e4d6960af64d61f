"""Where feature maps live between the passes: in memory, or in a temporary file without a name.

A file goes when it is closed, whatever ends the process: it has no name that could be left behind.
Its bytes are read and written strip by strip and never mapped, so that the process does not grow.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ucip_adapt.errors import UcipError

__all__ = ["FeatureMap", "Store", "TemporaryFileError"]


class TemporaryFileError(UcipError):
    """The temporary file for feature maps cannot be made, or its disk is full."""


class FeatureMap(ABC):
    """A map of features ``(H, W, C)`` that is read and written in strips of whole lines.

    Args:
        shape: H, W, C.
        dtype: Type of its values.
        device: Where strips are computed; maps themselves stay in host memory or on disk.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def read_rows(self, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last`` (exclusive), shape ``(1, last - first, W, C)``.

        May be a view: it holds until the rows are next written.
        """

    @abstractmethod
    def write_rows(self, first: int, rows: Tensor) -> None:
        """Replace rows from ``first`` on by ``(1, n, W, C)``."""

    @abstractmethod
    def read_columns(self, first: int, last: int) -> Tensor:
        """Columns ``first`` to ``last`` (exclusive), shape ``(1, H, last - first, C)``."""

    @abstractmethod
    def write_columns(self, first: int, columns: Tensor) -> None:
        """Replace columns from ``first`` on by ``(1, H, n, C)``."""


class MemoryMap(FeatureMap):
    """A feature map in memory.

    Example:
        >>> features = MemoryMap((4, 5, 2), torch.float32, torch.device("cpu"))
        >>> features.write_rows(0, torch.ones(1, 4, 5, 2))
        >>> features.read_columns(1, 3).shape
        torch.Size([1, 4, 2, 2])
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(shape, dtype, device)
        self._values = torch.empty(shape, dtype=dtype)

    def read_rows(self, first: int, last: int) -> Tensor:
        """Rows ``(1, last - first, W, C)``; on the CPU a view."""
        return self._values[None, first:last].to(self.device)

    def write_rows(self, first: int, rows: Tensor) -> None:
        """Replace rows from ``first`` on by ``(1, n, W, C)``."""
        self._values[first : first + rows.shape[1]].copy_(rows[0])

    def read_columns(self, first: int, last: int) -> Tensor:
        """Columns ``(1, H, last - first, C)``; on the CPU a view."""
        return self._values[None, :, first:last].to(self.device)

    def write_columns(self, first: int, columns: Tensor) -> None:
        """Replace columns from ``first`` on by ``(1, H, n, C)``."""
        self._values[:, first : first + columns.shape[2]].copy_(columns[0])


class FileMap(FeatureMap):
    """A feature map in a temporary file.

    Args:
        shape: H, W, C.
        dtype: Type of its values.
        device: Where strips are computed.
        folder: Folder of the file.

    Raises:
        TemporaryFileError: If the file cannot be made, or there is no room for it.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        folder: Path,
    ) -> None:
        super().__init__(shape, dtype, device)
        self._folder = folder
        self._pixel_bytes = shape[2] * dtype.itemsize
        self._bytes = shape[0] * shape[1] * self._pixel_bytes
        try:
            # On Linux it never has a name; elsewhere the system removes it when it is closed.
            # Unbuffered, as every read and write is a whole strip or line.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise TemporaryFileError(
                f"cannot make a temporary file for feature maps in {folder}: {error.strerror}; "
                "name a folder that can be written to with temp_dir"
            ) from error
        try:
            self._reserve()
        except OSError as error:
            self._file.close()
            raise self._no_room(error) from error

    def _reserve(self) -> None:
        """Ask for the whole length: a full disk is met now and not hours later."""
        if self._bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, self._bytes)
        else:  # Windows: writing will tell
            self._file.truncate(self._bytes)

    def _no_room(self, error: OSError) -> TemporaryFileError:
        return TemporaryFileError(
            f"no room for a feature map of {self._bytes:,} bytes in {self._folder}: "
            f"{error.strerror}; name a folder on a larger disk with temp_dir"
        )

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()

    def read_rows(self, first: int, last: int) -> Tensor:
        """Rows ``(1, last - first, W, C)``."""
        _, width, channels = self.shape
        rows = torch.empty(1, last - first, width, channels, dtype=self.dtype)
        self._read(first * width * self._pixel_bytes, _bytes_of(rows))
        return rows.to(self.device)

    def write_rows(self, first: int, rows: Tensor) -> None:
        """Replace rows from ``first`` on by ``(1, n, W, C)``."""
        self._write(first * self.shape[1] * self._pixel_bytes, _bytes_of(rows))

    def read_columns(self, first: int, last: int) -> Tensor:
        """Columns ``(1, H, last - first, C)``."""
        height, width, channels = self.shape
        columns = torch.empty(1, height, last - first, channels, dtype=self.dtype)
        line = (last - first) * self._pixel_bytes
        view = _bytes_of(columns)
        for row in range(height):
            self._read(
                (row * width + first) * self._pixel_bytes, view[row * line : (row + 1) * line]
            )
        return columns.to(self.device)

    def write_columns(self, first: int, columns: Tensor) -> None:
        """Replace columns from ``first`` on by ``(1, H, n, C)``."""
        view = _bytes_of(columns)
        line = columns.shape[2] * self._pixel_bytes
        for row in range(self.shape[0]):
            self._write(
                (row * self.shape[1] + first) * self._pixel_bytes,
                view[row * line : (row + 1) * line],
            )

    def _read(self, position: int, target: memoryview) -> None:
        self._file.seek(position)
        done = 0
        while done < len(target):  # one call moves at most 2 GiB
            count = self._file.readinto(target[done:])
            if not count:
                raise TemporaryFileError(
                    f"the temporary file in {self._folder} ended at byte {position + done} of "
                    f"{self._bytes}"
                )
            done += count

    def _write(self, position: int, source: memoryview) -> None:
        try:
            self._file.seek(position)
            done = 0
            while done < len(source):
                done += self._file.write(source[done:])
        except OSError as error:
            raise self._no_room(error) from error


class Store:
    """Makes feature maps, in memory as far as that is allowed, and drops them all at the end.

    Args:
        memory_bytes: Bytes that maps in memory may take together; the others go to files.
        folder: Folder of the files.
        dtype: Type of the values.
        device: Where strips are computed.

    Example:
        >>> with Store(0, Path(tempfile.gettempdir()), torch.float32, torch.device("cpu")) as store:
        ...     features = store.new((4, 5, 2))
        ...     features.write_rows(1, torch.ones(1, 2, 5, 2))
        ...     float(features.read_columns(0, 5).sum())
        20.0
    """

    def __init__(
        self, memory_bytes: int, folder: Path, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._left = memory_bytes
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._open = ExitStack()

    def new(self, shape: tuple[int, int, int]) -> FeatureMap:
        """A map of shape H, W, C; its values are undefined.

        Raises:
            TemporaryFileError: If its file cannot be made, or there is no room for it.
        """
        size = shape[0] * shape[1] * shape[2] * self._dtype.itemsize
        if size <= self._left:
            self._left -= size
            return MemoryMap(shape, self._dtype, self._device)
        found = FileMap(shape, self._dtype, self._device, self._folder)
        self._open.callback(found.close)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()


def _bytes_of(values: Tensor) -> memoryview:
    """The bytes of a tensor, which is copied only if it is not contiguous in host memory."""
    array = values.detach().cpu().contiguous().view(-1).numpy()
    return array.data.cast("B")
