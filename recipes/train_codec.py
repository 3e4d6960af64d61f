r"""Train one of the tiny learned codecs.

    python recipes/train_codec.py --codec tiny-mse --train_data_dir CID22 embedded \
        --max_train_steps 8500 --output_dir runs/tiny-mse

leaves the codec's file of weights and tables, and results.json. ``tiny-msssim`` and
``tiny-perceptual`` start from a codec that was trained for the squared error::

    python recipes/train_codec.py --codec tiny-msssim \
        --start_from runs/tiny-mse/tiny-mse.safetensors
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ucip_adapt.codecs.learned import TINY_CODECS
from ucip_adapt.codecs.learned.crops import CodecCrop, CodecCrops, reduced
from ucip_adapt.codecs.learned.discriminator import PatchDiscriminator, discriminator_loss
from ucip_adapt.codecs.learned.ms_ssim import ms_ssim
from ucip_adapt.codecs.learned.network import TinyNetwork, build_network
from ucip_adapt.codecs.learned.presets import Distortion, get_preset
from ucip_adapt.codecs.learned.rate_means import RateMeans
from ucip_adapt.codecs.learned.scoring import score_codec
from ucip_adapt.codecs.learned.starting import start_from
from ucip_adapt.codecs.learned.weights import save_codec
from ucip_adapt.config import option, run_recipe, unused
from ucip_adapt.data import load_eval_set
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import ConfigError
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.training.collective import finish_training
from ucip_adapt.training.ema import EMA
from ucip_adapt.training.guard import GuardedStep, check_finite
from ucip_adapt.training.losses import Loss
from ucip_adapt.training.options import TrainingOptions
from ucip_adapt.training.results import run_record, write_results
from ucip_adapt.training.run import (
    Clock,
    Curve,
    hardware_line,
    make_accelerator,
    make_checkpoints,
    progress_bar,
    resume_run,
    say,
    training_paths,
)
from ucip_adapt.training.sampler import StepBatchSampler
from ucip_adapt.training.schedule import learning_rate_at, set_learning_rate
from ucip_adapt.training.signals import StopRequest, isolate_worker


@dataclass(frozen=True)
class Options(TrainingOptions):
    """Options of the recipe; those of every training run come first."""

    codec: Literal["tiny-mse", "tiny-msssim", "tiny-perceptual", "tiny-elic"] = option(
        "tiny-mse", "Which codec."
    )
    weights: tuple[float, ...] = option(
        (), "Weight of the distortion at each rate, rising; default: the codec's own.", minimum=0.0
    )
    adversarial: float | None = option(
        None, "Weight of the discriminator's opinion; default: the codec's own.", minimum=0.0
    )
    start_from: Path | None = option(None, "File of a codec to start from.")
    patch_size: int = option(64, "Side of a training crop.", unit="pixels", minimum=48)
    ema_decay: float | None = option(0.999, "Decay of the averaged weights that are kept.")
    checkpointing_steps: int = option(
        0, "Publish a checkpoint every so many steps; 0 only when asked to stop.", minimum=0
    )
    log_steps: int = option(200, "Print rates and distortions every so many steps.", minimum=1)
    suite_dir: Path | None = unused(None, "a codec learns from clean images")
    gradient_accumulation_steps: int = unused(1, "a codec makes a step of every batch")
    loss: Loss = unused("psnr", "a codec has its own, of bits and --codec's distortion")
    sampler: Sampler | None = unused(None, "a codec fetches no tokens")
    gradient_checkpointing: bool = unused(False, "a codec keeps its activations")
    validation_steps: int = unused(0, "a codec is measured at the end only")

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return 1e-3 if self.learning_rate is None else self.learning_rate


def resolve_defaults(cfg: Options) -> Options:
    """Fill in what the codec decides."""
    preset = get_preset(cfg.codec)
    adversarial = preset.adversarial if cfg.adversarial is None else cfg.adversarial
    if adversarial and cfg.start_from is None:
        raise ConfigError(
            f"--codec {cfg.codec} trains only a decoder: give --start_from, the file of a tiny-mse"
        )
    return dataclasses.replace(
        cfg,
        learning_rate=cfg.rate,
        weights=cfg.weights or preset.weights,
        adversarial=adversarial,
        ema_decay=0.0 if cfg.ema_decay is None else cfg.ema_decay,
    )


def first_steps(weights: tuple[float, ...]) -> list[float]:
    """Quantisation steps at which a bit more and a bit of error less cost the same.

    For a fine uniform quantiser: when ``ln s`` grows by one, bits fall by ``1 / ln 2`` and the
    squared error grows by ``s ** 2 / 6``.
    """
    return [(6 / 0.6931 / (weight * 255**2 / 3)) ** 0.5 for weight in weights]


def distortion_of(kind: Distortion, pixels: Tensor, image: Tensor) -> Tensor:
    """Squared error in 8-bit levels, or ``1 - MS-SSIM``, of each image."""
    if kind == "mse":
        return 255**2 * (pixels - image).square().mean(dim=(1, 2, 3))
    return 1 - ms_ssim(pixels, image, data_range=1.0)


def prepare_network(cfg: Options, crops: CodecCrops) -> TinyNetwork:
    """Make the network, from another codec's weights or from cosines."""
    network = build_network(get_preset(cfg.codec).config)
    if cfg.start_from is not None:
        start_from(network, cfg.start_from)
    else:
        sample = torch.stack([crops[index]["image"] for index in range(64)])
        network.calibrate(sample, first_steps(cfg.weights))
    return network


