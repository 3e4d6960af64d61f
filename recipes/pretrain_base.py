"""Train a base UCIP on compressed images, with prompts or without.

    accelerate launch recipes/pretrain_base.py --config recipes/configs/pretrain_base/tiny-1.toml

leaves a folder in the Hub's layout: config.json, model.safetensors, a card, results.json. A second
stage starts from the first one's folder (``--pretrained_model_name_or_path``) with a fresh
optimizer. ``configs/pretrain_base/paper.toml`` holds the settings of the paper.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import torch

from ucip_adapt.config import option, run_recipe
from ucip_adapt.data import load_eval_set
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.errors import ConfigError
from ucip_adapt.evaluation import (
    bicubic,
    choose_window,
    evaluate_sets,
    mean_psnr,
    network_upscaler,
    summarise,
)
from ucip_adapt.hub.folders import publish_base, push_folder
from ucip_adapt.hub.stages import previous_stages, stage_summary
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.collective import finish_training
from ucip_adapt.training.damage import choose_damage, code_first, codec_digests, unscored
from ucip_adapt.training.ema import EMA
from ucip_adapt.training.guard import GuardedStep, check_finite
from ucip_adapt.training.last import weights_kept
from ucip_adapt.training.losses import LOSSES
from ucip_adapt.training.options import TrainingOptions, check_push
from ucip_adapt.training.results import run_record
from ucip_adapt.training.run import (
    Clock,
    Curve,
    cache_of,
    hardware_line,
    images_line,
    make_accelerator,
    make_checkpoints,
    progress_bar,
    resume_run,
    say,
    training_crops,
    training_loader,
)
from ucip_adapt.training.schedule import learning_rate_at, set_learning_rate
from ucip_adapt.training.signals import StopRequest


@dataclass(frozen=True)
class Options(TrainingOptions):
    """Options of the recipe; those of every training run come first."""

    preset: Literal["full", "small", "tiny", "nano"] | None = option(
        None, "Architecture; default: the base's to start from, or for a new network tiny."
    )
    prompt: Literal["dynamic", "none", "fixed", "promptir"] = option(
        "dynamic", "Prompt design (Table 4); none is the base of protocols ii and iii."
    )
    num_prompts: int | None = option(
        None, "Basic prompts of each block (Table 6); default: the base's, or 8.", minimum=1
    )
    num_slots: int | None = option(
        None, "Prompt slots, one per codec; 1 is blind; default: the base's, or 1.", minimum=1
    )
    local: Literal["yes", "no"] | None = option(
        None, "Depth-wise local branch (Table 5); default: the base's, or yes."
    )
    settings: tuple[str, ...] | None = option(
        None, "Damage to learn, each CODEC:QUALITY; default: jpeg:10 jpeg:20 jpeg:30 jpeg:40."
    )
    suite: str | None = option(
        None,
        "Damage to learn instead of SETTINGS: ucsr, ucsr-open, ucsr-streams, webp, elic or a "
        "file.toml; each slot is drawn evenly.",
    )
    allow_command: bool = option(
        False,
        "Take command: and folder: codecs from a suite file; only for files of your own.",
        flag_only=True,
    )
    pretrained_model_name_or_path: str | None = option(
        None, "Start from this base instead of random weights; its architecture is kept."
    )
    revision: str | None = option(None, "Revision of that base on the Hub.")
    windows: tuple[int, ...] = option(
        (), "Window sides to try on the validation images; the best way is kept.", minimum=8
    )
    max_eval_images: int | None = option(
        None, "Validate only on the first so many images.", unit="images", minimum=1
    )
    name: str = option("ucip-base", "Name for the card.")
    push_to_hub: bool = option(False, "Upload the result to the Hub.")
    hub_model_id: str | None = option(None, "Repository for it; default: UCIP_HUB_NAMESPACE/NAME.")

    def __post_init__(self) -> None:
        """Check what one option says of another."""
        super().__post_init__()
        check_push(self.push_to_hub, self.hub_model_id)
        if self.revision is not None and self.pretrained_model_name_or_path is None:
            raise ConfigError(
                f"--revision {self.revision} is one of the base to start from: name that by "
                "--pretrained_model_name_or_path, or leave --revision out"
            )

    @property
    def rate(self) -> float:
        """Peak learning rate; 1e-3 suits the small presets."""
        return 1e-3 if self.learning_rate is None else self.learning_rate


def build_model(cfg: Options) -> UCIP:
    """Make the network, or load the one to go on with."""
    if cfg.pretrained_model_name_or_path is not None:
        model = UCIP.from_pretrained(cfg.pretrained_model_name_or_path, revision=cfg.revision)
        refuse_other_architecture(cfg, model.config)
        return model.train()
    config = UCIPConfig.preset(
        cfg.preset or "tiny",
        prompt=cfg.prompt,
        num_prompts=cfg.num_prompts or 8,
        num_slots=cfg.num_slots or 1,
        local=cfg.local != "no",
    )
    return UCIP(config)


def as_options(config: UCIPConfig) -> dict[str, Any]:
    """What a network is, in the words of the options."""
    own = {name: getattr(config, name) for name in ("prompt", "num_prompts", "num_slots")}
    return {**own, "local": "yes" if config.local else "no"}


def refuse_other_architecture(cfg: Options, config: UCIPConfig) -> None:
    """Refuse options that say something else than the base that they start from."""
    start = cfg.pretrained_model_name_or_path
    for name, value in as_options(config).items():
        asked = getattr(cfg, name)
        if asked is not None and asked != value:
            raise ConfigError(
                f"--{name} {asked}, but {start} has {name} {value!r}; give that, or another base"
            )
    if cfg.preset is None:
        return
    own = {**as_options(config), "local": config.local}
    asked_for = UCIPConfig.preset(cfg.preset, **own).function_fields()
    other = [name for name, value in config.function_fields().items() if asked_for[name] != value]
    if other:
        differs = f"{start} differs from it in {', '.join(other)}"
        raise ConfigError(f"--preset {cfg.preset}, but {differs}; leave --preset out")


def with_architecture(cfg: Options, config: UCIPConfig) -> Options:
    """The options as they are recorded: what the network is, and a preset only if it came of it."""
    preset = (cfg.preset or "tiny") if cfg.pretrained_model_name_or_path is None else None
    return dataclasses.replace(cfg, preset=preset, **as_options(config))


def check_slots(cfg: Options, config: UCIPConfig, found: int) -> None:
    """Refuse prompt slots that the damage does not fill, or that it has too many for."""
    if config.num_slots in {1, found}:
        return
    start, source = cfg.pretrained_model_name_or_path, cfg.suite or cfg.suite_dir or "--settings"
    whose = "--num_slots" if start is None else f"{start} has num_slots"
    raise ConfigError(f"{whose} {config.num_slots}, but {source} has {found} slots; 1 is blind")


def main(cfg: Options) -> dict[str, Any]:
    """Train; returns what results.json holds."""
    clock = Clock()
    cfg = dataclasses.replace(cfg, learning_rate=cfg.rate)
    accelerator = make_accelerator(cfg)
    root = data_root(cfg.data)
    settings, slots = choose_damage(
        cfg.settings,
        suite=cfg.suite,
        suite_dir=cfg.suite_dir,
        data_root=root,
        allow_command=cfg.allow_command,
    )
    validation = load_eval_set(cfg.validation_data_dir, root, limit=cfg.max_eval_images)
    without_score = unscored(validation, settings)
    cfg = dataclasses.replace(cfg, settings=tuple(map(str, settings)))
    model = build_model(cfg)
    cfg = with_architecture(cfg, model.config)
    found = {setting.codec for setting in settings} if slots is None else set(slots)
    check_slots(cfg, model.config, len(found))
    if cfg.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if cfg.sampler is not None:
        model.use_sampler(cfg.sampler)
    parameters = [p for p in model.parameters() if p.requires_grad]
    network = cfg.preset or f"from {cfg.pretrained_model_name_or_path}"
    per_step = cfg.train_batch_size * accelerator.num_processes * cfg.gradient_accumulation_steps
    say(
        accelerator,
        f"images     {images_line(cfg)}",
        f"damage     {', '.join(map(str, settings))}",
        f"model      {network}, prompt {model.config.prompt}, {model.num_parameters():,} "
        f"parameters, {model.num_parameters(trainable_only=True):,} trained",
        f"steps      {cfg.max_train_steps} of {per_step} crops ({accelerator.num_processes} "
        f"processes x {cfg.train_batch_size} x {cfg.gradient_accumulation_steps}) of "
        f"{cfg.patch_size} x {cfg.patch_size} LQ pixels",
        f"hardware   {hardware_line()}",
        *(f"no score   {reason}" for reason in without_score),
    )
    if cfg.dry_run:
        return {}

    code_first(validation, settings, cache_of(cfg), option="--validation_data_dir")
    crops = training_crops(cfg, settings, accelerator, slots, measured=[validation])
    optimizer = torch.optim.Adam(parameters, lr=cfg.rate, betas=(cfg.adam_beta1, cfg.adam_beta2))
    model, optimizer = accelerator.prepare(model, optimizer)
    base = accelerator.unwrap_model(model, keep_torch_compile=False)
    ema = None
    if cfg.ema_decay is not None:
        trained = [(name, p) for name, p in base.named_parameters() if p.requires_grad]
        ema = EMA(trained, decay=cfg.ema_decay)
        accelerator.register_for_checkpointing(ema)
    accelerator.register_for_checkpointing(clock)
    curve = Curve()
    accelerator.register_for_checkpointing(curve)
    guard = GuardedStep(
        accelerator, optimizer, parameters, policy=cfg.nonfinite, max_grad_norm=cfg.max_grad_norm
    )
    accelerator.register_for_checkpointing(guard)
    # Earlier versions recorded a preset also beside a base, where it says nothing.
    critical = ("prompt", "settings", *(("preset",) if cfg.preset is not None else ()))
    codecs = codec_digests(settings, cfg.suite_dir)
    fresh = cfg.pretrained_model_name_or_path is None
    checkpoints = make_checkpoints(
        cfg,
        accelerator,
        critical=critical,
        # Prompts of a prompt-free base stay as they were there, and its stages are recorded.
        start_fingerprint="random weights" if fresh else base.fingerprint,
        images_sha256=crops.images_sha256(),
        codecs=codecs,
        slots=crops.slots,
    )
    step = resume_run(cfg, accelerator, checkpoints, optimizer)
    compute_loss = LOSSES[cfg.loss]
    clock.lap("data")

    def validate() -> dict[str, float]:
        """Mean validation PSNR (y-c4) of the whole image, and its gain over bicubic, in dB."""
        upscale = network_upscaler(base.upscale, accelerator.device, window=None)
        rows = evaluate_sets(
            {"bicubic": bicubic, "base": upscale},
            [validation],
            settings,
            ["y-c4"],
            cache=cache_of(cfg),
            accelerator=accelerator,
        )
        psnr = mean_psnr(rows, "base")
        return {"val_psnr_db": psnr, "val_gain_db": psnr - mean_psnr(rows, "bicubic")}

    with StopRequest() as stop, progress_bar(cfg, accelerator, step) as bar:
        for batch in training_loader(cfg, crops, accelerator, step):
            with accelerator.accumulate(model):
                rate = learning_rate_at(
                    step,
                    schedule=cfg.lr_scheduler,
                    learning_rate=cfg.rate,
                    warmup_steps=cfg.warmup_steps,
                    max_steps=cfg.schedule_steps,
                    milestones=cfg.lr_milestones,
                )
                set_learning_rate(optimizer, rate)
                lq = batch["lq"].to(accelerator.device)
                gt = batch["gt"].to(accelerator.device)
                slot = batch["slot"].to(accelerator.device) if base.config.num_slots > 1 else None
                loss = compute_loss(model(lq, slot).float(), gt)
                guard.backward(loss, sample_ids=batch["index"].tolist())
                if accelerator.sync_gradients and guard.step(step) and ema is not None:
                    ema.update(step)
            if not accelerator.sync_gradients:
                continue
            step += 1
            bar.update()
            loss_so_far = guard.running_loss
            bar.set_postfix(loss=f"{loss_so_far:.4f}", lr=f"{rate:.1e}", skipped=guard.skipped)
            accelerator.log({"train_loss": guard.last_loss, "learning_rate": rate}, step=step)
            if cfg.validation_steps and step % cfg.validation_steps == 0:
                clock.lap("training")
                scores = validate()
                curve.append({"step": step, "train_loss": loss_so_far, **scores})
                accelerator.log(scores, step=step)
                gain = scores["val_gain_db"]
                say(accelerator, f"step {step}: loss {loss_so_far:.5f}, validation {gain:+.3f} dB")
                clock.lap("validation")
            asked = stop.agreed(accelerator)
            if asked or (cfg.checkpointing_steps and step % cfg.checkpointing_steps == 0):
                checkpoints.save(step)
            if asked and step < cfg.max_train_steps:
                say(
                    accelerator,
                    f"stopped at step {step}; go on with --resume_from_checkpoint latest",
                )
                return {}
    clock.lap("training")
    guard.check_trained()

    with weights_kept(accelerator, checkpoints, step):
        # What ships is measured in its own precision, whatever the training's was.
        base = accelerator.unwrap_model(model, keep_fp32_wrapper=False, keep_torch_compile=False)
        if ema is not None:
            ema.write_back()
        check_finite(base.named_parameters(), what="no result is written: the trained weights")
        if cfg.windows:
            window, ways = choose_window(
                base,
                cfg.windows,
                validation,
                settings,
                cache=cache_of(cfg),
                accelerator=accelerator,
            )
            # Tried at their own step, not at the one that a base to start from is applied at.
            base.config = base.config.replace(window=window, window_stride=None)
            for way, psnr in ways.items():
                say(accelerator, f"inference  {way}: {psnr:.3f} dB on {validation.name}")
        else:
            ways = {}
        methods = {
            "bicubic": bicubic,
            "whole": network_upscaler(base.upscale, accelerator.device, window=None),
            "base": network_upscaler(base.upscale, accelerator.device),
        }
        protocols = ["y-c4", "rgb-c4"]
        rows = evaluate_sets(
            methods, [validation], settings, protocols, cache=cache_of(cfg), accelerator=accelerator
        )
    clock.lap("evaluation")
    say(accelerator, summarise(rows, reference="bicubic"))
    record = run_record(
        "pretrain_base",
        cfg,
        seconds=clock.seconds,
        parameters={
            "total": base.num_parameters(),
            "trained": sum(p.numel() for p in parameters),
            "fingerprint": base.fingerprint,
            "codec_fingerprints": list(codecs.items()),
            "stages": previous_stages(cfg.pretrained_model_name_or_path),
        },
        scores={
            "rows": [row.to_dict() for row in rows],
            "curve": curve.points,
            "inference": ways,
            "skipped_steps": guard.skipped,
        },
    )
    this = stage_summary(record["config"], record["seconds"], record["environment"])
    record["parameters"]["stages"].append(this)
    if accelerator.is_main_process:
        publish_base(base, cfg.output_dir, record, name=cfg.name)
        if cfg.push_to_hub:  # a name may be user/repository, for the card
            push_folder(cfg.output_dir, cfg.hub_model_id, default_name=PurePath(cfg.name).name)
    finish_training(accelerator)
    gain = mean_psnr(rows, "base") - mean_psnr(rows, "bicubic")
    say(accelerator, f"wrote {cfg.output_dir}: {gain:+.3f} dB over bicubic on {validation.name}")
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
