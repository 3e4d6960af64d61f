"""R5, R8, R9 and the ways to find nothing: what resuming restores and what it refuses."""

import hashlib
import json
import pickle
import warnings

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ucip_adapt.errors import CheckpointError, ConfigError, UnknownNameError
from ucip_adapt.training.checkpoint import Checkpoints, CheckpointWarning

STATE = ("weights", "optimizer", "ema", "random")
SHAPES = [{}, {"accumulation": 3, "batch": 1}, {"trainable_only": True}, {"peft": True}]


@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "accumulation", "trainable", "peft"])
@pytest.mark.parametrize("parts", [(7,), (7, 13)], ids=["7+13", "7+6+7"])
def test_r5_resumed_run_equals_the_uninterrupted_one(train, shape, parts):
    whole = train("whole", **shape)
    got, resume = [], ""
    for stop in (*parts, 20):
        got.append(train("parts", stop_after=stop, resume=resume, **shape))
        resume = "latest"
    assert [r["step"] for r in got] == [*parts, 20]
    for name in ("rates", "samples", "losses"):
        assert [value for part in got for value in part[name]] == whole[name]
    for name in STATE:
        assert got[-1][name] == whole[name], name


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{}, {"accumulation": 2, "batch": 1}, {"peft": True}])
def test_r5_on_two_processes(train_two, shape):
    whole = train_two("whole", **shape)
    first = train_two("parts", stop_after=7, **shape)
    second = train_two("parts", resume="latest", **shape)
    assert whole[0]["random"] != whole[1]["random"], "each process has its own random state"
    for rank in range(2):
        for name in ("rates", "samples", "losses"):
            assert first[rank][name] + second[rank][name] == whole[rank][name]
        for name in STATE:
            assert second[rank][name] == whole[rank][name], name


def test_workers_do_not_change_what_is_trained(train):
    assert train("a", workers=2)["weights"] == train("b")["weights"]


def test_explicit_path_and_going_back_to_an_earlier_step(train, tmp_path):
    whole = train(save_every=5, total_limit=9)
    again = train(resume=str(tmp_path / "run" / "step-00000005"), stop_after=10, total_limit=9)
    assert (again["start"], again["step"]) == (5, 10)
    assert again["losses"] == whole["losses"][5:10]
    # The newest is now step 10 of the second branch, although 20 is a higher number.
    assert train(resume="latest", total_limit=9)["start"] == 10


def test_r8_other_world_size_is_refused_or_announced(train, tmp_path):
    train(stop_after=5)
    manifest = tmp_path / "run" / "step-00000005" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert (content["world_size"], content["effective_batch"], content["step"]) == (1, 2, 5)
    manifest.write_text(json.dumps({**content, "world_size": 2, "effective_batch": 4}))
    message = r"by 2 processes \(effective batch 4\), this run has 1 process \(effective batch 2\)"
    with pytest.raises(CheckpointError, match=message + r".*--allow_world_change"):
        train(resume="latest")
    with pytest.warns(CheckpointWarning, match=message):
        assert train(resume="latest", allow_world_change=True)["start"] == 5


@pytest.mark.slow
def test_r8_two_processes_after_one_and_back(train, train_two):
    one = train(stop_after=5)
    two = train_two(stop_after=9, resume="latest", allow_world_change=True)
    assert (two[0]["start"], two[0]["step"]) == (5, 9)
    assert "written by 1 process (effective batch 2), this run has 2 processes" in two[0]["errors"]
    assert two[0]["errors"].count("this run has 2 processes") == 1, "only the main process says so"
    with pytest.raises(CheckpointError, match=r"2 processes \(effective batch 4\)"):
        train(resume="latest")
    with pytest.warns(CheckpointWarning, match="this run has 1 process"):
        assert train(resume="latest", allow_world_change=True)["start"] == 9
    assert one["step"] == 5


def test_r9_changed_options_are_listed_or_forced(train):
    train(stop_after=5)
    message = r"learning_rate: 0\.01 in the checkpoint, 0\.5 now"
    with pytest.raises(CheckpointError, match=rf"\({message}\).*--force"):
        train(resume="latest", learning_rate=0.5, sleep=0.001)
    with pytest.warns(CheckpointWarning, match=message):
        assert train(resume="latest", learning_rate=0.5, force=True)["start"] == 5


def test_r9_forced_run_saves_its_own_options(train, tmp_path):
    train(stop_after=5)
    with pytest.warns(CheckpointWarning):
        train(resume="latest", learning_rate=0.5, force=True, steps=5)
    assert train(resume="latest", stop_after=6)["start"] == 5


def test_model_of_another_shape_is_refused_and_left_alone(train):
    train(stop_after=5)
    with (
        pytest.warns(CheckpointWarning),
        pytest.raises(CheckpointError, match=r"0\.weight has shape \(8, 4\)"),
    ):
        train(resume="latest", width=16, force=True)


def test_other_trainable_set_is_refused(train):
    train(stop_after=5, trainable_only=True)
    with pytest.raises(CheckpointError, match="another save_trainable_only"):
        train(resume="latest")
    train("peft", stop_after=5, peft=True)
    with pytest.raises(CheckpointError, match=r"missing \['2\.bias'|missing \['3\.bias'"):
        train("peft", resume="latest", trainable_only=True)