def main(cfg: Options) -> dict[str, Any]:
    """Train; returns what results.json holds, on the main process."""
    clock = Clock()
    cfg = resolve_defaults(cfg)
    preset = get_preset(cfg.codec)
    accelerator = make_accelerator(cfg)
    images = reduced(training_paths(cfg))
    crops = CodecCrops(images, patch_size=cfg.patch_size, seed=cfg.seed)
    network = prepare_network(cfg, crops)
    started_from = None if cfg.start_from is None else sha256_of(cfg.start_from)
    if cfg.adversarial:
        # Only the decoder: the rates stay those of the codec that it starts from, to the byte, and
        # the opponent cannot be pleased by spending bits.
        network.requires_grad_(False).synthesis.requires_grad_(True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    count = sum(p.numel() for p in network.parameters())
    say(
        accelerator,
        f"images     {len(images)} from {', '.join(cfg.train_data_dir)}, at 1/4 and 1/2",
        f"codec      {cfg.codec}, {count:,} parameters, "
        f"{sum(p.numel() for p in parameters):,} trained, from {cfg.start_from or 'cosines'}",
        f"weights    {', '.join(f'{w:g}' for w in cfg.weights)} of {preset.distortion}",
        f"steps      {cfg.max_train_steps} of {cfg.train_batch_size} crops of {cfg.patch_size} x "
        f"{cfg.patch_size} pixels",
        f"hardware   {hardware_line()}",
    )
    if cfg.dry_run:
        return {}
    validation = load_eval_set(cfg.validation_data_dir, data_root(cfg.data))
    betas = (cfg.adam_beta1, cfg.adam_beta2)
    optimizer = torch.optim.Adam(parameters, lr=cfg.rate, betas=betas)
    model, optimizer = accelerator.prepare(network, optimizer)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    ema = EMA(trained, decay=cfg.ema_decay or 0.0)
    opponent = None
    if cfg.adversarial:
        opponent = PatchDiscriminator()
        judge_optimizer = torch.optim.Adam(opponent.parameters(), lr=4e-4, betas=(0.5, 0.9))
        judge, judge_optimizer = accelerator.prepare(opponent, judge_optimizer)
        judge_guard = GuardedStep(
            accelerator,
            judge_optimizer,
            list(opponent.parameters()),
            policy=cfg.nonfinite,
            max_grad_norm=cfg.max_grad_norm,
        )
    accelerator.register_for_checkpointing(ema)
    accelerator.register_for_checkpointing(clock)
    curve = Curve()
    accelerator.register_for_checkpointing(curve)
    guard = GuardedStep(
        accelerator, optimizer, parameters, policy=cfg.nonfinite, max_grad_norm=cfg.max_grad_norm
    )
    accelerator.register_for_checkpointing(guard)
    means = RateMeans(accelerator, len(cfg.weights))
    accelerator.register_for_checkpointing(means)
    if cfg.adversarial:  # last: checkpoints of earlier versions end before it
        accelerator.register_for_checkpointing(judge_guard)
    checkpoints = make_checkpoints(
        cfg,
        accelerator,
        critical=("codec", "weights", "adversarial", "start_from"),
        start_fingerprint=started_from,
        images_sha256=crops.images_sha256(),
    )
    step = resume_run(cfg, accelerator, checkpoints, optimizer)
    weights = torch.tensor(cfg.weights, device=accelerator.device)
    # Without this the best rate, whose cost is largest, would have most of the gradient.
    balance = (weights.log().mean().exp() / weights).sqrt()
    clock.lap("data")

    sampler = StepBatchSampler(
        cfg.train_batch_size,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        accumulation=1,
        start_step=step,
        stop_step=cfg.max_train_steps,
    )
    loader: DataLoader[CodecCrop] = DataLoader(
        crops,
        batch_sampler=sampler,
        num_workers=cfg.dataloader_num_workers,
        worker_init_fn=isolate_worker,
        generator=torch.Generator(),
    )
    with StopRequest() as stop, progress_bar(cfg, accelerator, step) as bar:
        for batch in loader:
            learning_rate = learning_rate_at(
                step,
                schedule=cfg.lr_scheduler,
                learning_rate=cfg.rate,
                warmup_steps=cfg.warmup_steps,
                max_steps=cfg.schedule_steps,
                milestones=cfg.lr_milestones,
            )
            set_learning_rate(optimizer, learning_rate)
            image, ids = batch["image"].to(accelerator.device), batch["index"].tolist()
            rate = batch["index"].to(accelerator.device) % len(weights)
            coded = model(image, rate)
            bpp = coded.bits / image[0, 0].numel()
            distortion = distortion_of(preset.distortion, coded.pixels, image)
            loss = (balance[rate] * (bpp + weights[rate] * distortion)).mean()
            if opponent is not None:
                hint = network.plain(coded.latents)
                judged = judge(coded.pixels.detach(), hint)
                judge_guard.backward(discriminator_loss(judge(image, hint), judged), ids)
                judge_guard.step(step)
                opponent.requires_grad_(False)
                loss = loss - (cfg.adversarial or 0.0) * judge(coded.pixels, hint).mean()
            guard.backward(loss, sample_ids=ids)
            if opponent is not None:
                opponent.requires_grad_(True)
            if guard.step(step):
                ema.update(step)
                means.add(rate, bpp, distortion)
            step += 1
            bar.update()
            bar.set_postfix(
                loss=f"{guard.running_loss:.4f}", lr=f"{learning_rate:.1e}", skipped=guard.skipped
            )
            logged = {"train_loss": guard.last_loss, "learning_rate": learning_rate}
            if step % cfg.log_steps == 0:
                bpps, distortions = means.take()
                curve.append({"step": step, "bpp": bpps, preset.distortion: distortions})
                for i, (b, d) in enumerate(zip(bpps, distortions, strict=True), start=1):
                    logged |= {f"bpp/{i}": b, f"{preset.distortion}/{i}": d}
                pairs = zip(bpps, distortions, strict=True)
                text = ", ".join(f"{b:.3f} bpp {d:.4g}" for b, d in pairs)
                say(accelerator, f"step {step}: loss {guard.running_loss:.4f}; {text}")
            accelerator.log(logged, step=step)
            asked = stop.agreed(accelerator)
            if asked or (cfg.checkpointing_steps and step % cfg.checkpointing_steps == 0):
                checkpoints.save(step)
            if asked and step < cfg.max_train_steps:
                say(accelerator, f"stopped at step {step}; --resume_from_checkpoint latest goes on")
                return {}
    clock.lap("training")

    guard.check_trained()
    ema.write_back()
    check_finite(network.named_parameters(), what="no codec is written: the trained weights")
    if not accelerator.is_main_process:  # all have the same network; one writes and measures it
        finish_training(accelerator)
        return {}
    path = cfg.output_dir / f"{cfg.codec}.safetensors"
    notes = {
        "train_data_dir": [Path(name).name for name in cfg.train_data_dir],
        "distortion": preset.distortion,
        "weights": cfg.weights,
        "adversarial": cfg.adversarial,
        "steps": step,
        "seed": cfg.seed,
        "started_from": started_from,
        "license": "CC-BY-SA-4.0",
    }
    save_codec(path, cfg.codec, network, notes)
    codec = dataclasses.replace(TINY_CODECS[cfg.codec], weights=path)
    scores = score_codec(codec, [image.lr for image in validation.images], codec.spec.qualities)
    clock.lap("evaluation")
    for score in scores:
        say(accelerator, f"{cfg.codec}: {score}")
    record = run_record(
        "train_codec",
        cfg,
        seconds=clock.seconds,
        parameters={
            "total": count,
            "trained": sum(p.numel() for p in parameters),
            "bytes": path.stat().st_size,
        },
        scores={
            "set": validation.name,
            "rows": [dataclasses.asdict(score) for score in scores],
            "curve": curve.points,
            "skipped_steps": guard.skipped,
            "skipped_steps_of_opponent": judge_guard.skipped if cfg.adversarial else 0,
        },
        files={path.name: sha256_of(path)},
    )
    write_results(cfg.output_dir / "results.json", record)
    finish_training(accelerator)
    say(accelerator, f"wrote {path}: {path.stat().st_size:,} bytes")
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
