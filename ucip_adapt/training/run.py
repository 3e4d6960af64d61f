"""What a recipe does before and around its loop: set-up, data, progress, trackers."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import ProjectConfiguration, set_seed
from torch import distributed
from torch.utils.data import DataLoader
from tqdm import tqdm

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs import get_codec
from ucip_adapt.config import to_dict
from ucip_adapt.data import (
    ArrayCache,
    EvalSet,
    PairedCrops,
    Setting,
    default_cache_dir,
    degrade_images,
    list_images,
)
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import Picture, check_namesakes
from ucip_adapt.data.paired import CropSample
from ucip_adapt.errors import CodecError, ConfigError, DataError
from ucip_adapt.suites.read import BuiltSuite, open_suite
from ucip_adapt.training.checkpoint import Checkpoints
from ucip_adapt.training.collective import with_patience
from ucip_adapt.training.options import TrainingOptions
from ucip_adapt.training.results import environment
from ucip_adapt.training.sampler import StepBatchSampler
from ucip_adapt.training.signals import isolate_worker

__all__ = [
    "Clock",
    "Curve",
    "cache_of",
    "images_line",
    "make_accelerator",
    "make_checkpoints",
    "progress_bar",
    "resume_run",
    "say",
    "training_crops",
    "training_loader",
    "training_paths",
]

_CRITICAL = (
    "train_data_dir",
    "suite_dir",
    "max_train_samples",
    "patch_size",
    "train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler",
    "lr_schedule_steps",
    "lr_warmup_steps",
    "lr_milestones",
    "max_train_steps",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "ema_decay",
    "loss",
    "mixed_precision",
    "matmul_precision",
    "seed",
)


class Clock:
    """Seconds by phase of a run.

    Registered for checkpointing, a continued run counts the phases of its earlier parts as well.

    Example:
        >>> clock = Clock()
        >>> clock.lap("data")
        >>> sorted(clock.seconds)
        ['data', 'total']
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Book the time since the last lap on a phase."""
        now = time.perf_counter()
        self._laps[phase] = self._laps.get(phase, 0.0) + now - self._last
        self._last = now

    def state_dict(self) -> dict[str, float]:
        """Seconds by phase so far; the phase under way counts as training."""
        under_way = time.perf_counter() - self._last
        return {**self._laps, "training": self._laps.get("training", 0.0) + under_way}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Start from the seconds of an earlier part of the run."""
        self._laps = dict(state)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and in total, to a hundredth."""
        laps = {**self._laps, "total": sum(self._laps.values())}
        return {phase: round(value, 2) for phase, value in laps.items()}


class Curve:
    """Scores on validation images while a run goes on.

    Registered for checkpointing, a continued run has the points of its earlier parts as well; a
    checkpoint of a version that did not keep them can be continued all the same.

    Example:
        >>> curve = Curve()
        >>> curve.append({"step": 50, "psnr_db": 28.5})
        >>> later = Curve()
        >>> later.load_state_dict(curve.state_dict())
        >>> later.points == curve.points
        True
    """

    may_be_missing = True  # see GuardedStep

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []

    def append(self, point: dict[str, Any]) -> None:
        """Add a point: its step and what was measured."""
        self.points.append(point)

    def state_dict(self) -> dict[str, Any]:
        """The points so far."""
        return {"points": self.points}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the points of an earlier part of the run."""
        self.points = [dict(point) for point in state["points"]]


