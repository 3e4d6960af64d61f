"""Time and memory of restoring one image, beside SwinIR, Swin2SR and RRDB.

    python benchmarks/inference.py --out results/benchmarks/inference.json

Networks take turns under each precision: default float32, matmul precision medium, and bfloat16
autocast. Peak memory is that of a process that runs one network once, the interpreter included; the
time of that pass is written beside it, for images too large for rounds.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from common import (
    PRECISIONS,
    in_own_process,
    in_precision,
    own_peak_mib,
    parser,
    summary,
    take_turns,
    write,
)
from peers import PEERS, available, build
from torch import nn

OURS = "UCIP full"
FUSED = "UCIP full, fused"


def image(size: str) -> torch.Tensor:
    """A random image; ``size`` is width x height, as images are named."""
    width, height = (int(side) for side in size.split("x"))
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def one_memory(name: str, size: str, precision: str) -> None:
    """Print the peak memory of this process around one pass, in MiB, and its CPU seconds."""
    network, lq = build(name), image(size)
    before = own_peak_mib()

    @torch.no_grad()
    def run() -> None:
        network(lq)

    seconds = take_turns({name: in_precision(run, precision)}, 1, warm_up=0)[name]
    peak = round(own_peak_mib(), 1)
    print(json.dumps({"before": round(before, 1), "peak": peak, **summary(seconds)}))


def differences(network: nn.Module, lq: torch.Tensor) -> dict[str, float]:
    """Largest difference to default float32 over the output's largest value, by precision."""
    outputs: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def run() -> None:
        outputs[name] = network(lq).float()

    for name in PRECISIONS:
        in_precision(run, name)()
    exact = outputs["fp32"]
    return {
        name: float((out - exact).abs().max() / exact.abs().max()) for name, out in outputs.items()
    }


def measure(size: str, rounds: int, names: list[str], precisions: list[str]) -> dict[str, Any]:
    """All networks on one size."""
    lq = image(size)
    networks = {name: build(name) for name in names}

    def case(name: str) -> Any:  # noqa: ANN401
        @torch.no_grad()
        def run() -> None:
            networks[name](lq)

        return run

    table: dict[str, Any] = {}
    for precision in precisions:
        cases = {name: in_precision(case(name), precision) for name in names}
        # A pass of a large image is its own warm-up: the minimum over rounds is there as well.
        seconds = take_turns(cases, rounds, warm_up=int(rounds > 1))
        for name in names:
            row = summary(seconds[OURS], seconds[name])
            ratios = {k: row[k] for k in ("ratio", "ratio_of_minima")}
            own = summary(seconds[name])
            pixels = lq.shape[-1] * lq.shape[-2]
            table[f"{name}, {precision}"] = {
                "network": name,
                "precision": precision,
                **own,
                "ms_per_pixel": round(1000 * own["cpu_seconds"] / pixels, 4),
                **{f"ucip_{k}": v for k, v in ratios.items()},
            }
            if FUSED in seconds:
                of_fused = summary(seconds[FUSED], seconds[name])
                table[f"{name}, {precision}"]["fused_ratio"] = of_fused["ratio"]
            print(size, f"{name}, {precision}", table[f"{name}, {precision}"], flush=True)
    return {
        "rows": table,
        "differences": differences(networks[OURS], lq) if len(precisions) > 1 else {},
    }


def memory(size: str, names: list[str]) -> dict[str, Any]:
    """Peak memory of each network on one size, in float32 and in a process of its own."""
    table = {}
    for name in names:
        found = in_own_process("--one", name, size, "fp32")
        table[name] = {
            "peak_mib": found["peak"],
            "added_mib": round(found["peak"] - found["before"], 1),
            "cpu_seconds": found["cpu_seconds"],
        }
        print(size, name, table[name], flush=True)
    return table


def main() -> None:
    """Measure and write."""
    options_of = parser(__doc__, "inference.json")
    options_of.add_argument("--sizes", nargs="+", default=["64x64", "128x128", "256x192"])
    options_of.add_argument(
        "--size_rounds", nargs="+", type=int, default=[], help="rounds of each size"
    )
    options_of.add_argument(
        "--only", nargs="+", default=[], help="one precision for a size, such as 256x192=fp32"
    )
    options_of.add_argument("--memory", action="store_true", help="peak memory instead of time")
    options_of.add_argument("--networks", nargs="+", choices=PEERS, default=available())
    options_of.add_argument(
        "--one", nargs=3, help="measure the memory of: network, size, precision"
    )
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one_memory(*options.one)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    if options.memory:
        write(options, {"memory": {size: memory(size, options.networks) for size in options.sizes}})
        return
    rounds = options.size_rounds or [options.rounds] * len(options.sizes)
    limits = dict(part.split("=") for part in options.only)
    parameters = {
        name: sum(p.numel() for p in build(name).parameters()) for name in options.networks
    }
    scores: dict[str, Any] = {}
    for size, count in zip(options.sizes, rounds, strict=True):
        chosen = [limits[size]] if size in limits else list(PRECISIONS)
        scores[size] = measure(size, count, options.networks, chosen)
        write(options, {"parameters": parameters, "sizes": scores})


if __name__ == "__main__":
    main()
