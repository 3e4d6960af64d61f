"""Time and memory of one training step: by sampler, and by what is tuned.

    python benchmarks/training_step.py --out results/benchmarks/training_step.json

``samplers`` are full steps of the small networks; with ``--before FOLDER``, a checkout of an
earlier commit, its steps take turns with today's, in a process of its own. ``tuning`` are steps of
the full network. Memory is what the forward pass keeps for backward, parameters left out, and the
peak of a process that makes one step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from common import (
    Case,
    in_own_process,
    kept_mib,
    own_peak_mib,
    parser,
    summary,
    take_turns,
    write,
)
from torch import nn

from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.tuning import (
    DynamicPromptConfig,
    add_prompt_adapter,
    full_tuning,
    trainable_parameters,
)

TUNED = {
    "everything": ("everything", "all", False),
    "everything, checkpointed": ("everything", "all", True),
    "dpm": ("dpm", "all", False),
    "dpm, checkpointed": ("dpm", "all", True),
    "dpm, last half": ("dpm", "last:3", False),
    "dpm+offset": ("dpm+offset", "all", False),
    "dpm+offset+spade": ("dpm+offset+spade", "all", False),
}


def tuned(name: str, sampler: Sampler) -> nn.Module:
    """The full network, prepared for one way of tuning."""
    torch.manual_seed(0)
    trained, blocks, checkpointing = TUNED[name]
    base = UCIP(UCIPConfig.preset("full", sampler=sampler))
    if checkpointing:
        base.enable_gradient_checkpointing()
    if trained == "everything":
        full_tuning(base)
        return base
    config = DynamicPromptConfig(trainable_set=trained, trainable_blocks=blocks)
    return add_prompt_adapter(base, config).train()


def stepper(model: nn.Module, batch: int, side: int) -> tuple[Case, Callable[[], torch.Tensor]]:
    """One step (forward, L1, backward, Adam), and its forward pass alone."""
    generator = torch.Generator().manual_seed(0)
    lq = torch.rand(batch, 3, side, side, generator=generator)
    gt = torch.rand(batch, 3, 4 * side, 4 * side, generator=generator)
    optimizer = torch.optim.Adam([p for _, p in trainable_parameters(model)], lr=1e-5)

    def forward() -> torch.Tensor:
        return (model(lq) - gt).abs().mean()

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return step, forward


class Before:
    """Steps of an earlier commit, made by a process that waits for a line before each."""

    _CODE = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
from ucip_adapt.models import UCIP, UCIPConfig
steps = {}
for line in sys.stdin:
    preset, batch, side = line.split()
    if line not in steps:
        torch.manual_seed(0)
        model = UCIP(UCIPConfig.preset(preset))
        optimizer = torch.optim.Adam(list(model.parameters()), lr=1e-5)
        lq = torch.rand(int(batch), 3, int(side), int(side))
        gt = torch.rand(int(batch), 3, 4 * int(side), 4 * int(side))
        steps[line] = model, optimizer, lq, gt
    model, optimizer, lq, gt = steps[line]
    start = time.process_time()
    optimizer.zero_grad()
    (model(lq) - gt).abs().mean().backward()
    optimizer.step()
    print(time.process_time() - start, flush=True)
"""

    def __init__(self, folder: Path, threads: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", self._CODE, str(threads)],
            cwd=folder,  # the package is imported from where the process starts
            env={"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, preset: str, batch: int, side: int) -> float:
        """CPU seconds of one step there."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        stdin.write(f"{preset} {batch} {side}\n")
        stdin.flush()
        return float(stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def samplers(options: argparse.Namespace) -> dict[str, Any]:
    """Full steps of the small networks, by sampler."""
    before = Before(options.before, options.threads) if options.before else None
    names = ["grid", "gather", *(["fused"] if options.fused else [])]
    table: dict[str, Any] = {}
    for preset in ("tiny", "small"):
        batch, side = 8, 32
        models = {name: UCIP(UCIPConfig.preset(preset, sampler=name)) for name in names}
        pairs = {name: stepper(model, batch, side) for name, model in models.items()}
        rounds: dict[str, list[float]] = {name: [] for name in (*names, "before")}
        for turn in range(options.rounds + 1):
            for name in names:
                took = take_turns({name: pairs[name][0]}, 1, warm_up=0)[name]
                rounds[name] += took if turn else []
            if before is not None:
                value = before.seconds(preset, batch, side)
                rounds["before"] += [value] if turn else []
        for name, seconds in rounds.items():
            if not seconds:
                continue
            row = summary(seconds, rounds["gather"])
            row["steps_per_second"] = round(1 / row["cpu_seconds"], 3)
            if name in pairs:
                row["kept_mib"] = round(kept_mib(models[name], pairs[name][1]), 1)
            table[f"{preset}, {name}"] = row
            print(preset, name, row, flush=True)
    if before is not None:
        before.close()
    return table


def tuning(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of the full network, by what is tuned."""
    models = {name: tuned(name, options.sampler) for name in TUNED}
    pairs = {name: stepper(model, 1, options.patch) for name, model in models.items()}
    table: dict[str, Any] = {
        name: {"kept_mib": round(kept_mib(models[name], pairs[name][1]), 1)} for name in TUNED
    }
    seconds = take_turns({name: step for name, (step, _) in pairs.items()}, options.rounds)
    for name in TUNED:
        row = table[name]
        row |= summary(seconds[name], seconds["everything"])
        row["trained"] = sum(p.numel() for _, p in trainable_parameters(models[name]))
        row["kept_ratio"] = round(row["kept_mib"] / table["everything"]["kept_mib"], 4)
        if not options.no_memory:
            found = in_own_process(
                *("--one", name, "--patch", str(options.patch), "--sampler", options.sampler)
            )
            added = round(found["peak"] - found["before"], 1)
            row |= {"peak_mib": found["peak"], "added_mib": added}
        print(name, row, flush=True)
    return table


PARTS = {"samplers": samplers, "tuning": tuning}


def one_memory(name: str, sampler: Sampler, side: int) -> None:
    """Print the peak memory of this process around one step, in MiB."""
    step, _ = stepper(tuned(name, sampler), 1, side)
    before = own_peak_mib()
    step()
    print(json.dumps({"before": round(before, 1), "peak": round(own_peak_mib(), 1)}))


def main() -> None:
    """Measure and write."""
    options_of = parser(__doc__, "training_step.json")
    options_of.add_argument("--patch", type=int, default=48, help="side of the full network's crop")
    options_of.add_argument("--before", type=Path, help="checkout of the commit to compare with")
    options_of.add_argument("--fused", action="store_true", help="the fused sampler too")
    options_of.add_argument(
        "--sampler", choices=get_args(Sampler), default="grid", help="of the tuning steps"
    )
    options_of.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options_of.add_argument("--no_memory", action="store_true", help="leave out the true peak")
    options_of.add_argument("--one", help="measure the memory of one way of tuning")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one_memory(options.one, options.sampler, options.patch)
        return
    if options.before:
        options.before = options.before.resolve()
    scores = {part: PARTS[part](options) for part in options.parts}
    if options.before:
        options.before = "a checkout of the commit before"
    write(options, scores)


if __name__ == "__main__":
    main()
