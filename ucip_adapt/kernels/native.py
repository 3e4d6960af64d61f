"""The sampling kernel for CPUs: a page of C++, compiled for this machine the first time.

The library lies in the user's cache folder under a hash of everything that went into it, so a new
version, another compiler or another processor means another file. It has a C interface and uses no
header of PyTorch: that is why compiling takes seconds and fits any version.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ucip_adapt.errors import UcipError

__all__ = ["KernelError", "backward", "cache_folder", "forward", "load"]

# Floating-point traps and errno are never looked at; with them floor() would not become vector
# code. Results stay those of IEEE arithmetic.
_FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-std=c++17", "-shared", "-fPIC", "-pthread"),
)
_SECONDS = 120
_SOURCE = Path(__file__).with_name("deform_sample.cpp")
_SUFFIX = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class KernelError(UcipError):
    """The kernel cannot be compiled or loaded here; the message says why."""


class _Steps(ctypes.Structure):
    """Elements to the next image, the next line and the next position on a line."""

    _fields_ = [(name, ctypes.c_int64) for name in ("image", "line", "position")]


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("images", "lines", "length", "channels", "groups")
    ]


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$XDG_CACHE_HOME/ucip_adapt/kernels``, else in ~/.cache.

    Raises:
        KernelError: If the user has no home folder.

    Example:
        >>> cache_folder().name
        'kernels'
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "ucip_adapt" / "kernels"
    except RuntimeError as error:  # containers run under user ids that nobody has
        raise KernelError(f"{error} Set XDG_CACHE_HOME") from error


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise KernelError(
        f"there is no C++ compiler {asked!r}, which CXX names"
        if asked
        else "there is no C++ compiler (c++, g++ or clang++); install one, or set CXX"
    )


def _processor() -> str:
    """What ``-march=native`` depends on: a home folder may be shared by different machines."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine() + platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(kinds)}))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the compiler the user's PATH or CXX names
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{Path(command[0]).name} did not run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise KernelError(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout


@functools.cache
def load() -> ctypes.CDLL:
    """The compiled kernel; compiles it if the cache folder does not hold it.

    Returns:
        The library.

    Raises:
        KernelError: If there is no compiler, or it fails, or the cache folder cannot be written.
    """
    if sys.platform == "win32":
        raise KernelError("the C++ kernel is built on Linux and macOS only")
    compiler = _compiler()
    parts = [_SOURCE.read_text(encoding="utf-8"), *_FLAGS, _run([compiler, "--version"])]
    key = hashlib.sha256("\n".join([*parts, _processor()]).encode()).hexdigest()[:16]
    library = cache_folder() / f"deform_sample-{key}.so"
    try:
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                built = Path(folder) / library.name
                _run([compiler, *_FLAGS, "-o", str(built), str(_SOURCE)])
                built.replace(library)  # whole or not at all, also with several processes
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelError(f"the compiled kernel cannot be kept or loaded: {error}") from error


def forward(x: Tensor, offset: Tensor, output: Tensor, *, dim: int) -> None:
    """Sample along one axis.

    Args:
        x: Features, shape ``(B, C, H, W)``, float32, float64 or bfloat16; channels must have
            stride 1, here and in all other tensors.
        offset: Shape ``(B, G, H, W)``, float32, or float64 for float64 ``x``.
        output: Written; shape and dtype of ``x``.
        dim: 3 for horizontal, 2 for vertical.
    """
    getattr(load(), f"ucip_forward_{_SUFFIX[x.dtype]}")(
        *_argument(x, dim), *_argument(offset, dim), *_argument(output, dim),
        _shape(x, offset, dim), torch.get_num_threads(),
    )  # fmt: skip


def backward(
    x: Tensor,
    offset: Tensor,
    gradient: Tensor,
    x_gradient: Tensor,
    offset_gradient: Tensor,
    *,
    dim: int,
    add: bool,
) -> None:
    """Gradients of :func:`forward`.

    Args:
        x: As there.
        offset: As there.
        gradient: Gradient of the output.
        x_gradient: Written, or added to; shape and dtype of ``x``.
        offset_gradient: Written; shape and dtype of ``offset``.
        dim: As there.
        add: True adds to ``x_gradient``.
    """
    getattr(load(), f"ucip_backward_{_SUFFIX[x.dtype]}")(
        *_argument(x, dim), *_argument(offset, dim), *_argument(gradient, dim),
        *_argument(x_gradient, dim), int(add), *_argument(offset_gradient, dim),
        _shape(x, offset, dim), torch.get_num_threads(),
    )  # fmt: skip


def _argument(tensor: Tensor, dim: int) -> tuple[ctypes.c_void_p, object]:
    steps = _Steps(tensor.stride(0), tensor.stride(5 - dim), tensor.stride(dim))
    return ctypes.c_void_p(tensor.data_ptr()), ctypes.byref(steps)


def _shape(x: Tensor, offset: Tensor, dim: int) -> object:
    images, channels = x.shape[:2]
    return ctypes.byref(_Shape(images, x.shape[5 - dim], x.shape[dim], channels, offset.shape[1]))
