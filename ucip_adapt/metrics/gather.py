"""Bring the scores of single images together from all processes of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["gather_scores"]


def gather_scores(
    rows: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> list[dict[str, Any]]:
    """Gather one dictionary per image from all processes, each image once, in global order.

    A prepared data loader repeats images at the end so that all processes get equally many batches;
    a mean over what the processes saw would count those twice. Here every image has an index, and
    of several rows with the same index the one of the lowest process is kept. All processes must
    call this, also those that have no row.

    Args:
        rows: The rows of this process. Each has ``"index"``, the position of the image in the data
            set, and any other values that can be pickled.
        accelerator: The run's accelerator.

    Returns:
        The rows of all processes, sorted by ``"index"``; the same list on every process.

    Raises:
        ValueError: If a row has no ``"index"``, or two rows with the same index differ in something
            other than a float, at any depth, which means that they belong to different images. It
            is raised on every process.

    Example:
        >>> from accelerate import Accelerator
        >>> rows = [{"index": 1, "psnr_db": 30.0}, {"index": 0, "psnr_db": 28.0}]
        >>> gather_scores(rows, Accelerator(cpu=True))
        [{'index': 0, 'psnr_db': 28.0}, {'index': 1, 'psnr_db': 30.0}]
    """
    gathered = [dict(row) for row in rows]
    if accelerator.num_processes > 1:
        # Imported here: reading scores needs no accelerate.
        from accelerate.utils import gather_object

        gathered = gather_object(gathered)

    # Checked only now: an error on one process before the exchange would leave the others waiting.
    by_index: dict[int, dict[str, Any]] = {}
    for row in gathered:
        if "index" not in row:
            raise ValueError(f"a row of scores has no 'index': {row}")
        kept = by_index.setdefault(row["index"], row)
        if _identity(kept) != _identity(row):
            raise ValueError(
                f"index {row['index']} stands for two different images: {kept} and {row}"
            )
    return [by_index[index] for index in sorted(by_index)]


def _identity(value: object) -> object:
    """What must agree between two rows of one image; floats may differ in their last digits.

    Scores may stand deep in a row, by method and protocol.
    """
    if isinstance(value, Mapping):
        return {k: _identity(v) for k, v in value.items() if not isinstance(v, float)}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return float if isinstance(value, float) else value
