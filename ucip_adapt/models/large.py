"""Enlarge images of any size within a given memory."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError
from ucip_adapt.models.bounded.body import Body, ReadRows, number_of_passes
from ucip_adapt.models.bounded.plan import LargeMode, LargePlan, plan_large
from ucip_adapt.models.bounded.store import Store
from ucip_adapt.models.bounded.tail import enlarged_rows
from ucip_adapt.models.config import SCALE
from ucip_adapt.models.ucip import UCIP
from ucip_adapt.models.windows import window_rows

__all__ = ["upscale_large", "upscale_rows"]

_SMALLEST_SIDE = 8

Progress = Callable[[float], None]
"""Told the share of the work that is done, from 0 to 1."""


@overload
def upscale_large(
    model: nn.Module,
    image: NDArray[np.uint8],
    *,
    max_memory: str | int = ...,
    mode: LargeMode = ...,
    tile: int | None = ...,
    temp_dir: str | Path | None = ...,
    progress: Progress | None = ...,
    out: NDArray[np.uint8] | None = ...,
    reserve: int = ...,
) -> NDArray[np.uint8]: ...


@overload
def upscale_large(
    model: nn.Module,
    image: Tensor,
    *,
    max_memory: str | int = ...,
    mode: LargeMode = ...,
    tile: int | None = ...,
    temp_dir: str | Path | None = ...,
    progress: Progress | None = ...,
    reserve: int = ...,
) -> Tensor: ...


def upscale_large(
    model: nn.Module,
    image: NDArray[np.uint8] | Tensor,
    *,
    max_memory: str | int = "4GB",
    mode: LargeMode = "auto",
    tile: int | None = None,
    temp_dir: str | Path | None = None,
    progress: Progress | None = None,
    out: NDArray[np.uint8] | None = None,
    reserve: int = 0,
) -> NDArray[np.uint8] | Tensor:
    """Restore and enlarge an image of any size within a given memory.

    UCIP normalises features over the whole image, so that tiles change the picture. ``"exact"``
    gives the whole image's result in bounded memory: the network is computed layer by layer over
    strips of whole rows and columns, global statistics first; features that do not fit into memory
    wait in temporary files without names, which vanish with the call however it ends.

    Args:
        model: A :class:`UCIP`, or a PEFT model around one; active adapters count.
        image: ``H x W x 3`` uint8, or a tensor ``(B, 3, H, W)`` in [0, 1].
        max_memory: Memory that the call may add to the process, such as ``"4GB"`` or ``"512MiB"``,
            its output included unless ``out`` is given. Python, torch and the weights come on top.
        mode: ``"whole"`` takes the image at once; ``"exact"`` gives the same in bounded memory;
            ``"tiles"`` is faster, approximate, and says so by a warning. ``"auto"`` uses windows if
            the base's configuration asks for them, as :meth:`UCIP.upscale` does, and otherwise
            whole where it fits and exact where it does not.
        tile: Side of a tile in LQ pixels; default is what fits, up to 512.
        temp_dir: Folder of temporary files; default the system's, see ``docs/large_images.md``.
        progress: Called with the share of the work that is done.
        out: ``4H x 4W x 3`` uint8 to be filled, for instance a ``numpy.memmap``; for arrays only.
        reserve: Bytes of ``max_memory`` that are left to the caller.

    Returns:
        For an array ``4H x 4W x 3`` uint8 (``out`` if given); for a tensor ``(B, 3, 4H, 4W)``,
        clipped to [0, 1].

    Raises:
        MemoryLimitError: If no way, or not the one asked for, fits into ``max_memory``; the message
            names the least that does.
        TemporaryFileError: If the folder cannot be written to, or its disk is full.
        ConfigError: If an argument makes no sense, or the model is no UCIP.

    Example:
        >>> from ucip_adapt import UCIPConfig
        >>> model = UCIP(UCIPConfig.preset("nano")).eval()
        >>> image = torch.rand(1, 3, 20, 30)
        >>> sr = upscale_large(model, image, mode="exact", max_memory="100MB")
        >>> torch.allclose(sr, model.upscale(image), atol=1e-5)
        True
    """
    size = _output_shape(image)
    if isinstance(image, np.ndarray):
        output_bytes = int(np.prod(size)) if out is None else 0
        plan = _plan(model, image.shape[:2], max_memory, mode, tile, output_bytes + reserve)
        _say_if_approximate(plan)
        if out is None:
            out = np.empty(size, np.uint8)
        if out.shape != size or out.dtype != np.uint8:
            raise ConfigError(f"out must be {size} uint8, not {out.shape} {out.dtype}")
        done = 0
        for strip in _rows(model, image, plan, temp_dir, progress):
            rows = _to_uint8(strip)
            out[done : done + len(rows)] = rows
            done += len(rows)
        return out
    if out is not None:
        raise ConfigError("out is for arrays: the result of a tensor is a tensor")
    output_bytes = SCALE**2 * image.numel() * image.element_size()
    plan = _plan(model, image.shape[2:], max_memory, mode, tile, output_bytes + reserve)
    _say_if_approximate(plan)
    whole = image.new_empty(size)
    for index in range(len(image)):
        share = None if progress is None else _part(progress, index, len(image))
        done = 0
        for strip in _rows(model, image[index : index + 1], plan, temp_dir, share):
            whole[index, :, done : done + strip.shape[2]] = strip[0].clamp(0, 1)
            done += strip.shape[2]
    return whole


def upscale_rows(
    model: nn.Module,
    image: NDArray[np.uint8],
    *,
    max_memory: str | int = "4GB",
    mode: LargeMode = "auto",
    tile: int | None = None,
    temp_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """As :func:`upscale_large`, giving the rows of the result from top to bottom when ready.

    With it the memory does not grow with the output either.

    Args:
        model: See :func:`upscale_large`.
        image: ``H x W x 3`` uint8.
        max_memory: See :func:`upscale_large`.
        mode: See :func:`upscale_large`.
        tile: See :func:`upscale_large`.
        temp_dir: See :func:`upscale_large`.
        progress: See :func:`upscale_large`.

    Yields:
        Strips ``n x 4W x 3`` uint8.

    Raises:
        UcipError: As :func:`upscale_large`.

    Example:
        >>> from ucip_adapt import UCIPConfig
        >>> model = UCIP(UCIPConfig.preset("nano")).eval()
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> sum(len(rows) for rows in upscale_rows(model, image, mode="exact"))
        80
    """
    _output_shape(image)
    plan = _plan(model, image.shape[:2], max_memory, mode, tile)
    _say_if_approximate(plan)
    for strip in _rows(model, image, plan, temp_dir, progress):
        yield _to_uint8(strip)


def _output_shape(image: NDArray[np.uint8] | Tensor) -> tuple[int, ...]:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ConfigError(f"image must be H x W x 3 uint8, not {image.shape} {image.dtype}")
        return (SCALE * image.shape[0], SCALE * image.shape[1], 3)
    if image.dim() != 4 or image.shape[1] != 3 or not image.numel():
        raise ConfigError(f"image must have shape (B, 3, H, W), not {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ConfigError(f"image must be floating point in [0, 1], not {image.dtype}")
    return (len(image), 3, SCALE * image.shape[2], SCALE * image.shape[3])


def _network(model: nn.Module) -> UCIP:
    # Of PEFT's model the network inside, which carries the adapters; peft itself is not needed.
    get_base = getattr(model, "get_base_model", None)
    network = model if get_base is None else cast("Callable[[], nn.Module]", get_base)()
    if not isinstance(network, UCIP):
        raise ConfigError(f"a UCIP network is needed, not a {type(network).__name__}")
    return network


def _plan(
    model: nn.Module,
    size: tuple[int, ...],
    max_memory: str | int,
    mode: LargeMode,
    tile: int | None,
    output_bytes: int = 0,
) -> LargePlan:
    network = _network(model)
    height, width = (max(side, _SMALLEST_SIDE) for side in size)
    return plan_large(
        network.config,
        height,
        width,
        max_memory=max_memory,
        mode=mode,
        tile=tile,
        itemsize=next(network.embed.parameters()).element_size(),
        output_bytes=output_bytes,
    )


def _say_if_approximate(plan: LargePlan) -> None:
    if not plan.exact:
        warnings.warn(plan.describe(), stacklevel=3)


def _part(progress: Progress, index: int, count: int) -> Progress:
    return lambda share: progress((index + share) / count)


def _reader(image: NDArray[np.uint8] | Tensor, height: int, width: int, like: Tensor) -> ReadRows:
    """Reads rows of the image for the network, its edge repeated up to this size."""

    def read(first: int, last: int) -> Tensor:
        if isinstance(image, np.ndarray):
            index = np.arange(first, last).clip(max=image.shape[0] - 1)
            rows = torch.from_numpy(image[index]).permute(2, 0, 1)[None].to(like) / 255
        else:
            below = torch.arange(first, last, device=image.device).clamp(max=image.shape[2] - 1)
            rows = image[:, :, below].to(like)
        missing = width - rows.shape[3]
        return F.pad(rows, (0, missing, 0, 0), mode="replicate") if missing else rows

    return read


@torch.no_grad()
def _rows(
    model: nn.Module,
    image: NDArray[np.uint8] | Tensor,
    plan: LargePlan,
    temp_dir: str | Path | None,
    progress: Progress | None,
) -> Iterator[Tensor]:
    """Strips ``(1, 3, n, 4W)`` of one image's result, not clipped."""
    like = next(_network(model).embed.parameters())
    read = _reader(image, plan.height, plan.width, like)
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[2:]
    report = progress or (lambda _: None)
    if plan.mode == "whole":
        strips = iter([_network(model)(read(0, plan.height))])
    elif plan.mode == "tiles":
        strips = window_rows(
            _network(model),
            read,
            plan.height,
            plan.width,
            window=plan.tile,
            stride=plan.stride,
            batch_size=plan.batch,
        )
    else:
        folder = Path(temp_dir) if temp_dir is not None else Path(tempfile.gettempdir())
        strips = _without_autocast(exact_rows(_network(model), read, plan, folder, report), like)
    done = 0
    for strip in strips:
        # Of a low image the strips below its last row are padding alone.
        rows = strip[:, :, : max(SCALE * height - done, 0), : SCALE * width]
        done += strip.shape[2]
        if plan.mode != "exact":
            report(done / (SCALE * plan.height))
        if rows.shape[2]:
            yield rows
    report(1.0)


