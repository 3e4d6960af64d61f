"""What the benchmarks share: taking turns, memory of separate processes, one form of results."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ucip_adapt.training.results import command_line, environment

Case = Callable[[], object]

PRECISIONS = ("fp32", "medium", "bf16")
"""Default float32; matmul precision medium; bfloat16 autocast."""


def take_turns(
    cases: Mapping[str, Case], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """CPU seconds of each case in each round.

    All cases run once per round, so that a change of the machine's speed meets all of them.

    Args:
        cases: What to measure, by name.
        rounds: Rounds that count.
        warm_up: Rounds before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + rounds):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if turn >= warm_up:
                seconds[name].append(time.process_time() - start)
    return seconds


def summary(seconds: Sequence[float], against: Sequence[float] | None = None) -> dict[str, Any]:
    """Median and spread, and the median over rounds of the ratio to another case."""
    row: dict[str, Any] = {
        "cpu_seconds": round(median(seconds), 5),
        "spread": [round(min(seconds), 5), round(max(seconds), 5)],
    }
    if against is not None:
        # Round by round: both cases met the same load there.
        ratios = [a / b for a, b in zip(seconds, against, strict=True)]
        row["ratio"] = round(median(ratios), 3)
        row["ratio_of_minima"] = round(min(seconds) / min(against), 3)
    return row


def in_precision(case: Case, precision: str) -> Case:
    """A case under the flags of a precision; they are taken back after each call."""

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                case()
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def kept_mib(model: nn.Module, forward: Callable[[], Tensor]) -> float:
    """Memory that a forward pass keeps for backward, parameters left out, in MiB."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.setdefault(storage.data_ptr(), tensor)  # alive, so no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values()) / 2**20


def own_peak_mib() -> float:
    """Largest resident size of this process so far, in MiB (Linux).

    Not getrusage: its maximum is inherited from the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def in_own_process(*arguments: str, timeout_s: float = 1800) -> Any:  # noqa: ANN401 - JSON
    """Run the present benchmark anew with other arguments; its last line is JSON.

    Peak memory of one case can be told in a process of its own only.
    """
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, sys.argv[0], *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def importable(*names: str) -> bool:
    """Whether all of these packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--out", type=Path, default=Path("results/benchmarks") / out)
    return made


def write(options: argparse.Namespace, scores: Mapping[str, Any]) -> None:
    """Write results with the command, versions and hardware that they were made with."""
    record = {
        "format_version": "1.0",
        "kind": "benchmark",
        "command": command_line(),
        "config": {k: v for k, v in vars(options).items() if k not in ("out", "one")},
        "environment": environment(),
        "scores": scores,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {options.out}\n")
