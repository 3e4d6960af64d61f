"""Recipes through real launchers: one process, two by gloo, two nodes, kills and full disks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ucip_adapt.models import UCIP
from ucip_adapt.training.manifest import verify
from ucip_adapt.training.results import read_results

ACCELERATE = (
    *("-m", "accelerate.commands.accelerate_cli", "launch", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"),
)
TORCHRUN = ("-m", "torch.distributed.run")
LAUNCHERS = {
    "python": (),
    "accelerate": (*ACCELERATE, "--num_processes", "1"),
    "torchrun 2": (*TORCHRUN, "--standalone", "--nproc_per_node", "2"),
    # Without --multi_gpu it would start a single process, whatever the number says.
    "accelerate 2": (
        *ACCELERATE,
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ),
}


class Job:
    """A launched recipe and all processes that it starts, marked so that none outlives a test."""

    def __init__(self, command, folder):
        name, value = "UCIP_TEST_PROCESS", uuid.uuid4().hex
        self._mark = f"{name}={value}".encode()
        settings = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", name: value}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait(self, seconds=400):
        """Exit code, lines of stdout, and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.splitlines(), err

    def succeed(self):
        code, lines, err = self.wait()
        assert code == 0, err[-3000:]
        return lines

    def members(self):
        """Living processes: launchers put their workers into sessions of their own."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self._mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def end(self):
        while left := self.members():
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.02)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(repo_root, tmp_path, world):
    """``start("tune_prompts", launcher, folder, flag=value)`` starts a recipe."""
    if not Path("/proc").is_dir():
        pytest.skip("processes are found through /proc")
    jobs = []

    def go(name, launcher, folder, **changes):
        flags = {
            "train_data_dir": world.train,
            "validation_data_dir": world.validation,
            "cache_dir": world.cache,
            "output_dir": folder,
            "patch_size": 12,
            "train_batch_size": 2,
            "max_train_steps": 3,
            "lr_warmup_steps": 1,
        }
        if name == "pretrain_base":
            flags |= {"preset": "nano", "settings": "jpeg:40"}
        else:
            flags |= {
                "pretrained_model_name_or_path": world.bases["prompted"],
                "qualities": 10,
                "evaluate_on": world.validation,
            }
        words = [f"--{key}={value}" for key, value in {**flags, **changes}.items()]
        before = LAUNCHERS[launcher] if isinstance(launcher, str) else launcher
        script = repo_root / "recipes" / f"{name}.py"
        jobs.append(Job([*before, script, *words], tmp_path))
        return jobs[-1]

    yield go
    for job in jobs:
        job.end()


def result(folder, name="adapter_model.safetensors"):
    return read_results(folder / "results.json"), load_file(folder / name)


def scalars(folder, tag="train_loss"):
    """Values of a TensorBoard tag by step."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard" / "ucip_adapt")).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_help_by_python(repo_root, tmp_path):
    done = subprocess.run(
        [sys.executable, repo_root / "recipes" / "tune_prompts.py", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: tune_prompts.py")
    for flag in ("--codec", "--trainable", "--max_train_steps", "--config FILE.toml"):
        assert flag in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "accelerate"])
