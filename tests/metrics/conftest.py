"""Helpers of the metric tests: random 8-bit images, and code run in several fresh processes."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ucip_adapt.metrics

RunProcesses = Callable[..., list[Any]]
MakePairs = Callable[[int], tuple[list[np.ndarray], list[np.ndarray]]]


def make_pairs(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Restored and true images of several sizes; every pair has other scores."""
    preds, targets = [], []
    for index in range(count):
        rng = np.random.default_rng(index)
        target = rng.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
        noise = rng.integers(-3 - 4 * index, 4 + 4 * index, target.shape)
        preds.append(np.clip(target + noise, 0, 255).astype(np.uint8))
        targets.append(target)
    return preds, targets


@pytest.fixture(name="make_pairs")
def _make_pairs() -> MakePairs:
    """The function above; code given to `run_processes` can call it too."""
    return make_pairs


@pytest.fixture
def run_processes(tmp_path: Path) -> RunProcesses:
    """Run code in fresh interpreters, offline, and return what each printed last, as JSON.

    The processes find each other through the variables that torch and Accelerate read (RANK,
    WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Nothing is forked: a forked child inherits the thread
    pools of torch and can hang, and Accelerate's debug launcher always takes the same port.
    """

    def run(code: str, *, processes: int) -> list[Any]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        package_parent = Path(ucip_adapt.metrics.__file__).resolve().parents[2]
        script = tmp_path / "process.py"
        helpers = f"import json, os\nimport numpy as np\n\n{inspect.getsource(make_pairs)}\n"
        script.write_text(helpers + code)
        running = []
        for rank in range(processes):
            env = os.environ | {
                "PYTHONPATH": str(package_parent),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "HF_EVALUATE_OFFLINE": "1",
                "HF_HOME": str(tmp_path / "hf_home"),
                "ACCELERATE_USE_CPU": "true",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(processes),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            }
            running.append(
                subprocess.Popen(
                    [sys.executable, str(script)],
                    cwd=tmp_path,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            outputs = [process.communicate(timeout=600) for process in running]
        finally:
            for process in running:
                process.kill()
        for process, (_, stderr) in zip(running, outputs, strict=True):
            assert process.returncode == 0, stderr
        return [json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs]

    return run
