"""Options that every training recipe shares, named as in diffusers and Accelerate."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ucip_adapt.config import option
from ucip_adapt.errors import ConfigError
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.training.guard import NonFinitePolicy
from ucip_adapt.training.losses import Loss
from ucip_adapt.training.schedule import Schedule

__all__ = ["TrainingOptions", "TuningOptions", "check_push"]


@dataclass(frozen=True)
class TrainingOptions:
    """Data, schedule, checkpoints and reporting of a training run.

    A recipe derives its own options from this class and changes defaults there.
    """

    train_data_dir: tuple[str, ...] = option(
        ("embedded",),
        "Folders of clean training images: paths, names under DATA/train (CID22), or 'embedded'.",
    )
    suite_dir: Path | None = option(
        None,
        "Folder made by `ucip-adapt build-suite`: images and their compressed versions are read "
        "from it; TRAIN_DATA_DIR then only says where the images are if they have moved.",
    )
    max_train_samples: int | None = option(
        None, "Use only the first so many images.", unit="images", minimum=1
    )
    validation_data_dir: str = option(
        "GB82-val", "Images for validation: a folder, a benchmark, or the embedded GB82-val."
    )
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    cache_dir: Path | None = option(
        None, "Folder for decoded images; default: UCIP_CACHE, else ~/.cache/ucip_adapt."
    )
    output_dir: Path = option(Path("runs/latest"), "Folder that the run writes to.")
    patch_size: int = option(32, "Side of a training crop.", unit="LQ pixels", minimum=8)
    train_batch_size: int = option(8, "Crops per process and micro-batch.", minimum=1)
    gradient_accumulation_steps: int = option(1, "Micro-batches per step.", minimum=1)
    max_train_steps: int = option(300, "Optimizer steps.", unit="steps", minimum=1)
    learning_rate: float | None = option(
        None, "Adam's peak rate; default: the recipe's, for what is trained.", minimum=0.0
    )
    lr_scheduler: Schedule = option("cosine", "Shape of the rate over the run.")
    lr_schedule_steps: int | None = option(
        None,
        "Length of the rate's schedule, where a stage ends before it; default: max_train_steps.",
        unit="steps",
        minimum=1,
    )
    lr_warmup_steps: int | None = option(
        None,
        "Linear warm-up; default: a tenth of the schedule, at most 20.",
        unit="steps",
        minimum=0,
    )
    lr_milestones: tuple[int, ...] = option(
        (), "Steps after which 'multistep' halves the rate.", unit="steps", minimum=1
    )
    adam_beta1: float = option(0.9, "Adam's first decay, below 1.", minimum=0.0)
    adam_beta2: float = option(0.999, "Adam's second decay, below 1.", minimum=0.0)
    loss: Loss = option(
        "psnr", "What is made small: the error in dB, image by image, or l1 as in the paper."
    )
    max_grad_norm: float | None = option(
        1.0, "Gradient clipping, a limit above 0; none does not clip."
    )
    ema_decay: float | None = option(
        None,
        "Average the trained weights with this decay, below 1, and keep the average.",
        minimum=0.0,
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "Autocast type.")
    matmul_precision: Literal["highest", "high", "medium"] | None = option(
        None,
        "torch.set_float32_matmul_precision for the process: medium is quicker, on some CPUs and "
        "GPUs by rounding factors to bfloat16; default: PyTorch's.",
    )
    sampler: Sampler | None = option(
        None,
        "How tokens are fetched: grid, gather, or fused, a compiled kernel; the same function to "
        "rounding; default: the network's own.",
    )
    gradient_checkpointing: bool = option(False, "Recompute activations: less memory, more time.")
    nonfinite: NonFinitePolicy = option(
        "skip", "A non-finite loss or gradient skips its step, or stops the run."
    )
    seed: int = option(0, "Seed of initial weights, data order, crops and flips.", minimum=0)
    dataloader_num_workers: int = option(0, "Processes that cut crops.", minimum=0)
    validation_steps: int = option(
        0, "Validate every so many steps; 0 only at the end.", unit="steps", minimum=0
    )
    checkpointing_steps: int = option(
        0,
        "Publish a checkpoint every so many steps; 0 only when asked to stop and at the end.",
        minimum=0,
    )
    checkpoints_total_limit: int | None = option(2, "Checkpoints to keep.", minimum=1)
    checkpoint_errors: Literal["stop", "continue"] = option(
        "stop", "Whether a checkpoint that cannot be written (full disk) ends the run."
    )
    resume_from_checkpoint: str | None = option(
        None, "'latest' in OUTPUT_DIR/checkpoints, or the path of a checkpoint."
    )
    force: bool = option(False, "Resume although critical options have changed.")
    allow_world_change: bool = option(False, "Resume with another number of processes.")
    report_to: Literal["none", "tensorboard", "wandb"] = option("none", "Experiment tracker.")
    dry_run: bool = option(False, "Print data, model, counts and steps, and stop.")

    @property
    def schedule_steps(self) -> int:
        """Length of the rate's schedule in steps."""
        return self.lr_schedule_steps or self.max_train_steps

    @property
    def warmup_steps(self) -> int:
        """Length of the linear warm-up in steps."""
        if self.lr_warmup_steps is not None:
            return self.lr_warmup_steps
        return min(20, self.schedule_steps // 10)

    def __post_init__(self) -> None:
        """Check the ranges that are open at an end, and what one option says of another.

        Raises:
            ConfigError: If a value is out of its range or two options exclude each other.
        """
        for name in ("adam_beta1", "adam_beta2"):
            beta: float = getattr(self, name)
            if not 0 <= beta < 1:
                raise ConfigError(f"{name}={beta:g} must be at least 0 and below 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(
                f"ema_decay={self.ema_decay:g} must be at least 0 and below 1: at 1 the average "
                "stays where it starts; 'none' keeps no average"
            )
        if self.learning_rate is not None and not 0 <= self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate={self.learning_rate:g} must be finite, 0 or more")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(
                f"max_grad_norm={self.max_grad_norm:g} leaves nothing of the gradients; give a "
                "limit above 0, or 'none' for no clipping"
            )
        if self.lr_warmup_steps is not None and self.lr_warmup_steps > self.max_train_steps:
            raise ConfigError(
                f"lr_warmup_steps={self.lr_warmup_steps} exceeds "
                f"max_train_steps={self.max_train_steps}"
            )
        if self.lr_schedule_steps is not None and self.lr_schedule_steps < self.max_train_steps:
            raise ConfigError(
                f"lr_schedule_steps={self.lr_schedule_steps} is shorter than "
                f"max_train_steps={self.max_train_steps}"
            )
        if bool(self.lr_milestones) != (self.lr_scheduler == "multistep"):
            raise ConfigError("lr_milestones belong to lr_scheduler 'multistep', and it needs them")
        if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
            steps = " ".join(map(str, self.lr_milestones))
            raise ConfigError(f"lr_milestones={steps} must rise, each step once")


