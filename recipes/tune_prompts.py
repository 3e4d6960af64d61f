"""Adapt a base to a codec by tuning its prompts only (Table 3, rows ii and iv).

    accelerate launch recipes/tune_prompts.py --codec webp

leaves a PEFT adapter of a few kilobytes, its card, its scores and a picture in --output_dir. On a
prompted base this is row iv, on a prompt-free one row ii. ``--peft_method lora`` or ``dora`` tunes
PEFT's own adapters at the same parameter budget, for comparison.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model

from ucip_adapt.assets import ALIASES
from ucip_adapt.codecs.base import short_name
from ucip_adapt.config import option, run_recipe
from ucip_adapt.evaluation import mean_psnr
from ucip_adapt.hub.folders import publish_adapter, push_folder
from ucip_adapt.models import UCIP
from ucip_adapt.training.collective import finish_training
from ucip_adapt.training.damage import codec_digests
from ucip_adapt.training.ema import EMA
from ucip_adapt.training.guard import GuardedStep, check_finite
from ucip_adapt.training.last import weights_kept
from ucip_adapt.training.losses import LOSSES
from ucip_adapt.training.options import TuningOptions
from ucip_adapt.training.results import portable, run_record
from ucip_adapt.training.run import (
    Clock,
    Curve,
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
from ucip_adapt.training.tuning_run import Adaptation, describe, load_sets, tuning_settings
from ucip_adapt.tuning import (
    DynamicPromptConfig,
    add_prompt_adapter,
    count_adapter,
    count_parameters,
    lora_config,
    protocol_for,
    trainable_parameters,
)
from ucip_adapt.tuning.base_names import is_base_folder


@dataclass(frozen=True)
class Options(TuningOptions):
    """Options of the recipe; those of every tuning run come first."""

    trainable: Literal["basis", "dpm", "dpm+offset", "dpm+offset+spade"] = option(
        "dpm", "Which parameters are the prompts."
    )
    trainable_blocks: str = option("all", "Blocks whose prompts are trained: all, or last:N.")
    peft_method: Literal["prompts", "lora", "dora"] = option(
        "prompts", "What to train; lora and dora take the budget of --trainable."
    )


RATES = {
    "basis": 3e-2,
    "dpm": 3e-2,
    "dpm+offset": 3e-3,
    "dpm+offset+spade": 1e-3,
    "lora": 1e-2,
    "dora": 1e-2,
}
"""Peak learning rates: the best on validation images, as a mean over the codecs that were tried
(docs/tuning.md, "Rates that were tried")."""


def add_adapter(base: UCIP, cfg: Options) -> PeftModel:
    """Wrap the base with what is to be trained."""
    config = DynamicPromptConfig(
        codec=portable(cfg.codec),  # published: without paths of this machine
        qualities=list(cfg.qualities),
        trainable_set=cfg.trainable,
        trainable_blocks=cfg.trainable_blocks,
    )
    if cfg.peft_method == "prompts":
        return add_prompt_adapter(base, config)
    budget = count_adapter(base.config, config)
    other = lora_config(
        base,
        budget=budget,
        dora=cfg.peft_method == "dora",
        trainable_blocks=cfg.trainable_blocks,
    )
    return get_peft_model(base, other)


def main(cfg: Options) -> dict[str, Any]:
    """Tune; returns what results.json holds."""
    clock = Clock()
    method = cfg.trainable if cfg.peft_method == "prompts" else cfg.peft_method
    settings = tuning_settings(cfg)
    rate = RATES[method] if cfg.learning_rate is None else cfg.learning_rate
    qualities = tuple(setting.quality for setting in settings)
    base_name = ALIASES.get(cfg.pretrained_model_name_or_path, cfg.pretrained_model_name_or_path)
    cfg = dataclasses.replace(
        cfg,
        learning_rate=rate,
        qualities=qualities,
        pretrained_model_name_or_path=base_name,  # the newest base of today, by its own name
    )
    accelerator = make_accelerator(cfg)
    base = UCIP.from_pretrained(cfg.pretrained_model_name_or_path, revision=cfg.revision)
    # Asked now: what is a folder today may look like a repository when the run has ended.
    base_is_folder = is_base_folder(cfg.pretrained_model_name_or_path)
    protocol = protocol_for(base, cfg.protocol, everything=False)
    row = f"{protocol.name}: {protocol.text}"
    if cfg.gradient_checkpointing:
        base.enable_gradient_checkpointing()
    if cfg.sampler is not None:
        base.use_sampler(cfg.sampler)
    total = base.num_parameters()
    model = add_adapter(base, cfg)
    named = trainable_parameters(model)
    parameters = [parameter for _, parameter in named]
    trained = count_parameters(model).trainable
    describe(
        cfg,
        accelerator,
        settings,
        base,
        protocol=row if cfg.peft_method == "prompts" else f"none, beside row {protocol.name}",
        trained=f"{method}, blocks {cfg.trainable_blocks}",
        count=trained,
    )
    if cfg.dry_run:
        return {}

    validation, sets = load_sets(cfg)
    crops = training_crops(cfg, settings, accelerator, measured=(validation, *sets))
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=(cfg.adam_beta1, cfg.adam_beta2))
    model, optimizer = accelerator.prepare(model, optimizer)
    tuned = accelerator.unwrap_model(model, keep_torch_compile=False)
    result = Adaptation(
        cfg, accelerator, settings, base, base, "adapter", unadapted=tuned.disable_adapter
    )
    ema = EMA(named, decay=cfg.ema_decay) if cfg.ema_decay is not None else None
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    accelerator.register_for_checkpointing(clock)
    curve = Curve()
    accelerator.register_for_checkpointing(curve)
    guard = GuardedStep(
        accelerator, optimizer, parameters, policy=cfg.nonfinite, max_grad_norm=cfg.max_grad_norm
    )
    accelerator.register_for_checkpointing(guard)
    critical = (
        "pretrained_model_name_or_path",
        "codec",
        "qualities",
        "trainable",
        "trainable_blocks",
        "peft_method",
    )
    codecs = codec_digests(settings)
    checkpoints = make_checkpoints(
        cfg,
        accelerator,
        critical=critical,
        base_fingerprint=base.fingerprint,
        images_sha256=crops.images_sha256(),
        codecs=codecs,
    )
    step = resume_run(cfg, accelerator, checkpoints, optimizer)
    compute_loss = LOSSES[cfg.loss]
    clock.lap("data")

    with StopRequest() as stop, progress_bar(cfg, accelerator, step) as bar:
        for batch in training_loader(cfg, crops, accelerator, step):
            with accelerator.accumulate(model):
                now = learning_rate_at(
                    step,
                    schedule=cfg.lr_scheduler,
                    learning_rate=rate,
                    warmup_steps=cfg.warmup_steps,
                    max_steps=cfg.schedule_steps,
                    milestones=cfg.lr_milestones,
                )
                set_learning_rate(optimizer, now)
                sr = model(batch["lq"].to(accelerator.device))
                loss = compute_loss(sr.float(), batch["gt"].to(accelerator.device))
                guard.backward(loss, sample_ids=batch["index"].tolist())
                if accelerator.sync_gradients and guard.step(step) and ema is not None:
                    ema.update(step)
            if not accelerator.sync_gradients:
                continue
            step += 1
            bar.update()
            loss_so_far = guard.running_loss
            bar.set_postfix(loss=f"{loss_so_far:.4f}", lr=f"{now:.1e}", skipped=guard.skipped)
            accelerator.log({"train_loss": guard.last_loss, "learning_rate": now}, step=step)
            if cfg.validation_steps and step % cfg.validation_steps == 0:
                clock.lap("training")
                curve.append(
                    {"step": step, "train_loss": loss_so_far, **result.validate(validation)}
                )
                accelerator.log(curve.points[-1], step=step)
                clock.lap("validation")
            asked = stop.agreed(accelerator)
            if asked or (cfg.checkpointing_steps and step % cfg.checkpointing_steps == 0):
                checkpoints.save(step)
            if asked and step < cfg.max_train_steps:
                resume = "--resume_from_checkpoint latest"
                say(accelerator, f"stopped at step {step}; go on with {resume}")
                return {}
    clock.lap("training")
    guard.check_trained()

    with weights_kept(accelerator, checkpoints, step):
        if ema is not None:
            ema.write_back()
        check_finite(named, what="no result is written: the trained weights")
        rows = result.score(sets)
    clock.lap("evaluation")
    record = run_record(
        "tune_prompts",
        cfg,
        seconds={**clock.seconds, "per_step": clock.seconds["training"] / step},
        parameters={
            "total": total,
            "trained": trained,
            "base_fingerprint": base.fingerprint,
            "codec_fingerprints": list(codecs.items()),
            "base_is_folder": base_is_folder,
            "protocol": protocol.name,
        },
        scores={
            "rows": [row.to_dict() for row in rows],
            "curve": curve.points,
            "skipped_steps": guard.skipped,
        },
    )
    if accelerator.is_main_process:
        picture = functools.partial(result.picture, validation)
        record = publish_adapter(tuned, cfg.output_dir, record, picture=picture)
        if cfg.push_to_hub:
            own_name = f"ucip-{short_name(cfg.codec)}"
            push_folder(cfg.output_dir, cfg.hub_model_id, default_name=own_name)
    finish_training(accelerator)
    if caution := result.caution(rows):
        say(accelerator, caution)
    size = record["parameters"].get("adapter_bytes", 0)
    say(
        accelerator,
        f"wrote {cfg.output_dir}: adapter_model.safetensors ({size:,} bytes), README.md, "
        f"results.json, before_after.png; {result.gain_line(rows)}; "
        f"gain {mean_psnr(rows, 'adapter') - mean_psnr(rows, 'base'):+.3f} dB",
    )
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
