"""Tables and the range coder: sums, probabilities, escapes, and the length that theory gives."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from ucip_adapt.codecs.learned.tables import (
    TOTAL,
    RangeReader,
    RangeWriter,
    Tables,
    frequencies,
    gaussian_table,
)
from ucip_adapt.errors import CodecError


@pytest.mark.parametrize("scale", [0.11, 0.5, 3.0, 40.0])
def test_a_gaussian_table_is_the_gaussian(scale):
    table = gaussian_table(scale).astype(np.int64)
    assert table.sum() == TOTAL
    assert table.min() >= 1
    reach = len(table) // 2 - 1
    cdf = NormalDist(0, scale).cdf
    expected = np.array([cdf(k + 0.5) - cdf(k - 0.5) for k in range(-reach, reach + 1)])
    # Rounding, and the one in 2**16 that every symbol has at least.
    np.testing.assert_allclose(table[:-1] / TOTAL, expected, rtol=0.0085, atol=2 / TOTAL)


def test_tables_stored_with_the_weights_sum_up(stored):
    assert len(stored.tables.tables) == 40 + 2 * 8
    assert {int(table.sum(dtype=np.int64)) for table in stored.tables.tables} == {TOTAL}


def test_numbers_come_back_whatever_their_table():
    rng = np.random.default_rng(0)
    tables = Tables([gaussian_table(scale) for scale in (0.11, 1.0, 7.0)])
    writer, calls = RangeWriter(tables), []
    for count in (0, 1, 50, 1000):
        numbers = rng.integers(0, 3, count)
        values = np.round(rng.standard_cauchy(count) * 3).astype(np.int64).clip(-32767, 32767)
        writer.put(values, numbers)
        calls.append((numbers, values))
    assert max(abs(values).max(initial=0) for _, values in calls) > 60  # escapes were needed
    reader = RangeReader(tables, writer.finish())
    for numbers, values in calls:
        np.testing.assert_array_equal(reader.get(numbers), values)


def test_a_stream_is_as_long_as_its_information():
    scale, rng = 2.5, np.random.default_rng(1)
    tables = Tables([gaussian_table(scale)])
    values = np.round(rng.normal(0, scale, 20_000)).astype(np.int64)
    writer = RangeWriter(tables)
    writer.put(values, np.zeros(len(values), np.int64))
    cdf = NormalDist(0, scale).cdf
    bits = -np.log2([cdf(v + 0.5) - cdf(v - 0.5) for v in values]).sum()
    assert 8 * len(writer.finish()) == pytest.approx(bits, rel=0.001)


def test_extreme_values():
    tables = Tables([gaussian_table(0.11)])
    writer = RangeWriter(tables)
    one = np.zeros(1, np.int64)
    writer.put(np.array([32767]), one)
    writer.put(np.array([-32767]), one)
    reader = RangeReader(tables, writer.finish())
    assert [reader.get(one)[0], reader.get(one)[0]] == [32767, -32767]
    for value in (32768, -32768, 2**63 - 1, -(2**63)):  # the last is what NaN becomes
        with pytest.raises(CodecError, match=rf"latents of .*{value} .*steps cannot be coded"):
            writer.put(np.array([value]), one)


@pytest.mark.parametrize("change", ["sum", "zero", "length"])
def test_a_damaged_table_is_refused(change):
    table = frequencies(np.array([0.25, 0.5, 0.25, 0.0]))
    if change == "sum":
        table[0] += 1
    elif change == "zero":
        table[1], table[3] = table[1] + table[3], 0
    else:
        table = np.append(table[:-1], [table[-1] - 1, 1]).astype(np.uint16)
    with pytest.raises(CodecError, match="probability table 0 is damaged"):
        Tables([table])
