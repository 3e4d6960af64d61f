"""The operator ``ucip_adapt::deform_sample``: sampling along one or both axes in one pass.

Registered with PyTorch when this module is imported, so that it has gradients, works under autocast
and ``torch.compile``, and stays one node in an exported graph. It keeps its inputs for backward and
nothing else, reads and writes channels-last memory, and is deterministic on either kind of device:
each thread or program owns the lines whose gradients it sums.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ucip_adapt.errors import unknown_name
from ucip_adapt.kernels import native
from ucip_adapt.kernels.native import KernelError

__all__ = ["deform_sample", "deform_sample_backward", "unavailable"]

_AXES = {"horizontal": (3,), "vertical": (2,), "horizontal+vertical": (3, 2)}
"""Dimensions along which each word samples."""

_FEATURES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@functools.cache
def unavailable(device_type: str) -> str | None:
    """Why the operator cannot compute on a kind of device; None if it can.

    Args:
        device_type: ``"cpu"`` (compiles the C++ kernel if that has not been done), ``"cuda"``, ...

    Example:
        >>> unavailable("meta")
        'there is no kernel for devices of type meta'
    """
    if device_type == "cpu":
        try:
            native.load()
        except KernelError as error:
            return str(error)
        return None
    if device_type == "cuda":
        missing = importlib.util.find_spec("triton") is None
        return "Triton is not installed; pip install triton" if missing else None
    return f"there is no kernel for devices of type {device_type}"


@torch.library.custom_op("ucip_adapt::deform_sample", mutates_args=(), device_types="cpu")
def deform_sample(x: Tensor, offset: Tensor, axes: str) -> list[Tensor]:
    """Sample channels at fractional positions along one axis or both.

    Args:
        x: Features, shape ``(B, C, H, W)``; float32, float64, bfloat16 or float16.
        offset: Displacement in pixels, shape ``(B, N C // S, H, W)`` for N axes; float64 if ``x``
            is, else float32. Under autocast it is converted.
        axes: ``"horizontal"``, ``"vertical"`` or ``"horizontal+vertical"``.

    Returns:
        For each axis features of the shape and dtype of ``x``, channels last.

    Raises:
        ValueError: If shapes or dtypes do not fit.
        KernelError: If there is no kernel here; :func:`unavailable` says why before.
    """
    # The C++ kernel does not read float16.
    values = x.float() if x.dtype == torch.float16 else x
    return [output.to(x.dtype) for output in _forward(native, values, offset, axes)]


@deform_sample.register_kernel("cuda")
def _(x: Tensor, offset: Tensor, axes: str) -> list[Tensor]:
    return _forward(_triton(), x, offset, axes)


@deform_sample.register_fake
def _(x: Tensor, offset: Tensor, axes: str) -> list[Tensor]:
    return [_empty_last(x) for _ in _checked_parts(x, offset, axes)]


@torch.library.custom_op("ucip_adapt::deform_sample_backward", mutates_args=(), device_types="cpu")
def deform_sample_backward(
    x: Tensor, offset: Tensor, gradients: Sequence[Tensor], axes: str
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`deform_sample` with respect to ``x`` and ``offset``.

    Args:
        x: As there.
        offset: As there.
        gradients: Of each output.
        axes: As there.

    Returns:
        Two tensors of the shapes and dtypes of ``x`` and ``offset``, channels last.
    """
    values = x.float() if x.dtype == torch.float16 else x
    of_x, of_offset = _backward(native, values, offset, gradients, axes)
    return of_x.to(x.dtype), of_offset


@deform_sample_backward.register_kernel("cuda")
def _(x: Tensor, offset: Tensor, gradients: Sequence[Tensor], axes: str) -> tuple[Tensor, Tensor]:
    return _backward(_triton(), x, offset, gradients, axes)


@deform_sample_backward.register_fake
def _(x: Tensor, offset: Tensor, gradients: Sequence[Tensor], axes: str) -> tuple[Tensor, Tensor]:
    return _empty_last(x), _empty_last(offset)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: object) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:2])
    ctx.axes = inputs[2]


