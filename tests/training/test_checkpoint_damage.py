"""R3, R4, R6, R7: damage, full disks and non-finite states never cost the last good checkpoint."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ucip_adapt.errors import CheckpointError, NonFiniteError
from ucip_adapt.training import checkpoint
from ucip_adapt.training.checkpoint import Checkpoints, CheckpointWarning

resource = pytest.importorskip("resource", reason="limits of POSIX systems")


def make(root, *, width=2, registered=(), **options):
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(width, width)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    model(torch.ones(width)).sum().backward()
    optimizer.step()
    for item in registered:
        accelerator.register_for_checkpointing(item)
    defaults = {"total_limit": 2, "run_config": {"seed": 0}, "critical_keys": ["seed"]}
    return Checkpoints(accelerator, root, **{**defaults, **options}), model


def names(root):
    return sorted(p.name for p in root.iterdir() if p.name != ".lock")


# R4 -------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGES = {
    "truncated": truncate,
    "flipped": flip,
    "missing": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
}
FILES = ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "manifest.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_r4_falls_back_with_a_warning_that_names_the_file(tmp_path, damage, file):
    checkpoints, model = make(tmp_path)
    checkpoints.save(1)
    kept = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    checkpoints.save(2)
    if damage == "flipped" and file == "manifest.json":
        path = tmp_path / "step-00000002" / file
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1))
    else:
        DAMAGES[damage](tmp_path / "step-00000002" / file)
    blamed = r"\S+" if damage == "flipped" and file == "manifest.json" else file
    with pytest.warns(
        CheckpointWarning,
        match=rf"step-00000002/{blamed} is (damaged|missing).*going back to step-00000001",
    ):
        assert checkpoints.resume("latest") == 1
    assert torch.equal(model.weight, kept)
    # Going on from there takes the damaged one's place.
    checkpoints.save(2)
    assert checkpoints.resume("latest") == 2


def test_r4_empty_folder_as_newest(tmp_path):
    checkpoints, _ = make(tmp_path)
    checkpoints.save(1)
    (tmp_path / "step-00000009").mkdir()
    with pytest.warns(CheckpointWarning, match=r"step-00000009/manifest\.json is missing"):
        assert checkpoints.resume("latest") == 1


def test_r4_none_good_names_each(tmp_path):
    checkpoints, _ = make(tmp_path)
    for step, damage in ((1, truncate), (2, flip)):
        damage(checkpoints.save(step) / "optimizer.bin")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.resume("latest")
    lines = str(caught.value).splitlines()
    assert "no checkpoint in" in lines[0]
    assert ["step-00000002" in lines[1], "step-00000001" in lines[2]] == [True, True]
    assert "sha256 differs" in lines[1]


def test_r4_explicit_path_is_not_replaced_by_another(tmp_path):
    checkpoints, _ = make(tmp_path)
    checkpoints.save(1)
    flip(checkpoints.save(2) / "optimizer.bin")
    with pytest.raises(CheckpointError, match=r"optimizer\.bin is damaged: its sha256"):
        checkpoints.resume(tmp_path / "step-00000002")


# R3 -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def file_size_limit(num_bytes):
    """Writing beyond so many bytes fails with EFBIG, as a full disk does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [1000, 70_000])
def test_r3_full_disk_stops_or_continues_and_keeps_the_previous(tmp_path, limit):
    """128 x 128: 66 kB of weights, 133 kB of optimizer state; so each of the two writers fails."""
    checkpoints, model = make(tmp_path, width=128)
    checkpoints.save(1)
    kept = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    message = r"step 2 could not be written to \S+step-00000002: .*about 198,\d\d\d bytes, .* free"
    with file_size_limit(limit), pytest.raises(CheckpointError, match=message):
        checkpoints.save(2)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoints.resume("latest") == 1
    assert torch.equal(model.weight, kept)
    patient, _ = make(tmp_path, width=128, on_write_error="continue")
    with (
        file_size_limit(limit),
        pytest.warns(CheckpointWarning, match=message + r".*Training goes on"),
    ):
        assert patient.save(2) is None
    assert patient.save(3) is not None
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_r3_exit_code_and_last_good_checkpoint_of_a_run(train, tmp_path):
    with file_size_limit(3000), pytest.raises(CheckpointError, match="could not be written"):
        train(save_every=5, width=64)
    with file_size_limit(3000), pytest.warns(CheckpointWarning, match="Training goes on"):
        assert train(save_every=5, width=64, on_write_error="continue")["step"] == 20
    assert names(tmp_path / "run") == []


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 1 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # noqa: S607


@pytest.mark.slow
def test_r3_on_a_real_full_disk(small_disk):
    root = small_disk / "run"
    checkpoints, _ = make(root, width=128)
    checkpoints.save(1)
    (small_disk / "ballast").write_bytes(bytes(700_000))
    with pytest.raises(
        CheckpointError, match=r"No space left|os error 28|failed writing|unexpected pos"
    ):
        checkpoints.save(2)
    assert names(root) == ["step-00000001"]
    assert checkpoints.resume("latest") == 1
    (small_disk / "ballast").unlink()
    checkpoints.save(2)
    assert checkpoints.resume("latest") == 2


def test_root_that_cannot_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        make(tmp_path / "file" / "run")


# R6 -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may tidy up afterwards."""


