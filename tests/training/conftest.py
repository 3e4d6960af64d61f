"""Fixtures that run a training script in process, as one process, or as two real ones."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

HERE = Path(__file__).parent


class Launched:
    """A script and all processes that it starts, marked so that none can outlive a test."""

    def __init__(self, command, environment):
        self._mark = f"UCIP_TEST_PROCESS={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            command,
            env={**environment, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait(self, timeout=300):
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def members(self):
        """Living processes: launchers put their workers into sessions of their own, so no group."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def kill_all(self):
        while left := self.members():
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.02)
        self.process.kill()


@pytest.fixture
def launch():
    """``launch(script, *arguments, processes=1)`` starts it; processes=2 means two real ones by
    gloo."""
    started = []

    def start(script, *arguments, processes=1):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
            command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        command += [str(script), *map(str, arguments)]
        started.append(Launched(command, environment))
        return started[-1]

    yield start
    for item in started:
        item.kill_all()
        item.process.communicate()


@pytest.fixture(scope="session")
def toy():
    """The module of toy.py, which is also a script: ``toy.__file__``."""
    spec = importlib.util.spec_from_file_location("toy", HERE / "toy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(toy, tmp_path):
    """``train(root="a", steps=20, ...)`` runs the toy recipe in process and returns its report."""

    def go(root="run", **options):
        AcceleratorState._reset_state(reset_partial_state=True)
        return toy.run(toy.Options(root=str(tmp_path / root), **options))

    return go


@pytest.fixture
def train_two(toy, launch, tmp_path):
    """The same by two real processes; returns both reports."""

    def go(root="run", **options):
        report = tmp_path / "report"
        words = [
            f"--{k}" if v is True else f"--{k}={v}" for k, v in options.items() if v is not False
        ]
        job = launch(
            toy.__file__, f"--root={tmp_path / root}", f"--report={report}", *words, processes=2
        )
        code, out, err = job.wait()
        assert code == 0, err[-3000:]
        reports = [json.loads(Path(f"{report}-{rank}.json").read_text()) for rank in range(2)]
        assert [(r["processes"], r["backend"]) for r in reports] == [(2, "gloo")] * 2
        return [{**r, "output": out, "errors": err} for r in reports]

    return go