def test_one_process(start, run, tmp_path, launcher):
    """A process of its own gives the bytes that the run inside this one gives."""
    lines = start("tune_prompts", launcher, tmp_path / "out").succeed()
    assert lines[-1].startswith(f"wrote {tmp_path / 'out'}: adapter_model.safetensors (")
    assert "(1 processes x 2 x 1)" in "\n".join(lines)
    record, _ = result(tmp_path / "out")
    assert record["environment"]["processes"] == 1
    assert record["command"].startswith("python ")
    assert "tune_prompts.py" in record["command"]
    inside = run("tune_prompts", tmp_path / "inside")
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == inside.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun 2", "accelerate 2"])
def test_r10_two_processes_equal_one(start, run, world, tmp_path, launcher):
    options = {"max_train_steps": 10, "report_to": "tensorboard"}
    lines = start("tune_prompts", launcher, tmp_path / "two", **options).succeed()
    text = "\n".join(lines)
    assert "10 of 4 crops (2 processes x 2 x 1)" in text
    assert "2 processes over gloo" in text
    assert sum(line.startswith("wrote ") for line in lines) == 1, "one process writes"
    two, tensors = result(tmp_path / "two")
    assert two["environment"]["processes"] == 2
    assert "10 of 4 crops" in (tmp_path / "two" / "README.md").read_text(encoding="utf-8")

    one = run("tune_prompts", tmp_path / "one", train_batch_size=4, max_train_steps=10)
    losses = scalars(tmp_path / "two")
    assert [losses[step] for step in range(1, 11)] == pytest.approx(one.losses, abs=1e-6)
    for name, value in load_file(tmp_path / "one" / "adapter_model.safetensors").items():
        np.testing.assert_allclose(tensors[name], value, atol=1e-4, err_msg=name)
    for ours, theirs in zip(two["scores"]["rows"], one.record["scores"]["rows"], strict=True):
        assert ours["psnr_db"] == pytest.approx(theirs["psnr_db"], abs=2e-3)
        assert ours["images"] == theirs["images"] == 2
    # Hashed after the training, from what was in memory then: the base has not moved.
    base = UCIP.from_pretrained(world.bases["prompted"])
    assert two["parameters"]["base_fingerprint"] == base.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tune_prompts", {"gradient_checkpointing": True, "trainable": "dpm+offset+spade"}),
        ("tune_prompts", {"gradient_accumulation_steps": 2, "ema_decay": 0.9}),
        ("tune_prompts", {"trainable": "dpm+offset", "peft_method": "dora"}),
        ("tune_full", {}),
        ("pretrain_base", {"windows": 8}),
        ("pretrain_base", {"prompt": "none", "gradient_checkpointing": True}),
    ],
    ids=["checkpointing", "accumulation", "dora", "full", "base", "prompt-free base"],
)
def test_whatever_is_trained_two_processes_do_it_too(start, run, tmp_path, name, options):
    """DDP stops where a parameter gets no gradient, or gets one twice."""
    options = {"max_train_steps": 3, "report_to": "tensorboard", **options}
    start(name, "torchrun 2", tmp_path / "two", **options).succeed()
    if "windows" in options:
        options["windows"] = (8,)
    one = run(name, tmp_path / "one", train_batch_size=4, **options)
    losses = scalars(tmp_path / "two")
    assert [losses[step] for step in (1, 2, 3)] == pytest.approx(one.losses, abs=1e-6)


@pytest.mark.slow
def test_two_nodes_on_loopback(start, run, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"max_train_steps": 4, "report_to": "tensorboard"}
    nodes = [
        start(
            "tune_prompts",
            (
                *(*TORCHRUN, "--nnodes", "2", "--node_rank", rank, "--nproc_per_node", "1"),
                *("--rdzv_id", "loopback", "--rdzv_backend", "c10d"),
                *("--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1"),
            ),
            tmp_path / "out",
            **options,
        )
        for rank in range(2)
    ]
    said = [line for node in nodes for line in node.succeed()]
    assert any("2 processes over gloo" in line for line in said)
    assert sum(line.startswith("wrote ") for line in said) == 1
    record, _ = result(tmp_path / "out")
    assert record["environment"]["processes"] == 2
    one = run("tune_prompts", tmp_path / "one", train_batch_size=4, max_train_steps=4)
    losses = scalars(tmp_path / "out")
    assert [losses[step] for step in range(1, 5)] == pytest.approx(one.losses, abs=1e-6)


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("step-*"))


def wait_for_step(job, folder, step, seconds=300):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if any(int(path.name[5:]) >= step for path in checkpoints(folder)):
            return
        if job.process.poll() is not None:
            pytest.fail(f"ended too soon: {job.wait()[2][-3000:]}")
        time.sleep(0.02)
    pytest.fail(f"no step {step} after {seconds} s")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun 2"])