def test_nothing_to_resume_is_an_error_not_a_new_start(train, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*run to resume from"):
        train(resume="latest")
    train(stop_after=5)
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint elsewhere; known .*step-00000005"
    ):
        train(resume="elsewhere")


def make(root, model, *, registered=(), **options):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(model)
    for item in registered:
        accelerator.register_for_checkpointing(item)
    defaults = {"total_limit": 2, "run_config": {"seed": 0}, "critical_keys": ["seed"]}
    return Checkpoints(accelerator, root, **{**defaults, **options})


class Counter:
    """A registered object with any state."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_a_random_state_that_is_not_restored_is_an_error(tmp_path, monkeypatch):
    """Accelerate logs it at a level that nobody reads, and goes on."""
    make(tmp_path, nn.Linear(2, 1)).save(1)
    torch.rand(1)
    checkpoints = make(tmp_path, nn.Linear(2, 1))

    def fail(state):
        raise RuntimeError("RNG state is wrong size")

    monkeypatch.setattr(torch, "set_rng_state", fail)
    with pytest.raises(CheckpointError, match=r"random state in .*step-00000001 could not be rest"):
        checkpoints.resume("latest")


def test_number_of_registered_objects_must_agree(tmp_path):
    make(tmp_path, nn.Linear(2, 1), registered=[Counter({"a": 1})]).save(1)
    with pytest.raises(CheckpointError, match=r"states of \['Counter'\], this run registers \[\]"):
        make(tmp_path, nn.Linear(2, 1)).resume("latest")


class Danger:
    """Runs code when an unrestricted unpickler meets it."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_state_that_is_more_than_data_is_refused_when_saved(tmp_path):
    checkpoints = make(tmp_path, nn.Linear(2, 1), registered=[Counter({"a": object})])
    with pytest.raises(CheckpointError, match="the state of Counter holds more than tensors"):
        checkpoints.save(1)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["object-0.pt", "optimizer.bin", "random_states_0.pkl"])
def test_pickles_in_a_forged_checkpoint_are_not_executed(train, tmp_path, name):
    train(stop_after=5)
    folder = tmp_path / "run" / "step-00000005"
    buffer = pickle.dumps(Danger(), protocol=2)
    (folder / name).write_bytes(buffer)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(buffer), "sha256": hashlib.sha256(buffer).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"more than tensors|does not fit this run"):
        train(resume="latest")


def test_whole_model_with_tied_weights_and_buffers(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    checkpoints = make(tmp_path, model)
    model(torch.randn(8, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoints.save(1)
    model(torch.randn(8, 2))
    checkpoints.resume("latest")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model[2].weight is model[0].weight


def test_trainable_only_leaves_frozen_weights_out(train, tmp_path):
    report = train(trainable_only=True, stop_after=3)
    folder = tmp_path / "run" / "step-00000003"
    from safetensors.torch import load_file

    assert set(load_file(folder / "trainable.safetensors")) == {"3.weight", "3.bias"}
    assert not (folder / "model.safetensors").exists()
    assert report["frozen"] == train("other", trainable_only=True, stop_after=7)["frozen"]


def test_peft_checkpoint_is_a_loadable_folder(toy, train, tmp_path):
    from peft import PeftModel

    train(peft=True, stop_after=5)
    folder = tmp_path / "run" / "step-00000005"
    torch.manual_seed(7)
    base = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    loaded = PeftModel.from_pretrained(base, folder).eval()
    from safetensors.torch import load_file

    plain = load_file(folder / "trainable.safetensors")
    names = dict(loaded.named_parameters())
    assert plain
    assert all(torch.equal(names[name], value) for name, value in plain.items())
    assert sum(p.stat().st_size for p in folder.rglob("*.safetensors")) < 2000


def test_saving_the_same_step_twice_keeps_the_first(tmp_path):
    checkpoints = make(tmp_path, nn.Linear(2, 1))
    folder = checkpoints.save(3)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert checkpoints.save(3) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_old_ones_go_and_none_means_all(tmp_path):
    for limit, kept in ((2, [3, 4]), (None, [1, 2, 3, 4]), (1, [4])):
        root = tmp_path / str(limit)
        checkpoints = make(root, nn.Linear(2, 1), total_limit=limit)
        for step in range(1, 5):
            checkpoints.save(step)
        assert sorted(p.name for p in root.iterdir() if p.name != ".lock") == [
            f"step-{s:08d}" for s in kept
        ]


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        make(tmp_path, nn.Linear(2, 1), total_limit=0)
    with pytest.raises(
        UnknownNameError, match=r"unknown critical key 'sead'; did you mean 'seed'\?"
    ):
        make(tmp_path, nn.Linear(2, 1), critical_keys=["sead"])
    with pytest.raises(UnknownNameError, match="unknown value of on_write_error 'ignore'"):
        make(tmp_path, nn.Linear(2, 1), on_write_error="ignore")
    model = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(CheckpointError, match="no trainable parameter"):
        make(tmp_path, model, save_trainable_only=True).save(1)


def test_saving_and_resuming_a_good_run_warns_of_nothing(train):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        train(stop_after=5)
        train(resume="latest")