@pytest.mark.parametrize("again", [False, True], ids=["new-step", "same-step"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("phase", ["write", "manifest", "replace-1", "replace-2", "sync", "delete"])
def test_r6_limit_one_and_death_in_each_phase(tmp_path, monkeypatch, phase, after, again):
    checkpoints, _ = make(tmp_path, total_limit=1)
    checkpoints.save(1)
    real_rmtree, seen, dead = shutil.rmtree, [], []

    def die(function, which):
        def wrapped(*arguments, **options):
            seen.append(which)
            name = f"{which}-{seen.count(which)}" if which == "replace" else which
            if name == phase and not after:
                dead.append(name)
                raise Killed
            result = function(*arguments, **options)
            if name == phase:
                dead.append(name)
                raise Killed
            return result

        return wrapped

    def rmtree(path, ignore_errors=False):
        """A killed process does not tidy up; killed while deleting, it leaves half."""
        if dead or not Path(path).exists():
            return
        if phase == "delete":
            dead.append(phase)
            next(iter(sorted(Path(path).iterdir()))).unlink()
            if not after:
                raise Killed
        real_rmtree(path, ignore_errors=ignore_errors)
        if dead:
            raise Killed

    if again:  # a run that was forced on with other options writes step 1 once more
        checkpoints._step_on_disk = None
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_weights", die(checkpoint.save_weights, "write"))
        patch.setattr(checkpoint, "write_manifest", die(checkpoint.write_manifest, "manifest"))
        patch.setattr(checkpoint.os, "replace", die(os.replace, "replace"))
        patch.setattr(checkpoint, "sync_directory", die(checkpoint.sync_directory, "sync"))
        patch.setattr(checkpoint.shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            checkpoints.save(1 if again else 2)
    assert checkpoint.shutil.rmtree is real_rmtree
    after_restart, _ = make(tmp_path, total_limit=1)
    assert [n for n in names(tmp_path) if n.startswith(".")] == []
    assert after_restart.resume("latest") in ([1] if again else [1, 2])


def test_leftovers_of_dead_runs_go_at_the_start(tmp_path):
    (tmp_path / ".tmp-00000007-12345").mkdir()
    (tmp_path / ".tmp-00000007-12345" / "model.safetensors").write_bytes(b"half")
    make(tmp_path)
    assert names(tmp_path) == []


@pytest.fixture
def lock_elsewhere():
    """Try to claim a folder from another process; its exit code and last line of stderr."""
    code = (
        "import sys, pathlib; from ucip_adapt.training.lock import lock_folder; "
        "lock_folder(pathlib.Path(sys.argv[1]), sys)"
    )

    def attempt(folder):
        words = [sys.executable, "-c", code, folder]
        done = subprocess.run(words, capture_output=True, text=True)
        return done.returncode, done.stderr.strip().rpartition("\n")[2]

    return attempt


def test_two_runs_cannot_write_to_one_folder(tmp_path, lock_elsewhere):
    checkpoints, _ = make(tmp_path)
    again, _ = make(tmp_path)
    del again
    gc.collect()
    code, error = lock_elsewhere(tmp_path)
    assert code == 1
    assert "CheckpointError: another run is writing its checkpoints to" in error
    assert checkpoints.save(1) is not None
    del checkpoints
    gc.collect()
    assert lock_elsewhere(tmp_path) == (0, "")


# R7 -------------------------------------------------------------------------------------------


class Average:
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"averages": {"weight": self.value}}

    def load_state_dict(self, state):
        self.value = state["averages"]["weight"]


@pytest.mark.parametrize("where", ["weights", "optimizer", "object"])
@pytest.mark.parametrize("on_write_error", ["stop", "continue"])
def test_r7_non_finite_state_is_never_published(tmp_path, where, on_write_error):
    average = Average(torch.zeros(2))
    checkpoints, model = make(tmp_path, registered=[average], on_write_error=on_write_error)
    checkpoints.save(1)
    with torch.no_grad():
        if where == "weights":
            model.bias[1] = float("nan")
        elif where == "optimizer":
            state = checkpoints._accelerator._optimizers[0].state
            state[model.weight]["exp_avg_sq"][0, 0] = float("inf")
        else:
            average.value[0] = float("-inf")
    part = {
        "weights": "bias",
        "optimizer": r"optimizer\.0\.state\.0\.exp_avg_sq",
        "object": r"averages\.weight",
    }
    with pytest.raises(NonFiniteError, match=rf"step 2 is not saved: .*{part[where]}"):
        checkpoints.save(2)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_r7_in_a_whole_run(train, tmp_path, accumulation):
    shape = {
        "accumulation": accumulation,
        "nan_sample": 6 * 2 * accumulation,
        "save_every": 2,
        "total_limit": 99,
    }
    report = train("skip", policy="skip", **shape)
    assert (report["skipped"], report["step"], report["finite"]) == (1, 20, True)
    with pytest.raises(
        NonFiniteError, match=rf"step 6: the loss is NaN or infinite; samples {12 * accumulation}, "
    ):
        train("stop", **shape)
    assert names(tmp_path / "stop")[-1] == "step-00000006"
    resumed = train("stop", resume="latest", **{**shape, "nan_sample": -1})
    assert (resumed["start"], resumed["step"], resumed["finite"]) == (6, 20, True)


@pytest.mark.slow
def test_r7_on_two_processes_all_skip_alike(train_two):
    reports = train_two(policy="skip", nan_sample=6 * 4 + 3)  # a sample of process 1
    assert [(r["skipped"], r["step"], r["finite"]) for r in reports] == [(1, 20, True)] * 2
    assert reports[0]["weights"] == reports[1]["weights"]


@pytest.mark.slow
def test_r7_on_two_processes_stop_names_samples_of_the_other(toy, launch, tmp_path):
    job = launch(
        toy.__file__, f"--root={tmp_path / 'run'}", "--nan_sample=27", "--save_every=2", processes=2
    )
    code, _, err = job.wait()
    assert code != 0
    assert err.count("NonFiniteError: step 6: the loss is NaN or infinite; samples 26, 27.") == 2
    assert names(tmp_path / "run") == ["step-00000004", "step-00000006"]
