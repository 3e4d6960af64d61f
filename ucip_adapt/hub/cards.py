"""Model cards and weights licences, rendered from results and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from huggingface_hub import ModelCardData

from ucip_adapt.assets import ALIASES, shipped_bases
from ucip_adapt.codecs.base import short_name
from ucip_adapt.hub.stages import SUITE, crops_per_step, damage_of, describe_stage, image_sets
from ucip_adapt.models.config import UCIPConfig

__all__ = [
    "adapter_card",
    "base_card",
    "licence_id",
    "score_table",
    "training_images",
    "training_sets",
    "weights_licence",
]

_LICENCES = {
    "embedded": ("CC0 1.0", "the training split of GB82 inside this package (Gianni Rosato)"),
    "CID22": ("CC BY-SA 4.0", "the training images of the Cloudinary Image Dataset '22 (CID22)"),
    "BSDS500": ("research terms", "BSDS500 (Arbelaez et al., TPAMI 2011)"),
}
"""Terms of the image sets that we know, by the name that ``--train_data_dir`` gives them."""

_SHARE_ALIKE = {
    "CID22": "images of the Cloudinary Image Dataset '22 (CID22) by Cloudinary,\n"
    "  https://cloudinary.com/labs/cid22, licensed under CC BY-SA 4.0",
    "embedded": "images of GB82 by Gianni Rosato, dedicated to the public domain (CC0 1.0)",
}
"""Sets that allow weights to be passed on under CC BY-SA 4.0, and the credit that is due."""


def training_sets(record: Mapping[str, Any]) -> list[str]:
    """Names of all image sets behind the weights of a run, those of earlier stages first.

    Args:
        record: Results in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        As ``--train_data_dir`` named them, or the suite of ``--suite_dir``; of a base whose own
        training is not known, its name.

    Example:
        >>> training_sets({"config": {"train_data_dir": ["embedded"]}, "parameters": {}})
        ['embedded']
    """
    config, stages = record["config"], record["parameters"].get("stages")
    start = config.get("pretrained_model_name_or_path")
    names = [name for stage in stages or [config] for name in image_sets(stage)]
    if stages is not None and start and len(stages) < 2:
        names.insert(0, f"whatever the base {start} was trained on")
    return list(dict.fromkeys(names))


def training_images(record: Mapping[str, Any]) -> list[str]:
    """Describe the image sets behind the weights of a run.

    Args:
        record: Results in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        One phrase per set: what it is, and its terms where they are known.

    Example:
        >>> training_images({"config": {"train_data_dir": ["cats"]}, "parameters": {}})
        ["images of the user's 'cats'"]
    """
    phrases = []
    for name in training_sets(record):
        known = _LICENCES.get(name)
        in_words = name.startswith(("whatever", SUITE))
        own = name if in_words else f"images of the user's '{name}'"
        phrases.append(f"{known[1]}, {known[0]}" if known else own)
    return phrases


def weights_licence(record: Mapping[str, Any]) -> str:
    """Text of the LICENSE file beside weights; it follows the images that they were trained on.

    Args:
        record: Results in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        CC BY-SA 4.0 with the credits that are due, if all sets allow it; otherwise a warning.

    Example:
        >>> record = {"config": {"train_data_dir": ["embedded"]}, "parameters": {}}
        >>> "CC BY-SA 4.0" in weights_licence(record)
        True
    """
    names = training_sets(record)
    if not set(names) <= set(_SHARE_ALIKE):
        unknown = [name for name in names if name not in _SHARE_ALIKE]
        return (
            "These weights were trained on images whose terms this program does not know or that\n"
            f"are for research only: {', '.join(unknown)}.\n"
            "They are for experiments; settle the terms of the images before you pass them on.\n"
        )
    credit = "".join(f"- {text}\n" for name, text in _SHARE_ALIKE.items() if name in names)
    start = record["config"].get("pretrained_model_name_or_path")
    inherited = (
        f"They were made from the base {_released(start)}, whose licence and credits apply as well."
        "\n\n"
    )
    return (
        "These weights are licensed under the Creative Commons Attribution-ShareAlike 4.0\n"
        "International licence (CC BY-SA 4.0):\n"
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode\n\n"
        f"They were trained on\n{credit}\n"
        f"{inherited if start and not _is_earlier_stage(record) else ''}"
        f"Credit: the ucip-adapt authors{'; Cloudinary (CID22)' if 'CID22' in names else ''}.\n"
        "The code of ucip_adapt is licensed separately, under Apache-2.0.\n"
    )


def licence_id(record: Mapping[str, Any]) -> str:
    """Licence identifier for a card's metadata.

    Args:
        record: Results in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        ``"cc-by-sa-4.0"`` or ``"other"``, as the text of :func:`weights_licence`.

    Example:
        >>> licence_id({"config": {"train_data_dir": ["cats"]}, "parameters": {}})
        'other'
    """
    return "cc-by-sa-4.0" if set(training_sets(record)) <= set(_SHARE_ALIKE) else "other"


def _released(name: str) -> str:
    """The base's name with its version, which does not move on to the next base."""
    return ALIASES.get(name, name)


