"""Probability tables as whole numbers, and the range coder that uses them.

A table holds the frequencies of ``-k ... k`` and of an escape, after which a value follows in 16
plain bits. The tables are made once, after training, and stored with the weights: computed anew,
the error function's last bit on another machine could put a decoder out of step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import CodecError

__all__ = [
    "TOTAL",
    "RangeReader",
    "RangeWriter",
    "Tables",
    "frequencies",
    "gaussian_table",
]

TOTAL = 2**16
"""What the frequencies of a table sum to."""

_LARGEST_VALUE = 2**15 - 1


def frequencies(probabilities: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Whole frequencies, none of them 0, that sum to :data:`TOTAL`.

    Args:
        probabilities: One for each symbol, at least two; scaled to sum to 1.

    Example:
        >>> frequencies(np.array([0.75, 0.25, 0.0]))
        array([49151, 16384,     1], dtype=uint16)
    """
    count = len(probabilities)
    share = probabilities / probabilities.sum() * (TOTAL - count)
    whole = np.floor(share).astype(np.int64)
    # What rounding down leaves goes to the largest remainders, ties to the first.
    left = TOTAL - count - int(whole.sum())
    whole[np.argsort(whole - share, kind="stable")[:left]] += 1
    whole += 1
    counts: NDArray[np.uint16] = whole.astype(np.uint16)
    return counts


def gaussian_table(scale: float) -> NDArray[np.uint16]:
    """Table of a rounded gaussian around 0.

    Args:
        scale: Its standard deviation, in steps.

    Returns:
        Frequencies of ``-k ... k`` and the escape; ``k`` is two steps beyond six deviations.
    """
    reach = math.ceil(6 * scale) + 2
    edges = np.arange(-reach, reach + 2) - 0.5
    below = np.array([0.5 * math.erfc(-edge / scale / math.sqrt(2)) for edge in edges])
    return frequencies(np.append(np.diff(below), 0.0))


class Tables:
    """A numbered set of tables.

    Args:
        tables: Frequencies of each, as :func:`gaussian_table` gives them.

    Raises:
        CodecError: If one of them is no table.
    """

    def __init__(self, tables: Sequence[NDArray[np.uint16]]) -> None:
        self.tables = list(tables)
        for number, table in enumerate(self.tables):
            if len(table) % 2 or not table.all() or int(table.sum(dtype=np.int64)) != TOTAL:
                raise CodecError(f"probability table {number} is damaged")

    @cached_property
    def models(self) -> list[Any]:
        """The range coder's form of each table."""
        import constriction

        # Fractions of 2**16 are exact floats, and without `perfect` the coder's own rounding uses
        # no logarithm: the same bits on every machine.
        model = constriction.stream.model
        return [model.Categorical(table / float(TOTAL), perfect=False) for table in self.tables]

    @cached_property
    def plain(self) -> Any:  # noqa: ANN401 - constriction has no types
        """Sixteen bits as they are."""
        import constriction

        return constriction.stream.model.Uniform(TOTAL)

    def reach(self, number: int) -> int:
        """Largest value that a table codes without an escape."""
        return len(self.tables[number]) // 2 - 1


def _by_table(numbers: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Places of each table's symbols, tables in rising order."""
    if not numbers.size:
        return []  # the second half of a checkerboard on one latent
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    parts = np.split(order, starts[1:])
    return [(int(number), part) for number, part in zip(found, parts, strict=True)]


class RangeWriter:
    """Writes whole numbers; symbols of one call are put down table by table.

    Args:
        tables: What they are coded with.

    Example:
        >>> tables = Tables([gaussian_table(1.0), gaussian_table(5.0)])
        >>> numbers = np.array([0, 1, 0])
        >>> writer = RangeWriter(tables)
        >>> writer.put(np.array([-1, 12, 500]), numbers)
        >>> RangeReader(tables, writer.finish()).get(numbers)
        array([ -1,  12, 500])
    """

    def __init__(self, tables: Tables) -> None:
        import constriction

        self._tables = tables
        self._encoder = constriction.stream.queue.RangeEncoder()

    def put(self, values: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        """Write values, each with the table of its number; both of shape ``(n,)``.

        Raises:
            CodecError: If a value does not fit 16 bits.
        """
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        # Not by np.abs: that of the lowest integer, which NaN becomes, is negative.
        if low < -_LARGEST_VALUE or high > _LARGEST_VALUE:
            raise CodecError(f"latents of {low} to {high} steps cannot be coded")
        for number, places in _by_table(numbers):
            own, reach = values[places], self._tables.reach(number)
            outside = np.abs(own) > reach
            symbols = np.where(outside, 2 * reach + 1, own + reach).astype(np.int32)
            self._encoder.encode(symbols, self._tables.models[number])
            if outside.any():
                plain = (own[outside] + _LARGEST_VALUE).astype(np.int32)
                self._encoder.encode(plain, self._tables.plain)

    def finish(self) -> bytes:
        """The bytes so far: 32-bit words, lowest byte first."""
        return bytes(self._encoder.get_compressed().astype("<u4").tobytes())


class RangeReader:
    """Reads back what a :class:`RangeWriter` wrote, given the same numbers in the same calls.

    Args:
        tables: As the writer's.
        data: The writer's bytes.

    Raises:
        CodecError: If they are no whole number of words.
    """

    def __init__(self, tables: Tables, data: bytes) -> None:
        import constriction

        if len(data) % 4:
            raise CodecError("the stream is damaged: its payload is no whole number of words")
        self._tables = tables
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def get(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read one value for each table number, shape ``(n,)``.

        Raises:
            CodecError: If the data were not written with these tables.
        """
        values = np.zeros(len(numbers), np.int64)
        for number, places in _by_table(numbers):
            reach = self._tables.reach(number)
            own = self._decode(self._tables.models[number], len(places)).astype(np.int64) - reach
            outside = own > reach
            if outside.any():
                plain = self._decode(self._tables.plain, int(outside.sum()))
                own[outside] = plain.astype(np.int64) - _LARGEST_VALUE
            values[places] = own
        return values

    def _decode(self, model: Any, count: int) -> NDArray[np.int32]:  # noqa: ANN401
        decode: Callable[[Any, int], NDArray[np.int32]] = self._decoder.decode
        try:
            return decode(model, count)
        except (AssertionError, ValueError) as error:
            raise CodecError(f"the stream is damaged: {error}") from error
