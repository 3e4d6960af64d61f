"""Measure a base, alone or with an adapter, on benchmark sets (Table 3, row i, and any other).

    python recipes/evaluate.py --codec webp --evaluate_on Set5 Set14 --data DATA
    python recipes/evaluate.py --codec webp --adapter runs/webp
    python recipes/evaluate.py --codec hm --evaluate_on Set5 --data DATA
    python recipes/evaluate.py --codec webp --adapter dpm=runs/dpm everything=runs/full
    python recipes/evaluate.py --suite ucsr-open --adapter noprompt=ucip-tiny-noprompt

Prints a table and writes results.json: bicubic, the base, and every adapter or network given. A run
that was stopped goes on when it is started again with the same options and --output_dir.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftConfig, PeftModel

import ucip_adapt
from ucip_adapt.assets import shipped_adapter_folder, shipped_bases
from ucip_adapt.codecs.streams import REFERENCE, use_streams
from ucip_adapt.config import option, run_recipe
from ucip_adapt.data import ArrayCache, Setting, default_cache_dir, load_eval_set, parse_settings
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import require_codec
from ucip_adapt.errors import AdapterError, CodecError, ConfigError, DataError, UcipError
from ucip_adapt.evaluation import Upscale, bicubic, evaluate_sets, network_upscaler, summarise
from ucip_adapt.metrics import ScoreJournal, get_protocol
from ucip_adapt.models import UCIP
from ucip_adapt.models.fingerprint import fingerprint_of
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.training.collective import with_patience
from ucip_adapt.training.damage import codec_digests
from ucip_adapt.training.results import environment, run_record, write_results
from ucip_adapt.training.run import Clock, say
from ucip_adapt.tuning import load_prompt_adapter
from ucip_adapt.tuning.protocols import base_kind


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    pretrained_model_name_or_path: str = option(
        "ucip-tiny", "Base network: a shipped name, a folder, or a repository on the Hub."
    )
    revision: str | None = option(None, "Revision of the base on the Hub.")
    adapter: tuple[str, ...] = option(
        (),
        "Adapters or networks to compare with the base: PATH or NAME=PATH; shipped names too.",
    )
    baselines: Literal["both", "bicubic", "base"] = option(
        "both", "Which of bicubic and the base to measure."
    )
    skip_base: bool = option(False, "Measure only what --adapter names.")
    codec: str | None = option(
        None,
        "Codec to measure on: a name, or, with --allow_command, command:... or folder:PATH; "
        "default: webp, unless a suite is given.",
    )
    suite: str | None = option(
        None, "Measure on all settings of a suite instead: its name or a file.toml."
    )
    allow_command: bool = option(
        False, "CODEC or SUITE may name programs or folders of this machine.", flag_only=True
    )
    qualities: tuple[int, ...] = option((), "Its qualities; default: those of its suite.")
    protocol: Literal["i"] | None = option(None, "Row i of Table 3 asks for a prompted base.")
    evaluate_on: tuple[str, ...] = option(
        ("GB82-val",),
        "Sets: GB82-val, benchmarks under DATA or a part of one (BSD100/every4, "
        "Urban100/subset25), folders.",
    )
    max_images: int | None = option(None, "Only the first images of each set.", minimum=1)
    metric_protocols: tuple[str, ...] = option(("y-c4", "rgb-c4"), "Protocols to score under.")
    per_image: bool = option(False, "Keep the scores of every image in results.json as well.")
    window: str = option(
        "config", "'config', 'whole', a side in LQ pixels, or 'both': whole and config."
    )
    self_ensemble: bool = option(
        False,
        "Also measure each network as the mean over eight orientations of a picture ('ensemble').",
    )
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    cache_dir: Path | None = option(None, "Folder for decoded images.")
    output_dir: Path = option(Path("runs/evaluate"), "Folder that results.json goes to.")


def read_window(text: str) -> int | str | None:
    """Turn the option into what :meth:`UCIP.upscale` takes."""
    if text == "config":
        return "config"
    if text == "whole":
        return None
    if text.isdecimal() and int(text) >= 8:
        return int(text)
    raise ConfigError(f"--window {text}: give config, whole, both, or a number from 8")


def read_settings(cfg: Options, root: Path | None) -> tuple[list[Setting], list[dict[str, Any]]]:
    """What to measure on, and of a suite which codec fills each slot here."""
    if cfg.suite is None:
        codec = cfg.codec or "webp"
        use_streams([codec], root)  # HM and VTM: what is stored of their streams
        settings = parse_settings(codec, cfg.qualities or None, allow_command=cfg.allow_command)
        require_codec(codec)
        return settings, []
    if cfg.codec is not None or cfg.qualities:
        other = f"--codec {cfg.codec}" if cfg.codec is not None else "--qualities"
        raise ConfigError(f"--suite {cfg.suite} and {other}: a suite brings its own, give one")
    use_streams(REFERENCE, root)
    suite = load_suite(cfg.suite, allow_command=cfg.allow_command)
    filled = fill_suite(suite, allow_command=cfg.allow_command)
    return filled.settings, [slot.to_dict() for slot in filled.slots]


def read_models(texts: tuple[str, ...], base: str, revision: str | None) -> dict[str, UCIP]:
    """Load what is compared with the base: adapters, each on a base of its own, or networks."""
    models: dict[str, UCIP] = {}
    for text in texts:
        label, sign, path = text.partition("=")
        if not sign or Path(text).exists():  # a folder may have the sign in its name: lr=0.03/webp
            label, path = "", text
        label = label or ("adapter" if len(texts) == 1 else Path(path).name)
        if label in {*models, "bicubic", "base"}:
            raise ConfigError(f"--adapter {text}: the name '{label}' is taken; write NAME=PATH")
        if path in shipped_bases() or (Path(path) / "model.safetensors").is_file():
            models[label] = UCIP.from_pretrained(path)
        else:
            own = UCIP.from_pretrained(base, revision=revision)
            models[label] = load_adapter(own, str(shipped_adapter_folder(path) or path))
    return models


def load_adapter(base: UCIP, path: str) -> UCIP:
    """Put a prompt adapter, or one of PEFT's own methods, on a base."""
    try:
        if PeftConfig.from_pretrained(path).peft_type == "DYNAMIC_PROMPT":
            load_prompt_adapter(path, base)
        else:
            PeftModel.from_pretrained(base, path)
    except (ValueError, OSError) as error:
        if isinstance(error, UcipError):
            raise
        raise AdapterError(
            f"cannot load --adapter {path}: {error}. Give the folder of an adapter or of a tuned "
            "network, or an adapter's repository on the Hub"
        ) from error
    return base.eval()  # PEFT replaces modules inside the base itself


