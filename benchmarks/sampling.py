"""Time and memory of the sampling along both axes, alone and with the 1 x 1 maps after it.

    python benchmarks/sampling.py --out results/benchmarks/sampling.json

Methods take turns. Each works in its own memory layout: gather, grid and deform_conv2d on planes,
fused on channels last. deform_conv2d is measured where torchvision can be imported; it samples and
maps at once, so it is compared with sampling and mapping, and its offsets are laid out for it
beforehand. Ratios are to deform_conv2d, or to gather where that did not run. Kept is what autograd
holds for backward beyond features, offsets and weights, in multiples of the features.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from common import Case, importable, parser, summary, take_turns, write
from torch import Tensor

from ucip_adapt.kernels import native, operator
from ucip_adapt.models import deform_sample_axes

Forward = Callable[[], Sequence[Tensor]]

CASES = (
    # (B, C, H, W), channels that share an offset
    ((8, 180, 64, 64), 1),
    ((8, 48, 64, 64), 1),
    ((1, 180, 128, 192), 1),
    ((16, 32, 48, 48), 1),
    ((8, 128, 64, 64), 2),
)
REFERENCE = "deform_conv2d"
OFFSET_STD = 2.0


def randn(*shape: int, last: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf of normal values, channels last or in planes."""
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_()


def ours(method: str, shape: tuple[int, ...], share: int, dtype: torch.dtype) -> dict[str, Any]:
    """Inputs and forward passes of one of our methods."""
    batch, channels, height, width = shape
    last = method == "fused"
    x = randn(*shape, last=last, dtype=dtype)
    offset = randn(batch, 2 * channels // share, height, width, last=last)
    with torch.no_grad():
        offset.mul_(OFFSET_STD)
    weights = [randn(channels, channels, last=False, dtype=dtype) for _ in range(2)]

    def sample() -> Sequence[Tensor]:
        return deform_sample_axes(x, offset, method=method)

    def sample_and_map() -> Sequence[Tensor]:
        pairs = zip(sample(), weights, strict=True)
        if last:
            return [F.linear(y.permute(0, 2, 3, 1), w).permute(0, 3, 1, 2) for y, w in pairs]
        return [F.conv2d(y, w[:, :, None, None]) for y, w in pairs]

    return {"inputs": [x, offset], "weights": weights, "sample": sample, "map": sample_and_map}


def torchvisions(shape: tuple[int, ...], share: int) -> dict[str, Any]:
    """The same by ``deform_conv2d``, whose offsets are pairs (down, right)."""
    from torchvision.ops import deform_conv2d

    batch, channels, height, width = shape
    x = randn(*shape, last=False)
    weights = [randn(channels, channels, 1, 1, last=False) for _ in range(2)]
    pairs = []
    for moved in (1, 0):
        pair = torch.zeros(batch, 2 * channels // share, height, width)
        pair[:, moved::2] = OFFSET_STD * torch.randn(batch, channels // share, height, width)
        pairs.append(pair.requires_grad_())

    def sample_and_map() -> Sequence[Tensor]:
        return [deform_conv2d(x, pair, w) for pair, w in zip(pairs, weights, strict=True)]

    return {"inputs": [x, *pairs], "weights": weights, "map": sample_and_map}


def inference(forward: Forward) -> Case:
    """Forward alone."""

    def run() -> None:
        with torch.no_grad():
            forward()

    return run


def training(forward: Forward, leaves: Sequence[Tensor]) -> Case:
    """Forward and backward to all leaves."""
    gradients = [torch.randn_like(y) for y in forward()]

    def run() -> None:
        torch.autograd.grad(forward(), leaves, gradients)

    return run


def kept(forward: Forward, leaves: Sequence[Tensor], unit: Tensor) -> float:
    """What autograd holds beyond the leaves, in multiples of one tensor."""
    known = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            held.setdefault(address, tensor)  # alive, so no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return round(sum(t.untyped_storage().nbytes() for t in held.values()) / unit.nbytes, 2)


def measure(shape: tuple[int, ...], share: int, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """All methods at one size."""
    methods = ["gather", "grid"]
    if operator.unavailable("cpu") is None:
        methods.append("fused")
    prepared = {name: ours(name, shape, share, dtype) for name in methods}
    if dtype == torch.float32 and importable("torchvision"):
        prepared[REFERENCE] = torchvisions(shape, share)
    cases: dict[str, Case] = {}
    for name, parts in prepared.items():
        if "sample" in parts:
            cases[f"{name} | sample | forward"] = inference(parts["sample"])
            cases[f"{name} | sample | both"] = training(parts["sample"], parts["inputs"])
        leaves = [*parts["inputs"], *parts["weights"]]
        cases[f"{name} | map | forward"] = inference(parts["map"])
        cases[f"{name} | map | both"] = training(parts["map"], leaves)
    seconds = take_turns(cases, rounds)
    table: dict[str, Any] = {}
    for label, values in seconds.items():
        name, what, direction = label.split(" | ")
        against = seconds.get(f"{REFERENCE} | {what} | {direction}")
        against = against or seconds[f"gather | {what} | {direction}"]
        table.setdefault(name, {}).setdefault(what, {})[direction] = summary(values, against)
    for name, parts in prepared.items():
        leaves = [*parts["inputs"], *parts["weights"]]
        unit = parts["inputs"][0]
        for what in ("sample", "map"):
            if what in parts:
                table[name][what]["kept"] = kept(parts[what], leaves, unit)
    return table


def build_seconds() -> float | None:
    """Wall-clock seconds to compile the C++ kernel into an empty cache; None without compiler."""
    if operator.unavailable("cpu") is not None:
        return None
    before = os.environ.get("XDG_CACHE_HOME")
    native.load.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = time.perf_counter()
        native.load()
        seconds = time.perf_counter() - start
    native.load.cache_clear()
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
    return round(seconds, 2)


def main() -> None:
    """Measure and write."""
    made = parser(__doc__, "sampling.json")
    made.set_defaults(rounds=7)
    made.add_argument("--cases", type=int, default=len(CASES), help="how many of the sizes")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    scores: dict[str, Any] = {
        "build_seconds": build_seconds(),
        "torchvision": metadata.version("torchvision") if importable("torchvision") else None,
        "triton": metadata.version("triton") if importable("triton") else None,
        "gpu": "not measured",
    }
    for shape, share in CASES[: options.cases]:
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{'x'.join(map(str, shape))} S={share} {str(dtype).removeprefix('torch.')}"
            scores[name] = measure(shape, share, dtype, options.rounds)
            print(name)
            for method, parts in scores[name].items():
                for what, rows in parts.items():
                    forward, both = rows["forward"], rows["both"]
                    print(
                        f"  {method:14} {what:6} {forward['cpu_seconds'] * 1e3:7.1f} /"
                        f" {both['cpu_seconds'] * 1e3:7.1f} ms  x{forward['ratio']:.3f} /"
                        f" x{both['ratio']:.3f}  kept {rows['kept']}",
                        flush=True,
                    )
    write(options, scores)


if __name__ == "__main__":
    main()
