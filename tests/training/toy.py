"""A complete recipe in small: the loop that the checkpoint tests kill, stop, resume and compare.

It runs by ``python``, by ``torchrun`` and in process (``run(Options(...))``), and leaves one JSON
file per process with everything that has to be equal between two runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ucip_adapt.training.checkpoint import Checkpoints
from ucip_adapt.training.collective import finish_training, leave_process_group
from ucip_adapt.training.ema import EMA
from ucip_adapt.training.guard import GuardedStep
from ucip_adapt.training.sampler import StepBatchSampler
from ucip_adapt.training.schedule import learning_rate_at, set_learning_rate
from ucip_adapt.training.signals import StopRequest, isolate_worker


@dataclass(frozen=True)
class Options:
    root: str
    steps: int = 20
    stop_after: int = 10**9
    save_every: int = 10**9
    resume: str = ""
    total_limit: int = 2
    accumulation: int = 1
    batch: int = 2
    learning_rate: float = 0.01
    width: int = 8
    policy: str = "stop"
    nan_sample: int = -1
    trainable_only: bool = False
    force: bool = False
    allow_world_change: bool = False
    on_write_error: str = "stop"
    sleep: float = 0.0
    workers: int = 0
    peft: bool = False
    report: str = ""
    isolate: int = 1


class Noise(Dataset):
    """Sample = function of (seed, index)."""

    def __init__(self, nan_sample):
        self.nan_sample = nan_sample

    def __getitem__(self, index):
        x = torch.randn(4, generator=torch.Generator().manual_seed(1000 + index))
        return index, x * float("nan") if index == self.nan_sample else x


def build(options):
    model = nn.Sequential(
        nn.Linear(4, options.width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(options.width, 1)
    )
    if options.trainable_only:
        model[0].requires_grad_(False)
    if options.peft:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=2, target_modules=["3"], init_lora_weights=False)
        )
    return model


def digest(value):
    """sha256 of every tensor in a nested state, in order."""
    whole = hashlib.sha256()

    def add(item):
        if isinstance(item, torch.Tensor):
            whole.update(item.detach().contiguous().numpy().tobytes())
        elif isinstance(item, dict):
            for key in item:
                whole.update(str(key).encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        else:
            whole.update(repr(item).encode())

    add(value)
    return whole.hexdigest()


def run(options):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=options.accumulation)
    set_seed(7, device_specific=True)
    torch.manual_seed(
        7
    )  # the model starts alike on all processes; dropout differs after set_seed below
    model = build(options)
    set_seed(7, device_specific=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(parameters, lr=0.0))
    inner = accelerator.unwrap_model(model)
    ema = EMA(((n, p) for n, p in inner.named_parameters() if p.requires_grad), decay=0.9)
    accelerator.register_for_checkpointing(ema)
    checkpoints = Checkpoints(
        accelerator,
        options.root,
        total_limit=options.total_limit,
        run_config={**asdict(options), "train_batch_size": options.batch},
        critical_keys=["learning_rate", "width", "accumulation"],
        on_write_error=options.on_write_error,
        save_trainable_only=options.trainable_only or options.peft,
    )
    start = 0
    if options.resume:
        start = checkpoints.resume(
            options.resume, force=options.force, allow_world_change=options.allow_world_change
        )
    guard = GuardedStep(
        accelerator, optimizer, parameters, policy=options.policy, max_grad_norm=1.0
    )
    sampler = StepBatchSampler(
        options.batch,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        accumulation=options.accumulation,
        start_step=start,
        stop_step=options.steps,
    )
    loader = DataLoader(
        Noise(options.nan_sample),
        batch_sampler=sampler,
        num_workers=options.workers,
        generator=torch.Generator(),
        worker_init_fn=isolate_worker if options.isolate else None,
    )
    rates, samples, losses, step, saved, stopped = [], [], [], start, None, False
    with StopRequest() as stop:
        for index, x in loader:
            rate = learning_rate_at(
                step,
                schedule="cosine",
                learning_rate=options.learning_rate,
                warmup_steps=4,
                max_steps=options.steps,
            )
            set_learning_rate(optimizer, rate)
            with accelerator.accumulate(model):
                loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
                guard.backward(loss, sample_ids=index.tolist())
                samples += index.tolist()
                losses.append(loss.item())
                if accelerator.sync_gradients:
                    rates.append(optimizer.param_groups[0]["lr"])
                    if guard.step(step):
                        ema.update(step)
                    step += 1
            if not accelerator.sync_gradients:
                continue
            time.sleep(options.sleep)
            stopped = stop.agreed(accelerator)
            if (
                step % options.save_every == 0
                or step == options.stop_after
                or stopped
                or step == options.steps
            ):
                saved = checkpoints.save(step)
                if saved and accelerator.is_main_process:
                    sys.stdout.write(f"published {step}\n")
                    sys.stdout.flush()
            if stopped or step == options.stop_after:
                break
    report = {
        "processes": accelerator.num_processes,
        "backend": torch.distributed.get_backend() if accelerator.num_processes > 1 else None,
        "start": start,
        "step": step,
        "stopped": stopped,
        "skipped": guard.skipped,
        "finite": all(bool(torch.isfinite(p).all()) for p in inner.parameters()),
        "saved": str(saved),
        "rates": rates,
        "samples": samples,
        "losses": losses,
        "weights": digest(inner.state_dict()),
        "frozen": digest([p for p in inner.parameters() if not p.requires_grad]),
        "optimizer": digest(optimizer.state_dict()),
        "ema": digest(ema.state_dict()),
        "random": digest(torch.rand(3)),
    }
    if options.report:
        path = Path(f"{options.report}-{accelerator.process_index}.json")
        path.write_text(json.dumps(report))
    finish_training(accelerator)
    return report


def parse():
    parser = argparse.ArgumentParser()
    for field in fields(Options):
        kind = {"int": int, "float": float, "str": str, "bool": None}[field.type]
        if kind is None:
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    run(parse())
    leave_process_group()