def _is_earlier_stage(record: Mapping[str, Any]) -> bool:
    """Whether a run went on with a network that has no name of its own: a stage listed with it."""
    start = record["config"].get("pretrained_model_name_or_path")
    stages = record["parameters"].get("stages") or []
    return bool(start) and len(stages) > 1 and start not in shipped_bases()


def _start(record: Mapping[str, Any]) -> str:
    """What a base was trained from."""
    start = record["config"].get("pretrained_model_name_or_path")
    if start and not _is_earlier_stage(record):
        return _released(start)
    return "random weights"


def _base_of(record: Mapping[str, Any]) -> tuple[str, bool]:
    """Name of an adapter's base, and whether it means the same everywhere: shipped, or on the Hub.

    Of a folder it is the last part: the others say where somebody keeps things.
    """
    name = _released(record["config"]["pretrained_model_name_or_path"])
    if record["parameters"].get("base_is_folder"):
        return PurePath(name).name or name, False
    return name, _known_everywhere(name)


def _known_everywhere(name: str) -> bool:
    """Whether a name means the same network everywhere: one that is shipped, or user/repository."""
    user, slash, repository = name.partition("/")
    on_hub = bool(user and slash and repository) and "/" not in repository
    return name in shipped_bases() or (on_hub and not name.startswith("."))


