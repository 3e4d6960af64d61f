"""What recipes share around their loops: random states, data, resuming, and what may change."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from ucip_adapt.training.options import TrainingOptions
from ucip_adapt.training.run import make_accelerator, make_checkpoints, resume_run


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
