"""Where the time goes: the time of a network's operations by kind.

    python benchmarks/profile_network.py --out results/benchmarks/profile.json

``full`` restoring one image without a graph, and a training step of ``tiny``, under torch.profiler.
An operation counts for the time that it spends itself, not in the operations that it calls, so that
the kinds add up to all. The profiler's clock does not stop while the process waits for a core, so
shares are medians over rounds. Python and the profiler itself are not in the sum. Beside it, the
arithmetic of products and convolutions, two operations for each multiplication and addition.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import torch
from common import Case, parser, summary, take_turns, write
from peers import build
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_step import stepper

from ucip_adapt.models import UCIP, UCIPConfig

# An operation is of the first kind with a word that is in its name: "baddbmm" has "bmm" and "add".
KINDS: dict[str, tuple[str, ...]] = {
    "convolutions": ("conv",),
    "matrix products": ("mm", "linear"),
    # Positions of both coordinates are put together as complex numbers.
    "sampling": ("grid_sampler", "complex"),
    "GELU": ("gelu",),
    "norms and means": ("norm", "mean"),
    "copies": ("copy", "clone", "contiguous", "cat", "fill_", "zero_"),
    "additions": ("add", "sub", "sum"),
    "element-wise products": ("mul", "div"),
}
OPTIMIZER = "Adam"
REST = "rest"
"""Views, allocation, softmax, activations, the autograd engine and its Python functions."""


def kind(event: FunctionEvent) -> str:
    """Kind of an operation, by its name; all that Adam calls is Adam's."""
    caller: FunctionEvent | None = event
    while caller is not None:
        if caller.name.startswith("Optimizer."):
            return OPTIMIZER
        caller = caller.cpu_parent
    space, _, name = event.name.partition("::")
    # Names of ranges, such as autograd's, repeat those of operations.
    return by_words(name) if space == "aten" else REST


def by_words(name: str) -> str:
    """Kind by an operation's name alone."""
    return next((k for k, words in KINDS.items() if any(word in name for word in words)), REST)


def gflop(case: Case) -> dict[str, float]:
    """Arithmetic of a case by kind, in 1e9 operations."""

    def in_place(_total: object, a: torch.Size, b: torch.Size, **_: object) -> int:
        return 2 * a.numel() * b[-1]  # PyTorch's counter leaves this product out

    mapping = {torch.ops.aten.baddbmm_: in_place}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        case()
    kinds = Counter[str]()
    for operation, count in counter.get_flop_counts()["Global"].items():
        kinds[by_words(str(operation).partition(".")[2])] += count
    return {name: round(count / 1e9, 2) for name, count in kinds.items()}


def shares(case: Case, rounds: int) -> dict[str, Any]:
    """Share of each kind and of the largest operations, medians over rounds; time; arithmetic."""
    case()
    by_kind: list[Counter[str]] = []
    by_name: list[Counter[str]] = []
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            case()
        kinds, names = Counter[str](), Counter[str]()
        for event in found.events():
            kinds[kind(event)] += event.self_cpu_time_total
            names[event.name] += event.self_cpu_time_total
        by_kind.append(kinds)
        by_name.append(names)

    def share(counters: list[Counter[str]], name: str) -> float:
        return round(median(counter[name] / counter.total() for counter in counters), 4)

    def spread(name: str) -> list[float]:
        found = [counter[name] / counter.total() for counter in by_kind]
        return [round(min(found), 4), round(max(found), 4)]

    present = [name for name in (*KINDS, OPTIMIZER, REST) if by_kind[0][name]]
    return {
        "kinds": {name: share(by_kind, name) for name in present},
        "kinds_spread": {name: spread(name) for name in present},
        "largest": {name: share(by_name, name) for name, _ in by_name[0].most_common(15)},
        **summary(take_turns({"alone": case}, rounds)["alone"]),  # without the profiler
        "gflop": gflop(case),
    }


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, "profile.json").parse_args()
    torch.set_num_threads(options.threads)
    network, lq = build("UCIP full"), torch.rand(1, 3, 64, 64)

    @torch.no_grad()
    def restore() -> None:
        network(lq)

    torch.manual_seed(0)
    step, _ = stepper(UCIP(UCIPConfig.preset("tiny")), 8, 32)
    cases = {"full, 64x64, no graph": restore, "tiny, training step, 8x32x32": step}
    scores = {name: shares(case, options.rounds) for name, case in cases.items()}
    for name, found in scores.items():
        print(name, found, flush=True)
    write(options, scores)


if __name__ == "__main__":
    main()