def build_methods(
    cfg: Options, models: dict[str, UCIP], device: torch.device
) -> dict[str, Upscale]:
    """Every network in each way asked for, and bicubic."""
    ways = {"": cfg.window} if cfg.window != "both" else {" whole": "whole", "": "config"}
    plain = not cfg.skip_base and cfg.baselines != "base"
    methods: dict[str, Upscale] = {"bicubic": bicubic} if plain else {}
    for label, model in models.items():
        model.to(device)
        for suffix, way in ways.items():
            for ensemble in (False, True) if cfg.self_ensemble else (False,):
                name = label + suffix + (" ensemble" if ensemble else "")
                if name in methods:
                    raise ConfigError(
                        f"two columns would be called '{name}': name the adapters otherwise, "
                        "--adapter NAME=PATH"
                    )
                methods[name] = network_upscaler(
                    model.upscale, device, window=read_window(way), ensemble=ensemble
                )
    return methods


def identity_of(model: UCIP) -> str:
    """Tell a network from any other: by its values, and by what it makes of noise.

    The values alone do not say how an adapter of PEFT's is scaled.
    """
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    answer = model.upscale(noise.to(next(model.parameters()).device)).float().cpu().numpy()
    values = fingerprint_of(model.state_dict(), model.config)
    return hashlib.sha256(answer.tobytes() + f"{values} {model.config}".encode()).hexdigest()