def make_accelerator(cfg: TrainingOptions) -> Accelerator:
    """Set up devices, processes, seeds and the tracker; the output folder is made.

    Raises:
        ConfigError: If a tracker's library is missing, or fp16 is asked for on a CPU.
        DataError: If the output folder cannot be made.
    """
    tracker = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb"}[cfg.report_to]
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        raise ConfigError(f"--report_to {tracker} needs the package: pip install {tracker}")
    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision,
        gradient_accumulation_steps=cfg.gradient_accumulation_steps,
        log_with=tracker,
        project_config=ProjectConfiguration(
            project_dir=str(cfg.output_dir), logging_dir=str(cfg.output_dir / "tensorboard")
        ),
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[with_patience()],
    )
    # Accelerate prefers ACCELERATE_GRADIENT_ACCUMULATION_STEPS to the argument; the loader, the
    # count of steps and what is recorded go by the option.
    accelerator.gradient_accumulation_steps = cfg.gradient_accumulation_steps
    if cfg.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("--mixed_precision fp16 needs a GPU: here it would be float32; take bf16")
    if cfg.matmul_precision is not None:
        torch.set_float32_matmul_precision(cfg.matmul_precision)
    set_seed(cfg.seed)
    if accelerator.is_main_process and not cfg.dry_run:
        try:
            cfg.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make --output_dir {cfg.output_dir}: {error}") from error
    accelerator.wait_for_everyone()
    if tracker is not None and not cfg.dry_run:
        accelerator.init_trackers("ucip_adapt", config=_flat(to_dict(cfg)))
    return accelerator


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Trackers take numbers and text only."""
    return {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in config.items()
    }


def say(accelerator: Accelerator, *lines: str) -> None:
    """Print on the main process."""
    if accelerator.is_main_process:
        for line in lines:
            tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()


def cache_of(cfg: TrainingOptions) -> ArrayCache:
    """The cache of decoded images that the options name."""
    return ArrayCache(cfg.cache_dir or default_cache_dir())


def training_paths(cfg: TrainingOptions) -> list[Path]:
    """Training images of all folders named, in order.

    Raises:
        DataError: If a folder is not found or holds no image.
    """
    root = data_root(cfg.data)
    paths: list[Path] = []
    for name in cfg.train_data_dir:
        paths += list_images(_training_folder(name, root))
    return paths[: cfg.max_train_samples]


def images_line(cfg: TrainingOptions) -> str:
    """What a run says of its training images.

    Raises:
        DataError: If a folder is not found or holds no image, or no finished suite.
    """
    if cfg.suite_dir is None:
        return f"{len(training_paths(cfg))} from {', '.join(cfg.train_data_dir)}"
    built = open_suite(cfg.suite_dir)
    count = min(cfg.max_train_samples or built.num_images, built.num_images)
    return f"{count} from {cfg.suite_dir}, a build of {built.name}"


def _moved_images(cfg: TrainingOptions, built: BuiltSuite) -> Path | None:
    """Folder of a suite's images on this machine; None where the suite itself knows."""
    if built.manifest["hr_mode"] == "bytes" or built.hr_folder is not None:
        return None
    return _training_folder(cfg.train_data_dir[0], data_root(cfg.data))


def _training_folder(name: str, root: Path | None) -> Path:
    if name == "embedded":
        return image_folder("train")
    if Path(name).is_dir():
        return Path(name)
    if root is not None and (root / "train" / name).is_dir():
        return root / "train" / name
    where = f"nor '{name}' under {root}/train" if root else "and --data or UCIP_DATA is not set"
    raise DataError(f"--train_data_dir {name}: no such folder, {where}; 'embedded' is always there")


def training_crops(
    cfg: TrainingOptions,
    settings: Sequence[Setting],
    accelerator: Accelerator,
    slots: Sequence[int] | None = None,
    *,
    measured: Sequence[EvalSet] = (),
) -> PairedCrops:
    """Degrade the training images at the settings and make the data set of crops.

    Args:
        cfg: The options.
        settings: Codecs and qualities.
        accelerator: The run's accelerator.
        slots: Number of the slot of each setting; None makes each codec a slot.
        measured: Sets that the run is measured on.

    Raises:
        DataError: If an image cannot be used, or a built suite is not what its manifest says.
        CodecError: If a codec fails, or one that goes by names lacks an image, or is asked for two
            pictures of one name, in whatever sets.
    """
    progress = accelerator.is_local_main_process
    if cfg.suite_dir is not None:
        built = open_suite(cfg.suite_dir)
        images = built.images(
            settings,
            cache_of(cfg),
            hr_folder=_moved_images(cfg, built),
            limit=cfg.max_train_samples,
            min_side=cfg.patch_size,
            progress=progress,
        )
    else:
        try:
            images = degrade_images(
                training_paths(cfg),
                list(settings),
                cache_of(cfg),
                min_side=cfg.patch_size,
                progress=progress,
            )
        except CodecError as error:
            # What is to be done about it hangs on where the image comes from.
            raise CodecError(f"--train_data_dir {' '.join(cfg.train_data_dir)}: {error}") from error
    groups: list[tuple[str, Sequence[Picture]]] = [(str(cfg.suite_dir), images)]
    groups += [(one.name, one.images) for one in measured]
    for codec in dict.fromkeys(setting.codec for setting in settings):
        check_namesakes(get_codec(codec), groups)
    return PairedCrops(images, patch_size=cfg.patch_size, seed=cfg.seed, slots=slots)


def training_loader(
    cfg: TrainingOptions, crops: PairedCrops, accelerator: Accelerator, start_step: int
) -> DataLoader[CropSample]:
    """Micro-batches of this process from ``start_step`` to the end; a function of seed and step."""
    sampler = StepBatchSampler(
        cfg.train_batch_size,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        accumulation=cfg.gradient_accumulation_steps,
        start_step=start_step,
        stop_step=cfg.max_train_steps,
    )
    return DataLoader(
        crops,
        batch_sampler=sampler,
        num_workers=cfg.dataloader_num_workers,
        worker_init_fn=isolate_worker,
        # Its own, so that a start draws nothing from the global one and resuming stays exact.
        generator=torch.Generator(),
        pin_memory=accelerator.device.type == "cuda",
    )


