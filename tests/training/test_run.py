"""What recipes share around their loops: random states, data, resuming, and what may change."""

from __future__ import annotations

import time
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.distributed import distributed_c10d
from torch.utils.data import Dataset

from ucip_adapt.errors import CheckpointError
from ucip_adapt.training.options import TrainingOptions
from ucip_adapt.training.run import (
    _CRITICAL,
    make_accelerator,
    make_checkpoints,
    resume_run,
    training_loader,
)


def start(cfg: TrainingOptions) -> tuple[Accelerator, nn.Module, torch.optim.Optimizer]:
    """What stands before every recipe's call of ``make_checkpoints``."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = make_accelerator(cfg)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    return accelerator, *accelerator.prepare(model, optimizer)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def draw(cfg: TrainingOptions, file: str) -> None:
    """Build, resume, draw, save and draw again; leaves what was drawn in a file of the process."""
    accelerator, model, optimizer = start(cfg)
    built = [
        parameter.detach().clone() for parameter in accelerator.unwrap_model(model).parameters()
    ]
    after_building = torch.get_rng_state()
    checkpoints = make_checkpoints(cfg, accelerator)
    step = resume_run(cfg, accelerator, checkpoints, optimizer)
    untouched = torch.equal(after_building, torch.get_rng_state())
    first = torch.rand(4)
    if not step:
        checkpoints.save(1)
    found = {"built": built, "untouched": untouched, "first": first, "second": torch.rand(4)}
    torch.save(found, f"{file}-{accelerator.process_index}")
    accelerator.wait_for_everyone()


def test_processes_build_alike_and_draw_apart(tmp_path):
    cfg = TrainingOptions(output_dir=tmp_path, seed=3)
    debug_launcher(draw, (cfg, str(tmp_path / "drawn")), num_processes=2)
    one, two = (torch.load(tmp_path / f"drawn-{rank}") for rank in range(2))
    for ours, theirs in zip(one["built"], two["built"], strict=True):
        assert torch.equal(ours, theirs)
    assert not set(one["first"].tolist()) & set(two["first"].tolist())
    assert one["untouched"], "the main process goes on where building the model left it"

    resumed = TrainingOptions(output_dir=tmp_path, seed=3, resume_from_checkpoint="latest")
    debug_launcher(draw, (resumed, str(tmp_path / "again")), num_processes=2)
    for rank, before in enumerate((one, two)):
        assert torch.equal(torch.load(tmp_path / f"again-{rank}")["first"], before["second"])


def test_one_process_draws_as_if_nothing_were_parted(tmp_path):
    draw(TrainingOptions(output_dir=tmp_path, seed=3), str(tmp_path / "drawn"))
    alone = torch.load(tmp_path / "drawn-0")
    torch.manual_seed(3)
    nn.Linear(3, 2)
    assert torch.equal(alone["first"], torch.rand(4))


def meet_late(cfg: TrainingOptions) -> None:
    accelerator, *_ = start(cfg)
    time.sleep(3 * accelerator.process_index)
    accelerator.wait_for_everyone()
    (cfg.output_dir / f"met-{accelerator.process_index}").touch()


def test_processes_wait_for_each_other_longer_than_torch_lets_them(
    on_two_processes, tmp_path, monkeypatch
):
    """Preparing images and measuring take one process hours longer than another."""
    monkeypatch.setattr(distributed_c10d, "default_pg_timeout", timedelta(seconds=1))
    on_two_processes(meet_late, TrainingOptions(output_dir=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"met-0", "met-1"}


# -- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_environment", "option"), [(4, 1), (1, 4), (2, 4)])
def test_steps_are_made_of_as_many_batches_as_the_option_says(
    in_environment, option, tmp_path, monkeypatch
):
    """Accelerate prefers the variable to the argument; a shell or a DeepSpeed launch may set it."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", str(in_environment))
    cfg = TrainingOptions(output_dir=tmp_path, gradient_accumulation_steps=option)
    accelerator, model, _ = start(cfg)
    batches = torch.rand(2 * option, 5, 3)
    gradients = []
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).square().mean())
        if accelerator.sync_gradients:
            gradients.append(model.weight.grad.clone())
            model.weight.grad = None
    assert len(gradients) == 2
    for gradient, together in zip(gradients, batches.chunk(2), strict=True):
        # Batches of one size: the mean of their losses is the loss of all of them at once.
        loss = model(together.flatten(0, 1)).square().mean()
        assert torch.allclose(gradient, torch.autograd.grad(loss, model.weight)[0])