def _differentiate(
    ctx: Any,  # noqa: ANN401 - PyTorch gives it no public type
    gradients: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, None]:
    x, offset = ctx.saved_tensors
    given = [torch.zeros_like(x) if gradient is None else gradient for gradient in gradients]
    of_x, of_offset = deform_sample_backward(x, offset, given, ctx.axes)
    return of_x, of_offset, None


deform_sample.register_autograd(_differentiate, setup_context=_keep_inputs)


def _autocast(device_type: str) -> Callable[[Tensor, Tensor, str], list[Tensor]]:
    """The rule under autocast: positions in float32, features as they come."""

    def rule(x: Tensor, offset: Tensor, axes: str) -> list[Tensor]:
        with torch.autocast(device_type, enabled=False):
            sampled: list[Tensor] = deform_sample(x, offset.to(_position_dtype(x)), axes)
            return sampled

    return rule


# Kept for as long as the module: the rules go when this object does.
_rules: Any = torch.library.Library("ucip_adapt", "FRAGMENT")  # type: ignore[no-untyped-call]
_rules.impl("deform_sample", _autocast("cpu"), "AutocastCPU")
_rules.impl("deform_sample", _autocast("cuda"), "AutocastCUDA")


def _triton() -> ModuleType:
    problem = unavailable("cuda")
    if problem is not None:
        raise KernelError(problem)
    from ucip_adapt.kernels import triton_lines

    return triton_lines


def _forward(kernels: ModuleType, x: Tensor, offset: Tensor, axes: str) -> list[Tensor]:
    parts = _checked_parts(x, offset, axes)
    outputs = [_empty_last(x) for _ in parts]
    if x.numel():
        for output, part, dim in zip(outputs, parts, _AXES[axes], strict=True):
            kernels.forward(_last(x), _last(part), output, dim=dim)
    return outputs


def _backward(
    kernels: ModuleType, x: Tensor, offset: Tensor, gradients: Sequence[Tensor], axes: str
) -> tuple[Tensor, Tensor]:
    of_x, of_offset = _empty_last(x), _empty_last(offset)
    if x.numel():
        targets = of_offset.chunk(len(gradients), dim=1)
        rows = zip(gradients, _checked_parts(x, offset, axes), targets, _AXES[axes], strict=True)
        for k, (gradient, part, target, dim) in enumerate(rows):
            given = _last(gradient.to(x.dtype))
            kernels.backward(_last(x), _last(part), given, of_x, target, dim=dim, add=k > 0)
    return of_x, of_offset


def _position_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _empty_last(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _last(x: Tensor) -> Tensor:
    """The tensor with channels at stride 1, copied only if they are not."""
    if x.shape[1] == 1 or x.stride(1) == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def _checked_parts(x: Tensor, offset: Tensor, axes: str) -> tuple[Tensor, ...]:
    """The offsets of each axis; kernels address memory by these shapes, so they are checked."""
    if axes not in _AXES:
        raise unknown_name("axes", axes, _AXES)
    if x.dtype not in _FEATURES or offset.dtype != _position_dtype(x):
        raise ValueError(
            f"x is {x.dtype} and offset {offset.dtype}: offsets must be float32, or float64 for "
            "float64 features"
        )
    # Not divmod: sizes may be symbols of an export.
    number = len(_AXES[axes])
    groups, rest = offset.shape[1] // number, offset.shape[1] % number
    fits = x.dim() == 4 and x.shape[0] == offset.shape[0] and x.shape[2:] == offset.shape[2:]
    if not fits or rest or not groups or x.shape[1] % groups or x.device != offset.device:
        raise ValueError(
            f"x {tuple(x.shape)} on {x.device} and offset {tuple(offset.shape)} on "
            f"{offset.device} do not fit for {axes}"
        )
    return offset.chunk(number, dim=1)