def make_checkpoints(
    cfg: TrainingOptions,
    accelerator: Accelerator,
    *,
    critical: Sequence[str] = (),
    base_fingerprint: str | None = None,
    start_fingerprint: str | None = None,
    images_sha256: str | None = None,
    codecs: Mapping[str, str] | None = None,
    slots: Sequence[int] | None = None,
) -> Checkpoints:
    """Checkpoints under ``OUTPUT_DIR/checkpoints``, of the trained parameters only.

    Args:
        cfg: The options.
        accelerator: The run's accelerator, after ``prepare``.
        critical: Options of the recipe, besides the common ones, that a resumed run must share.
        base_fingerprint: Of the base, whose name may stand for other weights by then; its frozen
            parameters are in no checkpoint. None where all parameters are.
        start_fingerprint: Of what the weights of a base or codec started from, for the same reason.
        images_sha256: Of the training images, whose folder's name may stand for others by then.
        codecs: Digest of what each codec is, by its name, which may stand for another program or
            version of a library by then. A codec that the checkpoint does not know is no matter
            here: the option that names it is.
        slots: Number of the slot of each setting, which decides what is drawn: a suite may group
            the same settings otherwise by then. None where there is nothing to group.
    """
    measured: dict[str, Any] = {
        "start_fingerprint": start_fingerprint,
        "images_sha256": images_sha256,
    }
    measured |= {f"fingerprint of codec {name}": said for name, said in (codecs or {}).items()}
    if slots is not None:
        measured["slots"] = list(slots)
    return Checkpoints(
        accelerator,
        cfg.output_dir / "checkpoints",
        total_limit=cfg.checkpoints_total_limit,
        run_config={
            **to_dict(cfg),
            "base_fingerprint": base_fingerprint,
            **measured,
        },
        critical_keys=[*_CRITICAL, *critical, "base_fingerprint"],
        measured_keys=list(measured),
        on_write_error=cfg.checkpoint_errors,
        save_trainable_only=True,
    )


def resume_run(
    cfg: TrainingOptions,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    optimizer: torch.optim.Optimizer | AcceleratedOptimizer,
) -> int:
    """Go on from the checkpoint that the options name; the last call before the loop.

    Whatever the options name, processes part their random states here. Until now these were equal,
    so that all processes built the same network; what is drawn while training, such as the noise of
    a codec's quantiser, has to differ between them, or more processes would not mean more noise.

    Args:
        cfg: The options.
        accelerator: The run's accelerator.
        checkpoints: As :func:`make_checkpoints` returned them.
        optimizer: The prepared Adam that has the options' decays.

    Returns:
        The optimizer steps done; 0 if the options name no checkpoint.

    Raises:
        CheckpointError: As :meth:`.Checkpoints.resume` does.
        ConfigError: If the run is to end before the checkpoint's step.
    """
    if accelerator.process_index > 0:  # the main process goes on as a run of one process does
        set_seed(cfg.seed, device_specific=True)
    if cfg.resume_from_checkpoint is None:
        return 0
    step = checkpoints.resume(
        cfg.resume_from_checkpoint,
        force=cfg.force,
        allow_world_change=cfg.allow_world_change,
    )
    if step > cfg.max_train_steps:
        raise ConfigError(
            f"the checkpoint is of step {step} and --max_train_steps {cfg.max_train_steps} ends "
            f"before it: give {step} or more, or an earlier checkpoint by --resume_from_checkpoint"
        )
    # The optimizer's state has brought its old decays back; after --force others may be recorded.
    for group in optimizer.param_groups:
        group["betas"] = (cfg.adam_beta1, cfg.adam_beta2)
    # So has Accelerate's count of micro-batches, by which it knows the last one of a step.
    accelerator.step = step * accelerator.gradient_accumulation_steps
    say(accelerator, f"resumed    at step {step}")
    return step


def progress_bar(cfg: TrainingOptions, accelerator: Accelerator, start_step: int) -> Any:  # noqa: ANN401 - tqdm is untyped
    """Progress over optimizer steps, on the local main process only."""
    return tqdm(
        total=cfg.max_train_steps,
        initial=start_step,
        desc="train",
        unit="step",
        disable=not accelerator.is_local_main_process,
        mininterval=1.0,
    )


def hardware_line() -> str:
    """One line on where this run computes, and with how many processes that really talk."""
    about = environment()
    device = about["gpu"] or f"{about['cpu']}, {about['cpu_cores']} cores"
    several = about["processes"] > 1
    over = f", {about['processes']} processes over {distributed.get_backend()}" if several else ""
    torch_line = f"torch {about['versions']['torch']}, {about['torch_threads']} threads"
    return f"{device}; {torch_line}{over}"