def _without_autocast(strips: Iterator[Tensor], like: Tensor) -> Iterator[Tensor]:
    """The same strips, made without autocast; between them the caller's own setting holds."""
    while True:
        # Not around the whole loop: a generator that waits, or is dropped, would leave it behind.
        with torch.autocast(like.device.type, enabled=False):
            strip = next(strips, None)
        if strip is None:
            return
        yield strip


def exact_rows(
    network: UCIP, read: ReadRows, plan: LargePlan, folder: Path, report: Progress
) -> Iterator[Tensor]:
    """The forward pass of a whole image, not clipped, over strips.

    Call it under ``no_grad`` and without autocast.

    Args:
        network: The network.
        read: Reads rows of the image.
        plan: Sizes of the strips, and how much of the features stays in memory.
        folder: Folder of temporary files.
        report: Told the share of the work that is done.

    Yields:
        Strips of rows from top to bottom, shape ``(1, 3, n, 4W)``.

    Raises:
        ConfigError: If the network computes in less than 32 bits.
        TemporaryFileError: If a temporary file cannot be made, or its disk is full.
    """
    like = next(network.embed.parameters())
    if like.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"mode 'exact' computes in float32 or float64, not {like.dtype}")
    # The head takes about as long as five passes.
    total = number_of_passes(network) + 5
    done = 0.0

    def tick(share: float) -> None:
        nonlocal done
        done += share
        report(min(done / total, 1.0))

    with Store(plan.memory_map_bytes, folder, like.dtype, like.device) as store:
        body = Body(
            network,
            read,
            plan.height,
            plan.width,
            rows=plan.rows,
            columns=plan.columns,
            store=store,
            tick=tick,
        )
        features = body.run()
        yield from enlarged_rows(
            network,
            features,
            body.shallow,
            read,
            rows=plan.tail_rows,
            tick=lambda share: tick(5 * share),
        )


def _to_uint8(strip: Tensor) -> NDArray[np.uint8]:
    # Late: metrics are not needed to build a network.
    from ucip_adapt.metrics import to_uint8

    rows: NDArray[Any] = to_uint8(strip)[0]
    return cast("NDArray[np.uint8]", rows)
