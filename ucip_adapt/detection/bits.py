"""Reading bits and numbers of a file that may be damaged or hostile, never past its end."""

from __future__ import annotations

__all__ = ["BitReader", "MalformedError", "number"]


class MalformedError(ValueError):
    """The bytes are not what their format prescribes; caught inside this package."""


def number(data: bytes, offset: int, size: int) -> int:
    r"""Big-endian number of ``size`` bytes.

    Args:
        data: The file.
        offset: First byte.
        size: Bytes; 0 gives 0.

    Raises:
        MalformedError: If the file ends before.

    Example:
        >>> number(b"\x00\x01\x02", 1, 2)
        258
    """
    if offset < 0 or offset + size > len(data):
        raise MalformedError("the file ends too early")
    return int.from_bytes(data[offset : offset + size], "big")


class BitReader:
    r"""Bits of some bytes, one field after the other.

    Args:
        data: The bytes.
        lowest_first: Whether a byte's lowest bit is its first one (JPEG XL), rather than its
            highest (AV1).

    Example:
        >>> reader = BitReader(b"\xa5")
        >>> reader.bits(1), reader.bits(3)
        (1, 2)
        >>> BitReader(b"\xa5", lowest_first=True).bits(4)
        5
    """

    def __init__(self, data: bytes, *, lowest_first: bool = False) -> None:
        self._data = data
        self._at = 0
        self._lowest_first = lowest_first

    def bits(self, count: int) -> int:
        """The next bits as a number.

        Raises:
            MalformedError: If there are not as many.
        """
        if self._at + count > 8 * len(self._data):
            raise MalformedError("the header ends too early")
        value = 0
        for place in range(count):
            byte, bit = divmod(self._at + place, 8)
            if self._lowest_first:
                value |= (self._data[byte] >> bit & 1) << place
            else:
                value = value << 1 | (self._data[byte] >> (7 - bit) & 1)
        self._at += count
        return value

    def flag(self) -> bool:
        """The next bit."""
        return bool(self.bits(1))

    def either(self, *choices: tuple[int, int]) -> int:
        """JPEG XL's ``U32``: two bits choose ``(offset, bits)`` of the number that follows."""
        offset, count = choices[self.bits(2)]
        return offset + self.bits(count)