# -- options --------------------------------------------------------------------------------------

CHANGES = {
    "train_data_dir": ("elsewhere",),
    "suite_dir": Path("suite"),
    "max_train_samples": 5,
    "patch_size": 16,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.5,
    "lr_scheduler": "constant",
    "lr_schedule_steps": 900,
    "lr_warmup_steps": 7,
    "lr_milestones": (5,),
    "max_train_steps": 301,
    "adam_beta1": 0.5,
    "adam_beta2": 0.9,
    "max_grad_norm": 2.0,
    "ema_decay": 0.5,
    "loss": "l1",
    "mixed_precision": "bf16",
    "matmul_precision": "high",
    "seed": 1,
}
# Where a run reads, writes and reports, how quickly, and what it does when something goes wrong.
# Samplers and recomputed activations are the same function to rounding.
HARMLESS = {
    "validation_data_dir",
    "data",
    "cache_dir",
    "output_dir",
    "sampler",
    "gradient_checkpointing",
    "nonfinite",
    "dataloader_num_workers",
    "validation_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "checkpoint_errors",
    "resume_from_checkpoint",
    "force",
    "allow_world_change",
    "report_to",
    "dry_run",
}


def test_every_option_is_either_critical_or_harmless():
    assert set(_CRITICAL) == set(CHANGES)
    assert set(CHANGES) | HARMLESS == {field.name for field in fields(TrainingOptions)}
    assert not set(CHANGES) & HARMLESS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        cfg = TrainingOptions(output_dir=tmp_path_factory.mktemp("before"))
        accelerator, *_ = start(cfg)
        return make_checkpoints(cfg, accelerator).save(1)


@pytest.mark.parametrize("name", CHANGES)
def test_r9_a_changed_critical_option_is_refused(checkpoint, tmp_path, name):
    given = {"output_dir": tmp_path, "resume_from_checkpoint": str(checkpoint)}
    if name == "lr_milestones":  # which no other schedule takes
        given["lr_scheduler"] = "multistep"
    cfg = TrainingOptions(**given, **{name: CHANGES[name]})
    accelerator, _, optimizer = start(TrainingOptions(output_dir=tmp_path))
    checkpoints = make_checkpoints(cfg, accelerator)
    listed = rf"other options \((lr_scheduler: .*; )?{name}: [^;]* in the checkpoint, [^;]* now\)"
    with pytest.raises(CheckpointError, match=rf"{listed}\. Start .* accept the change by --force"):
        resume_run(cfg, accelerator, checkpoints, optimizer)


def test_r9_unchanged_options_are_accepted(checkpoint, tmp_path):
    cfg = TrainingOptions(output_dir=tmp_path, resume_from_checkpoint=str(checkpoint))
    accelerator, _, optimizer = start(cfg)
    assert resume_run(cfg, accelerator, make_checkpoints(cfg, accelerator), optimizer) == 1


# -- data -----------------------------------------------------------------------------------------


class Numbers(Dataset):
    """Stands for the crops: a sample is its number."""

    def __getitem__(self, index):
        return torch.tensor(index)


def test_a_loader_draws_nothing_from_the_global_generator(tmp_path):
    """A continued run starts one more loader than the whole run did."""
    cfg = TrainingOptions(output_dir=tmp_path, train_batch_size=2, max_train_steps=3)
    accelerator, *_ = start(cfg)
    before = torch.get_rng_state()
    batches = [batch.tolist() for batch in training_loader(cfg, Numbers(), accelerator, 1)]
    assert batches == [[2, 3], [4, 5]]
    assert torch.equal(before, torch.get_rng_state())
