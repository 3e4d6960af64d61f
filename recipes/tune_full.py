"""Adapt a base to a codec by tuning every parameter (Table 3, row iii; row v is ours).

    accelerate launch recipes/tune_full.py --codec webp

On a prompt-free base prompts are added first (row iii); on a prompted base everything is trained
from where row iv starts (row v), the fair comparison of prompts against everything. It leaves a
whole network, not an adapter. ``--trainable norms+biases`` trains only those, all over the network.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ucip_adapt.assets import ALIASES
from ucip_adapt.codecs.base import short_name
from ucip_adapt.config import option, run_recipe
from ucip_adapt.errors import ConfigError
from ucip_adapt.evaluation import mean_psnr
from ucip_adapt.hub.folders import publish_base, push_folder
from ucip_adapt.hub.stages import previous_stages, stage_summary
from ucip_adapt.models import UCIP
from ucip_adapt.training.collective import finish_training
from ucip_adapt.training.damage import codec_digests
from ucip_adapt.training.ema import EMA
from ucip_adapt.training.guard import GuardedStep, check_finite
from ucip_adapt.training.last import weights_kept
from ucip_adapt.training.losses import LOSSES
from ucip_adapt.training.options import TuningOptions
from ucip_adapt.training.results import run_record
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
from ucip_adapt.tuning import full_tuning, norms_and_biases, protocol_for

CHOOSE = {"everything": full_tuning, "norms+biases": norms_and_biases}
"""What makes each set trainable."""

RATES = {"everything": 1e-4, "norms+biases": 1e-3}
"""Peak learning rates: the best on validation images, as a mean over the codecs that were tried
(docs/tuning.md, "Rates that were tried")."""


@dataclass(frozen=True)
class Options(TuningOptions):
    """Options of the recipe; those of every tuning run come first."""

    trainable: Literal["everything", "norms+biases"] = option("everything", "What is trained.")
    name: str = option("ucip-tuned", "Name for the card.")


def main(cfg: Options) -> dict[str, Any]:
    """Tune; returns what results.json holds."""
    clock = Clock()
    settings = tuning_settings(cfg)
    rate = RATES[cfg.trainable] if cfg.learning_rate is None else cfg.learning_rate
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
    base.to(accelerator.device)
    everything = cfg.trainable == "everything"
    if cfg.protocol is not None and not everything:
        raise ConfigError(f"--protocol {cfg.protocol}: {cfg.trainable} is no row of Table 3")
    protocol = protocol_for(base, cfg.protocol, everything=True)
    row = f"{protocol.name}: {protocol.text}"
    model = UCIP.from_pretrained(cfg.pretrained_model_name_or_path, revision=cfg.revision)
    named = CHOOSE[cfg.trainable](model)
    parameters = [parameter for _, parameter in named]
    if cfg.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if cfg.sampler is not None:
        model.use_sampler(cfg.sampler)
    describe(
        cfg,
        accelerator,
        settings,
        base,
        protocol=row if everything else f"none, beside row {protocol.name}",
        trained=cfg.trainable,
        count=sum(parameter.numel() for parameter in parameters),
    )
    if cfg.dry_run:
        return {}

    validation, sets = load_sets(cfg)
    crops = training_crops(cfg, settings, accelerator, measured=(validation, *sets))
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=(cfg.adam_beta1, cfg.adam_beta2))
    model, optimizer = accelerator.prepare(model, optimizer)
    tuned = accelerator.unwrap_model(model, keep_torch_compile=False)
    result = Adaptation(cfg, accelerator, settings, base, tuned, "full")
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
    critical = ("pretrained_model_name_or_path", "codec", "qualities", "trainable")
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
        # The tuned network is measured in the same precision as the base beside it.
        accelerator.unwrap_model(model, keep_fp32_wrapper=False, keep_torch_compile=False)
        if ema is not None:
            ema.write_back()
        check_finite(named, what="no result is written: the trained weights")
        rows = result.score(sets)
    clock.lap("evaluation")
    record = run_record(
        "tune_full",
        cfg,
        seconds={**clock.seconds, "per_step": clock.seconds["training"] / step},
        parameters={
            "total": tuned.num_parameters(),
            "trained": sum(parameter.numel() for parameter in parameters),
            "base_fingerprint": base.fingerprint,
            "codec_fingerprints": list(codecs.items()),
            "fingerprint": tuned.fingerprint,
            "protocol": protocol.name if everything else None,
            "stages": previous_stages(cfg.pretrained_model_name_or_path),
        },
        scores={
            "rows": [row.to_dict() for row in rows],
            "curve": curve.points,
            "skipped_steps": guard.skipped,
        },
    )
    this = stage_summary(record["config"], record["seconds"], record["environment"])
    record["parameters"]["stages"].append(this)
    if accelerator.is_main_process:
        picture = functools.partial(result.picture, validation)
        publish_base(tuned, cfg.output_dir, record, name=cfg.name, picture=picture)
        if cfg.push_to_hub:
            own_name = f"ucip-{short_name(cfg.codec)}-full"
            push_folder(cfg.output_dir, cfg.hub_model_id, default_name=own_name)
    finish_training(accelerator)
    if caution := result.caution(rows):
        say(accelerator, caution)
    say(
        accelerator,
        f"wrote {cfg.output_dir}: model.safetensors, README.md, results.json, before_after.png; "
        f"{result.gain_line(rows)}; "
        f"gain {mean_psnr(rows, 'full') - mean_psnr(rows, 'base'):+.3f} dB",
    )
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
