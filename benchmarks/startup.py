"""What `ucip-adapt --help` and `import ucip_adapt` cost, beside `import torch`.

    python benchmarks/startup.py --out results/benchmarks/startup.json

Each runs in a fresh interpreter, all in turn; the time is the processor time of that process, so
that other programs on the machine count little. `python` alone is what an interpreter needs for
nothing at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from common import parser, summary, write

CASES = {
    "import torch": ["-c", "import torch"],
    "python": ["-c", "pass"],
    "import ucip_adapt": ["-c", "import ucip_adapt"],
    "ucip-adapt --version": ["-m", "ucip_adapt", "--version"],
    "ucip-adapt --help": ["-m", "ucip_adapt", "--help"],
}
"""Arguments of the interpreter; the first case is what the others are compared with."""


def cpu_seconds(arguments: list[str]) -> float:
    """Processor time of one process, from its start to its end."""
    before = os.times()
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL
    )
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """All cases, one after another in each round; the first round warms the file cache."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(1 + rounds):
        for name, arguments in CASES.items():
            spent = cpu_seconds(arguments)
            if turn:
                seconds[name].append(spent)
    against = seconds["import torch"]
    return {name: summary(found, against) for name, found in seconds.items()}


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, "startup.json").parse_args()
    scores = measure(options.rounds)
    for name, row in scores.items():
        sys.stdout.write(f"{name}: {row['cpu_seconds']:.3f} s, {row['ratio']:.3f} of torch\n")
    worst = max(scores[name]["ratio"] for name in CASES if name.startswith("ucip-adapt"))
    write(options, {"cases": scores, "largest_ratio_of_a_light_command": worst})


if __name__ == "__main__":
    main()
