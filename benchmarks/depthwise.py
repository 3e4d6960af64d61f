"""Gradients of depth-wise convolutions: PyTorch's own way against ours.

    python benchmarks/depthwise.py --rounds 30

CPU seconds of all gradients of one convolution on 2 x 48 x 64 x 64 (the `tiny` network's features
of two crops), channels last, by kernel and precision; the ratio is to PyTorch's own. bfloat16 is
what autocast makes of it: ours stays in float32 there.
"""

from __future__ import annotations

import torch
from common import Case, parser, summary, take_turns, write
from torch import nn

from ucip_adapt.models.depthwise import depthwise

KERNELS = {"5x5": (5, 5), "5x3": (5, 3), "3x3": (3, 3)}


def case(kernel: tuple[int, int], *, low: bool, ours: bool) -> Case:
    """All gradients of one convolution."""
    height, width = kernel
    torch.manual_seed(0)
    conv = nn.Conv2d(48, 48, kernel, padding=(height // 2, width // 2), groups=48)
    x = torch.rand(2, 48, 64, 64).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.rand(2, 48, 64, 64).to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = depthwise(conv, x) if ours else conv(x)
        torch.autograd.grad(out, [x, conv.weight, conv.bias], gradient.to(out.dtype))

    return run


def main() -> None:
    """Let all cases take turns."""
    options = parser(__doc__, "depthwise.json").parse_args()
    torch.set_num_threads(options.threads)
    cases = {
        f"{name} {'bf16' if low else 'fp32'} {'ours' if ours else 'pytorch'}": case(
            kernel, low=low, ours=ours
        )
        for name, kernel in KERNELS.items()
        for low in (False, True)
        for ours in (False, True)
    }
    seconds = take_turns(cases, options.rounds)
    rows = {
        name: summary(own, seconds[f"{name.rpartition(' ')[0]} pytorch"])
        for name, own in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:18} {1000 * row['cpu_seconds']:6.2f} ms, {row['ratio']:.2f}")
    write(options, {"gradients": rows})


if __name__ == "__main__":
    main()
