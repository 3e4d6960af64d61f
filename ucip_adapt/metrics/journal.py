"""Scores of single images, kept while they are made: a measurement that was stopped goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import DataError

__all__ = ["ImageScores", "ScoreJournal"]

ImageScores = dict[str, dict[str, tuple[float, float]]]
"""PSNR in dB and SSIM of one image, by method and protocol."""


class ScoreJournal:
    """A folder's scores, by the pixels and by all else that they depend on.

    Nothing of another measurement is ever taken over: a score is found only for the same pixels
    under the same context, whose hash is in the names of the files. Each process appends to one of
    its own, and finds what any process has left.

    Args:
        folder: Where the files lie; it has to be there.
        context: All that scores depend on besides the pixels (weights, ways of inference,
            protocols, libraries, hardware), as JSON takes it.
        rank: Number of this process.

    Raises:
        DataError: If the files cannot be read.

    Example:
        >>> import tempfile
        >>> gt, lq = np.zeros((32, 32, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = ScoreJournal(Path(folder), {"weights": "a"})
        ...     first.add(gt, lq, {"base": {"y-c4": (31.5, 0.9)}})
        ...     later = ScoreJournal(Path(folder), {"weights": "a"})
        ...     other = ScoreJournal(Path(folder), {"weights": "b"})
        ...     print(later.find(gt, lq), len(other))
        {'base': {'y-c4': (31.5, 0.9)}} 0
    """

    def __init__(self, folder: Path, context: Mapping[str, Any], *, rank: int = 0) -> None:
        self._folder = folder
        name = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:32]
        self._files = f"scores-{name}-*.jsonl"
        self._own = folder / f"scores-{name}-{rank}.jsonl"
        self._scores = dict(_lines(folder.glob(self._files)))
        self.found = 0
        """How many images' scores :meth:`find` has found."""

    def __len__(self) -> int:
        """How many images had scores under this context when the journal was opened."""
        return len(self._scores)

    def find(self, gt: NDArray[np.uint8], lq: NDArray[np.uint8]) -> ImageScores | None:
        """The scores of an image, if they are there.

        Args:
            gt: The truth, ``H x W x 3``.
            lq: What was restored, ``H/4 x W/4 x 3``.
        """
        scores = self._scores.get(_key(gt, lq))
        if scores is None:
            return None
        self.found += 1
        return {
            method: {name: (psnr, ssim) for name, (psnr, ssim) in of_method.items()}
            for method, of_method in scores.items()
        }

    def add(self, gt: NDArray[np.uint8], lq: NDArray[np.uint8], scores: ImageScores) -> None:
        """Keep the scores of an image.

        Args:
            gt: The truth, ``H x W x 3``.
            lq: What was restored, ``H/4 x W/4 x 3``.
            scores: Its scores.

        Raises:
            DataError: If they cannot be written.
        """
        line = json.dumps([_key(gt, lq), scores])
        try:
            # What a killed process left of a line ends where the next one begins.
            with self._own.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}")
        except OSError as error:
            raise DataError(f"cannot keep scores in {self._own}: {error}") from error

    def discard(self) -> None:
        """Delete the files of all processes in this folder: the measurement is finished.

        Raises:
            DataError: If one cannot be deleted.
        """
        for path in self._folder.glob(self._files):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(f"cannot delete {path}: {error}") from error


def _key(gt: NDArray[np.uint8], lq: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for pixels in (gt, lq):
        digest.update(str(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _lines(paths: Iterable[Path]) -> Iterator[tuple[str, ImageScores]]:
    """All whole lines; a killed process may have left half of one."""
    for path in sorted(paths):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        for line in filter(None, lines):
            with contextlib.suppress(ValueError, TypeError):
                key, scores = json.loads(line)
                yield key, scores