@dataclass(frozen=True)
class TuningOptions(TrainingOptions):
    """What the tuning recipes have in common: a base, a codec, and sets to be measured on."""

    patch_size: int = option(64, "Side of a training crop.", unit="LQ pixels", minimum=8)
    train_batch_size: int = option(2, "Crops per process and micro-batch.", minimum=1)
    max_train_steps: int = option(200, "Optimizer steps.", unit="steps", minimum=1)
    pretrained_model_name_or_path: str = option(
        "ucip-tiny", "Base network: a shipped name, a folder, or a repository on the Hub."
    )
    revision: str | None = option(None, "Revision of the base on the Hub.")
    codec: str = option(
        "webp", "Codec to adapt to: a name, or, with --allow_command, command:... or folder:PATH."
    )
    allow_command: bool = option(
        False, "CODEC may name a program or a folder of this machine.", flag_only=True
    )
    qualities: tuple[int, ...] = option(
        (), "Its qualities, drawn evenly; default: those of its suite."
    )
    protocol: Literal["i", "ii", "iii", "iv", "v"] | None = option(
        None, "Row of Table 3 (v is ours); default: what recipe and base allow."
    )
    evaluate_on: tuple[str, ...] = option(
        ("GB82-val",), "Sets to measure on at the end: GB82-val, benchmarks under DATA, folders."
    )
    max_eval_images: int | None = option(
        None, "Measure only on the first so many images of each set.", minimum=1
    )
    push_to_hub: bool = option(False, "Upload the result to the Hub.")
    hub_model_id: str | None = option(
        None, "Repository for it; default: UCIP_HUB_NAMESPACE/ucip-CODEC."
    )

    def __post_init__(self) -> None:
        """Check what one option says of another.

        Raises:
            ConfigError: If two options exclude each other.
        """
        super().__post_init__()
        check_push(self.push_to_hub, self.hub_model_id)


def check_push(push_to_hub: bool, hub_model_id: str | None) -> None:
    """Refuse to publish to nowhere, before the training.

    Args:
        push_to_hub: Whether the result is to be uploaded.
        hub_model_id: Repository for it; None takes the namespace of ``UCIP_HUB_NAMESPACE``.

    Raises:
        ConfigError: If there is neither.
        HubError: If it cannot be the name of a repository.

    Example:
        >>> check_push(True, "me/mine")
    """
    if push_to_hub and not (hub_model_id or os.environ.get("UCIP_HUB_NAMESPACE")):
        raise ConfigError("--push_to_hub needs --hub_model_id, or UCIP_HUB_NAMESPACE to be set")
    if push_to_hub:
        from ucip_adapt.hub.folders import repository_name  # heavy, and rarely asked for

        repository_name(hub_model_id, default_name="ucip")