def cell_text(text: str) -> str:
    """A name of somebody's folder for Markdown: it ends no column and is no HTML.

    Example:
        >>> cell_text("set <b>")
        'set &lt;b>'
    """
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def score_table(rows: Sequence[Mapping[str, Any]], *, protocol: str, reference: str) -> str:
    """Markdown table: a line per set and quality, PSNR / SSIM by method and the gain in dB.

    Args:
        rows: Score rows of a results file.
        protocol: Protocol to show.
        reference: Method that the last column's gain is counted from; the last method's gain.

    Returns:
        Lines of Markdown without a line break at the end.

    Example:
        >>> cell = {"dataset": "Set5", "codec": "webp", "quality": 10, "protocol": "y-c4"}
        >>> base = {**cell, "method": "base", "psnr_db": 25.0, "ssim": 0.7}
        >>> adapter = {**cell, "method": "adapter", "psnr_db": 25.2, "ssim": 0.71}
        >>> print(score_table([base, adapter], protocol="y-c4", reference="base"))
        | set | quality | base | adapter | adapter - base |
        |---|---|---|---|---|
        | Set5 | webp 10 | 25.00 / 0.700 | 25.20 / 0.710 | +0.20 |
    """
    chosen = [row for row in rows if row["protocol"] == protocol]
    methods = list(dict.fromkeys(row["method"] for row in chosen))
    cells = {(r["dataset"], r["codec"], r["quality"], r["method"]): r for r in chosen}
    lines = [
        f"| set | quality | {' | '.join(methods)} | {methods[-1]} - {reference} |",
        "|---|---|" + "---|" * (len(methods) + 1),
    ]
    for key in dict.fromkeys((r["dataset"], r["codec"], r["quality"]) for r in chosen):
        line = [cell_text(key[0]), f"{cell_text(short_name(key[1]))} {key[2]}"]
        for method in methods:
            cell = cells[(*key, method)]
            known = cell["psnr_db"] is not None
            line.append(f"{cell['psnr_db']:.2f} / {cell['ssim']:.3f}" if known else "-")
        ends = [cells[(*key, method)]["psnr_db"] for method in (methods[-1], reference)]
        line.append("-" if None in ends else f"{ends[0] - ends[1]:+.2f}")
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def base_card(name: str, config: UCIPConfig, record: Mapping[str, Any]) -> str:
    """Card of a whole network: a base, or one that was tuned as a whole.

    Args:
        name: The network's name.
        config: Its architecture.
        record: Its results, in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        Markdown, with the Hub's metadata at its top.

    Raises:
        KeyError: If the results lack what the card says.
    """
    options, tuned = record["config"], record["kind"] == "tune_full"
    data = ModelCardData(
        license=licence_id(record),
        library_name="ucip_adapt",
        pipeline_tag="image-to-image",
        tags=["ucip", "compressed-image-super-resolution", "tuned" if tuned else "base"],
        metrics=["psnr", "ssim"],
    )
    inference = (
        "whole images"
        if config.window is None
        else f"overlapping windows of {config.window} LQ pixels, blended"
    )
    loads_by_name = not tuned and _known_everywhere(name)
    design = f'prompt "{config.prompt}", {config.num_prompts} basic prompts'
    size = f"{config.num_blocks} PTMBs x {config.num_layers} PTMMs, {config.embed_dim} channels"
    stages = "\n".join(f"1. {describe_stage(s)}" for s in record["parameters"].get("stages", []))
    images = "\n".join(f"- {cell_text(phrase)}" for phrase in training_images(record))
    return f"""---
{data.to_yaml()}
---

# {name}

A UCIP network for compressed image super-resolution (x4), made by `recipes/{record["kind"]}.py` of
ucip_adapt, an independent implementation of "UCIP: A Universal Framework for Compressed Image
Super-Resolution using Dynamic Prompt" ([Li et al., ECCV 2024](https://arxiv.org/abs/2407.13108)).
A codec that it has not seen is learnt by a prompt adapter.

| | |
|---|---|
| architecture | {size}, {design} |
| parameters | {record["parameters"]["total"]:,} |
| fingerprint | `{record["parameters"]["fingerprint"]}` |
| damage seen | {", ".join(damage_of(options))} |
| started from | {_start(record)} |
| applied to | {inference} |
| command | `{record["command"]}` |

## Training

{stages}

Images:

{images}

{_tuned_scores(record) if tuned else _base_scores(record)}

## Use

```python
import torch
from ucip_adapt import UCIP

network = UCIP.from_pretrained("{name if loads_by_name else "path/to/this/folder"}")
sr = network.upscale(torch.rand(1, 3, 48, 64))  # (1, 3, 192, 256)
```
"""


def _base_scores(record: Mapping[str, Any]) -> str:
    images = "on validation images that were not trained on"
    if record["scores"].get("inference"):
        images += ", on which the\nway of applying it was chosen; "
    else:
        images += ";\n"
    return f"""## Scores

Mean PSNR in dB / SSIM, protocol y-c4, {images}"whole" is the whole image at once, \
"base" the way above.

{score_table(record["scores"]["rows"], protocol="y-c4", reference="bicubic")}"""


def _tuned_scores(record: Mapping[str, Any]) -> str:
    rows = record["scores"]["rows"]
    sets = ", ".join(dict.fromkeys(row["dataset"] for row in rows))
    protocol = record["parameters"]["protocol"]
    trained = (
        f"Row {protocol}" if protocol else f"Only {record['config']['trainable']} were trained"
    )
    return f"""## Scores

{trained}. Mean PSNR in dB / SSIM, protocol y-c4, on {sets}; "base" is
the network before tuning, "full" after it.

{score_table(rows, protocol="y-c4", reference="base")}

![input, bicubic, base, tuned, truth](before_after.png)"""