def test_r2_sigterm_publishes_a_checkpoint(start, tmp_path, launcher):
    """To the whole group for one process, as from a terminal; to torchrun alone for two."""
    folder = tmp_path / "out"
    options = {"max_train_steps": 1_000_000, "checkpointing_steps": 5}
    job = start("tune_prompts", launcher, folder, dataloader_num_workers=1, **options)
    wait_for_step(job, folder, 5)
    before, since = checkpoints(folder)[-1], time.monotonic()
    if launcher == "accelerate":
        os.killpg(job.process.pid, signal.SIGTERM)
    else:
        job.process.terminate()
    _, lines, err = job.wait()
    while job.members() and time.monotonic() < since + 120:
        time.sleep(0.05)
    seconds = time.monotonic() - since
    assert job.members() == [], err[-3000:]
    # Ten seconds of a machine that has nothing else to do.
    assert seconds < 10 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    last = checkpoints(folder)[-1]
    assert last.name > before.name, err[-3000:]
    manifest = verify(last)
    assert manifest.world_size == (2 if launcher.endswith("2") else 1)
    assert any(f"stopped at step {manifest.step}; go on with" in line for line in lines)
    assert not list((folder / "checkpoints").glob(".tmp-*"))
    assert not (folder / "results.json").exists()


@pytest.mark.slow
def test_r1_kills_change_nothing(start, run, tmp_path):
    """SIGKILL at random times, resumed each time: the adapter of an uninterrupted run."""
    folder, options = tmp_path / "out", {"max_train_steps": 60, "checkpointing_steps": 1}
    moments = random.Random(5)  # noqa: S311 - no secret
    kills = 0
    for target in (1, 15, 30):
        resume = {"resume_from_checkpoint": "latest"} if kills else {}
        job = start("tune_prompts", "python", folder, **options, **resume)
        wait_for_step(job, folder, target)
        time.sleep(moments.uniform(0, 0.2))
        os.kill(job.process.pid, signal.SIGKILL)
        code, _, _ = job.wait()
        kills += code == -signal.SIGKILL
    assert kills == 3
    resume = {"resume_from_checkpoint": "latest"}
    lines = start("tune_prompts", "python", folder, **options, **resume).succeed()
    [step] = [int(line.split()[-1]) for line in lines if line.startswith("resumed")]
    assert 30 <= step < 60
    whole = run("tune_prompts", tmp_path / "whole", max_train_steps=60)
    assert (folder / "adapter_model.safetensors").read_bytes() == whole.bytes()


@pytest.mark.slow
def test_r28_a_second_run_in_the_same_folder_is_refused(start, tmp_path):
    folder = tmp_path / "out"
    options = {"max_train_steps": 1_000_000, "checkpointing_steps": 5}
    first = start("tune_prompts", "python", folder, **options)
    wait_for_step(first, folder, 5)
    code, _, err = start("tune_prompts", "python", folder, **options).wait()
    assert code == 2
    assert "another run is writing its checkpoints to" in err
    assert first.process.poll() is None


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 256 KiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # noqa: S607


@pytest.mark.slow
def test_r3_on_a_real_full_disk(start, small_disk):
    folder = small_disk / "out"
    start("tune_prompts", "python", folder).succeed()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (small_disk / "ballast").write_bytes(bytes(110_000))
    code, _, err = start("tune_prompts", "python", folder, seed=1).wait()
    assert code == 2
    message = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert f"cannot write the result to {folder}: " in message[0]
    assert "No space left on device" in message[0]
    assert "Traceback" not in err
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "torchrun 2"])
def test_a_known_error_ends_every_process(start, tmp_path, launcher):
    code, _, err = start("tune_prompts", launcher, tmp_path / "out", codec="wepb").wait()
    assert code == (2 if launcher == "python" else 1)
    assert "error: unknown codec 'wepb'; did you mean 'webp'? Known: avif, " in err
