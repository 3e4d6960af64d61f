"""What the tuning recipes share before and after their loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.base import short_name
from ucip_adapt.codecs.streams import StoredCodec, use_streams
from ucip_adapt.data import EvalSet, Setting, load_eval_set, parse_settings
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import compress_lr, require_codec
from ucip_adapt.errors import DataError
from ucip_adapt.evaluation import (
    ScoreRow,
    Upscale,
    bicubic,
    check_names,
    evaluate_sets,
    mean_psnr,
    network_upscaler,
    source_of,
    summarise,
)
from ucip_adapt.hub.pictures import comparison_picture
from ucip_adapt.models import UCIP
from ucip_adapt.training.damage import code_first
from ucip_adapt.training.options import TuningOptions
from ucip_adapt.training.run import cache_of, hardware_line, images_line, say

__all__ = ["PROTOCOL_IDS", "Adaptation", "describe", "load_sets", "tuning_settings"]

PROTOCOL_IDS = ("y-c4", "rgb-c4")
"""Protocols that every results file of a tuning run holds."""


def tuning_settings(cfg: TuningOptions) -> list[Setting]:
    """The codec at the qualities asked for, or at those of its suite.

    From here on HM and VTM read what is stored of their streams in the data folder.

    Raises:
        UcipError: If the codec is unknown or not available, or a quality is out of range.
    """
    use_streams([cfg.codec], data_root(cfg.data))
    settings = parse_settings(cfg.codec, cfg.qualities or None, allow_command=cfg.allow_command)
    require_codec(cfg.codec)
    return settings


def load_sets(cfg: TuningOptions) -> tuple[EvalSet, list[EvalSet]]:
    """The validation set and the sets to be measured on, loaded before the training starts.

    The first image of each is coded, at every quality, and every one is looked up where the codec
    goes by names: what a codec cannot do is known before hours of training, not after.

    Raises:
        ConfigError: If there is no set to measure on, or two have one name.
        CodecError: If the codec fails on an image.
        DataError: If an image cannot be used, or there is no way to get the codec's version of
            the validation images or of any set.
    """
    root = data_root(cfg.data)
    sets = {name: load_eval_set(name, root, limit=cfg.max_eval_images) for name in cfg.evaluate_on}
    check_names("image set of --evaluate_on", [one.name for one in sets.values()])
    validation = sets.get(cfg.validation_data_dir)
    validation = validation or load_eval_set(cfg.validation_data_dir, root)
    named = {"--validation_data_dir": [validation], "--evaluate_on": list(sets.values())}
    for kind, needed in named.items():
        reasons = [_cannot_be_coded(one, cfg) for one in needed]
        if reasons and all(reasons):
            raise DataError(f"{kind}: {reasons[0]}")
    settings = parse_settings(cfg.codec, cfg.qualities or None, allow_command=cfg.allow_command)
    for one in (validation, *(other for other in sets.values() if other is not validation)):
        options = [option for option, its in named.items() if any(other is one for other in its)]
        code_first(one, settings, cache_of(cfg), option=" and ".join(options))
    return validation, list(sets.values())


def _cannot_be_coded(image_set: EvalSet, cfg: TuningOptions) -> str:
    """Why a set has no score under the codec; empty if it has."""
    qualities = cfg.qualities or None
    for setting in parse_settings(cfg.codec, qualities, allow_command=cfg.allow_command):
        codec, reason = source_of(image_set, setting)
        if codec is None:
            return f"{image_set.name} at {setting}: {reason}"
    return ""


def describe(
    cfg: TuningOptions,
    accelerator: Accelerator,
    settings: Sequence[Setting],
    base: UCIP,
    *,
    protocol: str,
    trained: str,
    count: int,
) -> None:
    """Print what a run is going to do: data, model, what is trained, steps."""
    batch = cfg.train_batch_size * accelerator.num_processes * cfg.gradient_accumulation_steps
    total = sum(tensor.numel() for tensor in base.base_tensors().values())
    say(
        accelerator,
        f"images     {images_line(cfg)}",
        f"codec      {cfg.codec} at {', '.join(str(s.quality) for s in settings)}{_source(cfg)}",
        f"base       {cfg.pretrained_model_name_or_path}: {base.config.num_blocks} blocks, prompt "
        f"'{base.config.prompt}', {total:,} parameters, fingerprint {base.fingerprint[:12]}",
        f"protocol   {protocol}",
        f"trained    {trained}: {count:,} parameters, {4 * count:,} bytes, "
        f"{100 * count / total:.2f} % of the base",
        f"steps      {cfg.max_train_steps} of {batch} crops ({accelerator.num_processes} "
        f"processes x {cfg.train_batch_size} x {cfg.gradient_accumulation_steps}) of "
        f"{cfg.patch_size} x {cfg.patch_size} LQ pixels, rate {cfg.learning_rate:g}",
        f"hardware   {hardware_line()}",
    )


def _source(cfg: TuningOptions) -> str:
    codec = get_codec(cfg.codec)
    return f" ({codec.source})" if isinstance(codec, StoredCodec) else ""


@dataclass(frozen=True)
class Adaptation:
    """A base and what tuning made of it, ready to be measured.

    Attributes:
        cfg: Options of the run.
        accelerator: Its accelerator.
        settings: Codec and qualities.
        base: Network before tuning (with ``unadapted`` entered, if that is given).
        adapted: Network after tuning; may be the same object.
        label: Name of the tuned method in tables.
        unadapted: Makes ``base`` what it was before, such as PEFT's ``disable_adapter``.
    """

    cfg: TuningOptions
    accelerator: Accelerator
    settings: Sequence[Setting]
    base: UCIP
    adapted: UCIP
    label: str
    unadapted: Callable[[], AbstractContextManager[Any]] = nullcontext

    def methods(self) -> dict[str, Upscale]:
        """Bicubic, the base, and the base after tuning."""
        plain = network_upscaler(self.base.upscale, self.accelerator.device)

        def before(lq: NDArray[np.uint8]) -> NDArray[np.uint8]:
            with self.unadapted():
                return plain(lq)

        after = network_upscaler(self.adapted.upscale, self.accelerator.device)
        return {"bicubic": bicubic, "base": before, self.label: after}

    def score(self, sets: Sequence[EvalSet], *, progress: bool = True) -> list[ScoreRow]:
        """Scores of all methods on the sets; the same on every process."""
        rows = evaluate_sets(
            self.methods(),
            sets,
            self.settings,
            PROTOCOL_IDS,
            cache=cache_of(self.cfg),
            accelerator=self.accelerator,
            progress=progress and self.accelerator.is_local_main_process,
        )
        if progress:
            say(self.accelerator, summarise(rows, reference="base"))
        return rows

    def validate(self, validation: EvalSet) -> dict[str, float]:
        """Mean PSNR (y-c4) after tuning so far, in dB."""
        methods = {self.label: self.methods()[self.label]}
        rows = evaluate_sets(
            methods,
            [validation],
            self.settings,
            ["y-c4"],
            cache=cache_of(self.cfg),
            accelerator=self.accelerator,
        )
        return {"val_psnr_db": mean_psnr(rows, self.label)}

    def picture(self, validation: EvalSet, path: Path) -> None:
        """Write a picture of all methods: the first validation image at the last quality."""
        image, setting = validation.images[0], self.settings[-1]
        lq = compress_lr(image.lr, setting, cache_of(self.cfg), name=image.name)
        methods: Mapping[str, Upscale] = self.methods()
        title = f"input\n{short_name(setting.codec)}:{setting.quality}"
        comparison_picture(path, image, lq, methods, title=title)

    def caution(self, rows: Sequence[ScoreRow]) -> str:
        """A line that names the sets on which the base alone is at least as good; else empty."""
        behind = []
        for dataset in dict.fromkeys(row.dataset for row in rows if row.images):
            own = [row for row in rows if row.dataset == dataset and row.images]
            if mean_psnr(own, self.label) <= mean_psnr(own, "base"):
                behind.append(dataset)
        if not behind:
            return ""
        return (
            f"note       on {', '.join(behind)} the base alone is at least as good: use it without "
            "what was trained here, or try more steps, more images or a lower --learning_rate"
        )

    def gain_line(self, rows: Sequence[ScoreRow]) -> str:
        """One phrase: what tuning gained, per set."""
        phrases = []
        for dataset in dict.fromkeys(row.dataset for row in rows):
            own = [row for row in rows if row.dataset == dataset and row.images]
            if not own:
                phrases.append(f"{dataset} -")
                continue
            after = mean_psnr(own, self.label)
            phrases.append(
                f"{dataset} {after - mean_psnr(own, 'base'):+.3f} dB over the base, "
                f"{after - mean_psnr(own, 'bicubic'):+.3f} over bicubic"
            )
        return "; ".join(phrases) + " (y-c4)"