def adapter_card(record: Mapping[str, Any]) -> str:
    """Card of an adapter.

    Args:
        record: Its results, in the schema of :mod:`ucip_adapt.training.results`, with
            ``adapter_bytes`` among its parameters.

    Returns:
        Markdown, with the Hub's metadata at its top.

    Raises:
        KeyError: If the results lack what the card says.
    """
    options, parameters, about = record["config"], record["parameters"], record["environment"]
    codec, method = short_name(options["codec"]), options["peft_method"]
    prompts = method == "prompts"
    (name, known), patch = _base_of(record), options["patch_size"]
    data = ModelCardData(
        license=licence_id(record),
        library_name="peft",
        # The Hub refuses a card that names anything but a repository here.
        base_model=name if known else None,
        base_model_relation="adapter" if known else None,
        pipeline_tag="image-to-image",
        tags=["ucip", "compressed-image-super-resolution", f"codec:{codec}", "adapter"],
        metrics=["psnr", "ssim"],
    )
    rows = record["scores"]["rows"]
    images = "\n".join(f"- {cell_text(phrase)}" for phrase in training_images(record))
    sets = ", ".join(dict.fromkeys(row["dataset"] for row in rows))
    trained = options["trainable"] if prompts else method
    change = (
        f"replaces {parameters['trained']:,} of {parameters['total']:,} parameters"
        if prompts
        else f"adds {parameters['trained']:,} parameters to {parameters['total']:,}"
    )
    row = f"row {parameters['protocol']} of Table 3"
    protocol = row if prompts else f"PEFT's {method}, beside {row}"
    crops = f"{crops_per_step(options, about)} crops of {patch} x {patch} LQ pixels"
    time = f"{record['seconds']['training']:.0f} s of training steps"
    hardware = f"{about['gpu'] or about['cpu']}, {about['torch_threads']} threads"
    return f"""---
{data.to_yaml()}
---

# UCIP adapter for {codec}

Adapts the base `{name}` to {codec}-compressed images. It
{change}.

| | |
|---|---|
| base | `{name}`, fingerprint `{parameters["base_fingerprint"]}` |
| codec and qualities | {codec}: {", ".join(map(str, options["qualities"]))} |
| trained | {trained}, blocks {options["trainable_blocks"]}: {parameters["trained"]:,} parameters |
| file | {parameters["adapter_bytes"]:,} bytes |
| protocol | {protocol} |
| steps | {options["max_train_steps"]} of {crops}, rate {options["learning_rate"]:g} |
| time and hardware | {time} on {hardware} |
| command | `{record["command"]}` |

## Scores

Mean PSNR in dB / SSIM, protocol y-c4, on {sets}.

{score_table(rows, protocol="y-c4", reference="base")}

![input, bicubic, base, base with adapter, truth](before_after.png)

## Training images

{images}

## Use

```python
{_adapter_use(name if known else None, prompts=prompts)}
sr = model.get_base_model().upscale(torch.rand(1, 3, 48, 64))  # (1, 3, 192, 256)
```
"""


def _adapter_use(base: str | None, *, prompts: bool) -> str:
    """Code that loads an adapter; without a base of a known name, the reader's own path."""
    load_base = f'UCIP.from_pretrained("{base or "path/to/the/base"}")'
    if not prompts:
        return f"""import torch
from peft import PeftModel
from ucip_adapt import UCIP

model = PeftModel.from_pretrained({load_base}, "path/to/this/folder").eval()"""
    second = "" if base else f", base={load_base}"
    return f"""import torch
from ucip_adapt import {"" if base else "UCIP, "}load_prompt_adapter

model = load_prompt_adapter("path/to/this/folder"{second})"""
