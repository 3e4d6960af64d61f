"""After the last step: nothing that interrupts the measuring costs what was trained."""

from __future__ import annotations

import re

import pytest
from safetensors.numpy import load as read_safetensors

from ucip_adapt.errors import CheckpointError, DataError
from ucip_adapt.training.checkpoint import Checkpoints, CheckpointWarning

FILES = {
    "tune_prompts": "adapter_model.safetensors",
    "tune_full": "model.safetensors",
    "pretrain_base": "model.safetensors",
}
MEASURING = {
    "tune_prompts": "ucip_adapt.training.tuning_run.evaluate_sets",
    "tune_full": "ucip_adapt.training.tuning_run.evaluate_sets",
    "pretrain_base": "ucip_test_recipe_pretrain_base.choose_window",
}


WHERE = r"its last step is in .*step-00000003; .* --resume_from_checkpoint latest goes"


def options(name):
    window = {"windows": (8,)} if name == "pretrain_base" else {}
    return {"max_train_steps": 3, "ema_decay": 0.9, **window}


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("how", ["Ctrl-C", "error"])
def test_what_was_trained_is_in_a_checkpoint(run, recipes, tmp_path, monkeypatch, name, how):
    recipes(name)
    whole, folder = run(name, tmp_path / "whole", **options(name)), tmp_path / "out"

    def interrupted(*_, **__):
        if how == "error":
            raise DataError("an image has gone")
        raise KeyboardInterrupt  # not the signal: it may be ignored where tests run

    with monkeypatch.context() as patch:
        patch.setattr(MEASURING[name], interrupted)
        if how == "error":
            with pytest.raises(DataError, match="an image has gone") as caught:
                run(name, folder, **options(name))
            assert str(caught.value) == "an image has gone"
            [note] = caught.value.__notes__
            assert re.search(WHERE, note)
        else:
            with pytest.raises(KeyboardInterrupt, match=WHERE):
                run(name, folder, **options(name))
    assert not (folder / "results.json").exists()
    again = run(name, folder, **options(name), resume_from_checkpoint="latest")
    assert again.losses == []
    ours, theirs = (read_safetensors(done.bytes(FILES[name])) for done in (again, whole))
    assert {key: value.tobytes() for key, value in ours.items()} == {
        key: value.tobytes() for key, value in theirs.items()
    }
    assert again.record["scores"]["rows"] == whole.record["scores"]["rows"]


def full(self, step):
    raise CheckpointError(f"the checkpoint of step {step} could not be written.")


def test_no_note_of_a_checkpoint_that_is_not_there(run, recipes, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise DataError("an image has gone")

    recipes("tune_prompts")
    monkeypatch.setattr(MEASURING["tune_prompts"], gone)
    monkeypatch.setattr(Checkpoints, "save", full)
    with (
        pytest.warns(CheckpointWarning, match="step 3 could not be"),
        pytest.raises(DataError, match="an image has gone") as caught,
    ):
        run("tune_prompts", tmp_path / "out")
    assert not hasattr(caught.value, "__notes__")


def test_a_disk_without_room_for_it_costs_no_result(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.warns(CheckpointWarning, match=r"step 3 could not be .* goes on to its result"):
        done = run("tune_prompts", tmp_path / "out")
    assert (done.folder / "results.json").is_file()