def digest_of_code(package: Path, recipe: Path) -> str:
    """What measures: a commit says nothing of files that have changed, and may be unknown."""
    digest = hashlib.sha256()
    for path in (*sorted(package.rglob("*.py")), recipe):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def open_journal(
    cfg: Options, models: Mapping[str, UCIP], methods: Iterable[str], accelerator: Accelerator
) -> ScoreJournal:
    """Where scores are kept until results.json is written."""
    made_by = environment(accelerator.device)
    context = {
        "networks": {label: identity_of(model) for label, model in models.items()},
        "methods": list(methods),
        "window": cfg.window,
        "protocols": list(cfg.metric_protocols),
        "made_by": {key: made_by[key] for key in ("versions", "system", "cpu", "gpu")},
        "code": digest_of_code(Path(ucip_adapt.__file__).parent, Path(__file__)),
    }
    journal = ScoreJournal(cfg.output_dir, context, rank=accelerator.process_index)
    accelerator.wait_for_everyone()  # no process finds what another one has just made
    return journal


def main(cfg: Options) -> dict[str, Any]:
    """Measure; returns what results.json holds."""
    clock = Clock()
    if cfg.skip_base and not cfg.adapter:
        raise ConfigError("--skip_base leaves nothing to measure: name something with --adapter")
    root = data_root(cfg.data)
    settings, slots = read_settings(cfg, root)
    for name in cfg.metric_protocols:
        get_protocol(name)
    sets = [load_eval_set(name, root, limit=cfg.max_images) for name in cfg.evaluate_on]
    accelerator = Accelerator(kwargs_handlers=[with_patience()])
    base = UCIP.from_pretrained(cfg.pretrained_model_name_or_path, revision=cfg.revision)
    if cfg.protocol is not None and base_kind(base) != "prompted":
        raise ConfigError(
            f"protocol {cfg.protocol} wants a prompted base, {cfg.pretrained_model_name_or_path} "
            "is prompt-free: give another base, or leave --protocol out"
        )
    others = read_models(cfg.adapter, cfg.pretrained_model_name_or_path, cfg.revision)
    plain = cfg.skip_base or cfg.baselines == "bicubic"
    measured = others if plain else {"base": base, **others}
    methods = build_methods(cfg, measured, accelerator.device)
    try:  # now, not when everything has been measured
        cfg.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make --output_dir {cfg.output_dir}: {error}") from error
    journal = open_journal(cfg, measured, methods, accelerator)
    if journal:
        say(accelerator, f"a run that was stopped has left scores of {len(journal)} images here")
    clock.lap("data")
    rows = evaluate_sets(
        methods,
        sets,
        settings,
        cfg.metric_protocols,
        cache=ArrayCache(cfg.cache_dir or default_cache_dir()),
        accelerator=accelerator,
        progress=accelerator.is_local_main_process,
        journal=journal,
    )
    clock.lap("evaluation")
    found = sum(gather_object([journal.found]))
    if not any(row.images for row in rows):
        raise CodecError(f"{rows[0].codec}: nothing could be measured: {rows[0].source}")
    for name in cfg.metric_protocols:
        say(accelerator, summarise(rows, protocol=name, reference=next(iter(methods))), "")
    record = run_record(
        "evaluate",
        cfg,
        seconds=clock.seconds,
        parameters={
            "total": base.num_parameters(),
            "base_fingerprint": base.fingerprint,
            "codec_fingerprints": list(codec_digests(settings).items()),
            "slots": slots,
            "scored_before_a_stop": found,
        },
        scores={"rows": [row.to_dict(per_image=cfg.per_image) for row in rows]},
    )
    if accelerator.is_main_process:
        write_results(cfg.output_dir / "results.json", record)
        say(accelerator, f"wrote {cfg.output_dir / 'results.json'}")
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:  # nodes may have folders of their own
        journal.discard()
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
