"""How to work within a given memory: whole, in exact strips, or in tiles."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.models.config import SCALE, UCIPConfig
from ucip_adapt.models.upsampler import HEAD_HALO, head_rows
from ucip_adapt.models.windows import BATCH_PIXELS, window_starts

__all__ = ["LargeMode", "LargePlan", "MemoryLimitError", "parse_memory", "plan_large"]

LargeMode = Literal["auto", "whole", "exact", "tiles"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_FIXED_BYTES = 64 * 10**6
"""What does not depend on the image: workspaces of convolutions, folded matrices."""

_HALO = 6
"""Rows around a strip that the longest chain of convolutions reads."""

_STRIP_PIXELS = 16384
"""Pixels of a strip; measured on a CPU, half and twice as many take 1.02 to 1.06 times as long."""

_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_TAIL_ROWS = 32, 32, 8
"""Lines of a strip, memory permitting: with fewer, what overlaps costs more than the rest."""

_TILE, _LEAST_TILE, _OVERLAP = 512, 64, 32


_OUTPUT_HINT = ", an array on disk (numpy.memmap) as out, or use upscale_rows"


class MemoryLimitError(ConfigError):
    """The image cannot be enlarged in the memory allowed."""


@dataclass(frozen=True)
class LargePlan:
    """What :func:`upscale_large` is going to do.

    Attributes:
        mode: ``"whole"``, ``"exact"`` or ``"tiles"``.
        height: Rows of the image.
        width: Columns of the image.
        rows: Rows of a strip of rows (exact).
        columns: Columns of a strip of columns (exact).
        tail_rows: LQ rows that go through the x4 head at once (exact).
        map_bytes: Bytes of all feature maps (exact).
        memory_map_bytes: Bytes that maps may take in memory; the others go to files (exact).
        tile: Side of a tile in LQ pixels (tiles).
        stride: Step between tiles in LQ pixels (tiles).
        batch: Tiles that go through the network at once (tiles).
        configured: Whether the tiles are the windows that the base's configuration asks for.
        peak_bytes: Estimated memory that the call adds to the process.

    Example:
        >>> plan = plan_large(UCIPConfig.preset("tiny"), 3000, 4000, max_memory="2GB")
        >>> plan.mode, plan.exact
        ('exact', True)
    """

    mode: Literal["whole", "exact", "tiles"]
    height: int
    width: int
    rows: int = 0
    columns: int = 0
    tail_rows: int = 0
    map_bytes: int = 0
    memory_map_bytes: int = 0
    tile: int = 0
    stride: int = 0
    batch: int = 0
    configured: bool = False
    peak_bytes: int = 0

    @property
    def exact(self) -> bool:
        """Whether the result is that of the whole image, or that which the base asks for."""
        return self.mode != "tiles" or self.configured

    @property
    def file_bytes(self) -> int:
        """Room that temporary files take at most."""
        return self.map_bytes if self.memory_map_bytes < self.map_bytes else 0

    def describe(self) -> str:
        """One line for a person.

        Example:
            >>> config = UCIPConfig.preset("tiny")
            >>> plan = plan_large(config, 300, 400, max_memory="2GB", mode="tiles", tile=128)
            >>> print(plan.describe().partition(";")[0])
            tiles of 128 pixels, 32 of them shared: approximate
        """
        memory = f"about {_readable(self.peak_bytes)} of memory"
        if self.mode == "whole":
            return f"the whole image at once; {memory}"
        if self.mode == "exact":
            files = f", up to {_readable(self.file_bytes)} in temporary files"
            return (
                f"strips of {self.rows} rows and {self.columns} columns, exactly the whole image; "
                f"{memory}{files if self.file_bytes else ''}"
            )
        if self.configured:
            return f"windows of {self.tile} pixels, as the base is configured; {memory}"
        return (
            f"tiles of {self.tile} pixels, {self.tile - self.stride} of them shared: approximate; "
            f"each tile has statistics of its own, mode 'exact' has the whole image's; {memory}"
        )


def parse_memory(text: str | int) -> int:
    """Bytes that a text such as ``"4GB"`` stands for.

    Args:
        text: A number with B, KB, MB, GB or TB (powers of 1000) or KiB, MiB, GiB or TiB (powers of
            1024); a plain number is bytes.

    Returns:
        The number of bytes.

    Raises:
        ConfigError: If the text is something else, or not positive.

    Example:
        >>> parse_memory("1.5GB"), parse_memory("512MiB"), parse_memory(1000)
        (1500000000, 536870912, 1000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(found[2].upper()) if found else None
    size = float(found[1]) * unit if found and unit else 0.0
    if not 1 <= size < math.inf:
        raise ConfigError(f"max_memory={text!r}: give a size such as '4GB', '512MB' or '2GiB'")
    return int(size)


def plan_large(
    config: UCIPConfig,
    height: int,
    width: int,
    *,
    max_memory: str | int = "4GB",
    mode: LargeMode = "auto",
    tile: int | None = None,
    itemsize: int = 4,
    output_bytes: int = 0,
) -> LargePlan:
    """Choose how to enlarge an image within a given memory.

    ``"auto"`` uses windows where the base's configuration asks for them, as
    :meth:`UCIP.upscale` does; otherwise it takes the image whole where that fits, and exact strips
    where it does not.

    Args:
        config: The network's configuration.
        height: Rows of the image.
        width: Columns of the image.
        max_memory: Memory that the call may add to the process, such as ``"4GB"``.
        mode: ``"auto"``, ``"whole"``, ``"exact"`` or ``"tiles"``.
        tile: Side of a tile in LQ pixels; default is what fits, up to 512.
        itemsize: Bytes of a feature value.
        output_bytes: Bytes of the output where the call has to make room for it.

    Returns:
        The plan.

    Raises:
        MemoryLimitError: If the mode does not fit; the message names the least that does.
        ConfigError: If ``max_memory`` or ``tile`` makes no sense.
        UnknownNameError: If there is no such mode.

    Example:
        >>> plan_large(UCIPConfig.preset("tiny"), 100, 100).mode
        'whole'
    """
    if mode not in get_args(LargeMode):
        raise unknown_name("mode", str(mode), get_args(LargeMode))
    limit = parse_memory(max_memory)
    room = limit - output_bytes
    if mode == "tiles" or (mode == "auto" and (tile is not None or config.window)):
        return _plan_tiles(config, height, width, room, output_bytes, mode, tile, itemsize)
    whole = whole_bytes(config, 1, height, width, itemsize)
    if mode == "whole" or (mode == "auto" and whole <= room):
        if whole > room:
            raise MemoryLimitError(
                f"the whole image of {width} x {height} pixels takes about "
                f"{_readable(whole + output_bytes)}, max_memory allows {_readable(limit)}: "
                "mode 'exact' gives the same in less"
            )
        return LargePlan("whole", height, width, peak_bytes=whole + output_bytes)
    return _plan_exact(config, height, width, room, output_bytes, itemsize)


def whole_bytes(config: UCIPConfig, batch: int, height: int, width: int, itemsize: int) -> int:
    """Estimated peak of one forward pass without a graph over images of this size."""
    pixels = batch * height * width
    strip = batch * width * min(height, head_rows(batch, width) + 2 * HEAD_HALO)
    body = 10 * config.embed_dim + 2 * config.prompt_dim
    # Image and skip, and the strips beside what they are joined to.
    around_head = 3 * config.embed_dim + 4 * 3 * SCALE**2
    # One map more than the head holds at a time: what was freed is not always given back by then.
    head = 5 * SCALE**2 * config.head_dim
    return _FIXED_BYTES + itemsize * max(pixels * body, pixels * around_head + strip * head)


def _row_bytes(config: UCIPConfig, itemsize: int) -> int:
    """Estimated memory per pixel of a strip of rows, or of columns."""
    return itemsize * (16 * config.embed_dim + 2 * config.prompt_dim)


def _tail_bytes(config: UCIPConfig, itemsize: int) -> int:
    """Estimated memory per LQ pixel that goes through the x4 head."""
    return itemsize * (3 * config.embed_dim + 4 * SCALE**2 * config.head_dim)


def _plan_exact(
    config: UCIPConfig, height: int, width: int, room: int, output_bytes: int, itemsize: int
) -> LargePlan:
    per_pixel, per_tail_pixel = _row_bytes(config, itemsize), _tail_bytes(config, itemsize)

    def peak(rows: int, columns: int, tail_rows: int) -> int:
        return _FIXED_BYTES + max(
            min(rows + _HALO, height) * width * per_pixel,
            min(columns + 4, width) * height * per_pixel,
            # The head keeps rows of every convolution.
            min(tail_rows + 2, height) * width * per_tail_pixel,
        )

    least = peak(1, 1, 1)
    if least > room:
        raise MemoryLimitError(
            f"exact strips of a {width} x {height} image need {_readable(least + output_bytes)}"
            f"{' (output included)' if output_bytes else ''}, max_memory allows "
            f"{_readable(room + output_bytes)}: give max_memory="
            f"'{-(-(least + output_bytes) // 10**6)}MB' or more"
            f"{_OUTPUT_HINT if output_bytes > least else ''}"
        )

    def most(wanted: int, line_bytes: int, extra: int) -> int:
        return max(1, min(wanted, (room - _FIXED_BYTES) // line_bytes - extra))

    rows = most(min(height, max(_LEAST_ROWS, _STRIP_PIXELS // width)), width * per_pixel, _HALO)
    columns = most(min(width, max(_LEAST_COLUMNS, _STRIP_PIXELS // height)), height * per_pixel, 4)
    tail_rows = most(
        min(height, max(_LEAST_TAIL_ROWS, _STRIP_PIXELS // 4 // width)),
        width * per_tail_pixel,
        2,
    )
    strips = peak(rows, columns, tail_rows)
    values = (3 + 2 / config.share) * config.embed_dim + config.prompt_dim
    maps = int(height * width * itemsize * values)
    in_memory = min(maps, room - strips)
    return LargePlan(
        "exact",
        height,
        width,
        rows=rows,
        columns=columns,
        tail_rows=tail_rows,
        map_bytes=maps,
        memory_map_bytes=in_memory,
        peak_bytes=strips + in_memory + output_bytes,
    )


def _plan_tiles(
    config: UCIPConfig,
    height: int,
    width: int,
    room: int,
    output_bytes: int,
    mode: LargeMode,
    tile: int | None,
    itemsize: int,
) -> LargePlan:
    def tiles_at_once(side: int, stride: int) -> int:
        """As many as fill the network, at most those that there are."""
        high, wide = min(side, height), min(side, width)
        there = len(window_starts(height, high, stride)) * len(window_starts(width, wide, stride))
        return min(max(BATCH_PIXELS // (high * wide), 1), there)

    def peak(side: int, batch: int) -> int:
        # A band of the output is added up in float32, grows, and is divided by its weights.
        high, wide = min(side, height), min(side, width)
        band = 5 * 3 * SCALE**2 * high * width * max(itemsize, 4)
        return whole_bytes(config, batch, high, wide, itemsize) + band

    configured = mode == "auto" and tile is None
    if configured and config.window is not None:
        side = config.window
        stride = config.window_stride or max(5 * side // 6, 1)
    else:
        side = _TILE if tile is None else tile
        while tile is None and side > _LEAST_TILE and peak(side, 1) > room:
            side -= 32
        if side <= _OVERLAP:
            raise ConfigError(f"tile={side}: need more than {_OVERLAP} pixels")
        stride = side - _OVERLAP
    batch = tiles_at_once(side, stride)
    while batch > 1 and peak(side, batch) > room:
        batch -= 1
    needed = peak(side, batch) + output_bytes
    if needed - output_bytes > room:
        least = -(-needed // 10**6)
        raise MemoryLimitError(
            f"tiles of {side} pixels of a {width} x {height} image need {least} MB, max_memory "
            f"allows {_readable(room + output_bytes)}: give max_memory='{least}MB' or more"
        )
    if not configured and max(height, width) <= side:  # one tile: nothing approximate about it
        return LargePlan("whole", height, width, peak_bytes=needed)
    return LargePlan(
        "tiles",
        height,
        width,
        tile=side,
        stride=stride,
        batch=batch,
        configured=configured,
        peak_bytes=needed,
    )


def _readable(size: int) -> str:
    """A size for people, in powers of 1000."""
    for unit in ("GB", "MB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.3g} {unit}"
    return f"{size / 1000:.3g} KB"
