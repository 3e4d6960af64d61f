"""One way to compute for codecs that are networks, whatever a training has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

__all__ = ["FIXED", "fixed_arithmetic"]

FIXED = MappingProxyType({"threads": 1, "matmul_precision": "highest"})
"""What :func:`fixed_arithmetic` sets, for the options in a codec's fingerprint."""

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Compute one way meanwhile, whatever a training has set, so that streams and pixels are fixed.

    In one thread, so that additions have one order; without factors rounded to bfloat16, neither
    by the precision of matrix products nor by autocast. Torch keeps these settings for the whole
    process, so that callers in several threads take turns; to code many images at once, use
    processes.
    """
    import torch  # here: a codec's fingerprint names FIXED, and needs no torch

    with _ONE_AT_A_TIME, torch.autocast("cpu", enabled=False):
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads(threads)
