"""Model cards and weights licences, rendered from results and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from ucip_adapt.hub.stages import describe_stage
from ucip_adapt.models.config import UCIPConfig

__all__ = ["adapter_card", "base_card", "score_table", "training_images", "weights_licence"]

_LICENCES = {
    "embedded": ("CC0 1.0", "the training split of GB82 inside this package (Gianni Rosato)"),
    "CID22": ("CC BY-SA 4.0", "the training images of the Cloudinary Image Dataset '22 (CID22)"),
    "BSDS500": ("research terms", "BSDS500 (Arbelaez et al., TPAMI 2011)"),
}
"""Terms of the image sets that we know, by the name that ``--train_data_dir`` gives them."""


def _set_name(folder: str) -> str:
    return folder.rstrip("/").rsplit("/", 1)[-1]


def training_images(config: Mapping[str, Any]) -> list[str]:
    """Describe the image sets of a run, one phrase each."""
    phrases = []
    for folder in config["train_data_dir"]:
        known = _LICENCES.get(_set_name(folder))
        phrases.append(f"{known[1]}, {known[0]}" if known else f"images of the user's '{folder}'")
    return phrases


def weights_licence(config: Mapping[str, Any]) -> str:
    """Text of the LICENSE file beside weights; it follows the images that they were trained on."""
    names = {_set_name(folder) for folder in config["train_data_dir"]}
    if names <= {"embedded", "CID22"}:
        credit = (
            "They were trained on images of the Cloudinary Image Dataset '22 (CID22) by\n"
            "Cloudinary, https://cloudinary.com/labs/cid22, which is licensed under CC BY-SA 4.0,\n"
            if "CID22" in names
            else "They were trained on images "
        )
        return (
            "These weights are licensed under the Creative Commons Attribution-ShareAlike 4.0\n"
            "International licence (CC BY-SA 4.0):\n"
            "https://creativecommons.org/licenses/by-sa/4.0/legalcode\n\n"
            f"{credit}"
            "and on images of GB82 by Gianni Rosato, dedicated to the public domain (CC0 1.0).\n\n"
            "Credit: the ucip-adapt authors"
            f"{'; Cloudinary (CID22)' if 'CID22' in names else ''}.\n"
            f"{_inherited(config)}"
            "The code of ucip_adapt is licensed separately, under Apache-2.0.\n"
        )
    return (
        "These weights were trained on images whose terms this program does not know or that are\n"
        f"for research only: {', '.join(sorted(names))}.\n"
        "They are for experiments; settle the terms of the images before you pass them on.\n"
    )


def _inherited(config: Mapping[str, Any]) -> str:
    start = config.get("pretrained_model_name_or_path")
    if not start:
        return ""
    return f"They were made from the base {start}, whose licence and credits apply as well.\n"


def licence_id(config: Mapping[str, Any]) -> str:
    """Licence identifier for a card's metadata."""
    names = {_set_name(folder) for folder in config["train_data_dir"]}
    return "cc-by-sa-4.0" if names <= {"embedded", "CID22"} else "other"


def score_table(rows: Sequence[Mapping[str, Any]], *, protocol: str, reference: str) -> str:
    """Markdown table: a line per set and quality, PSNR / SSIM by method and the gain in dB.

    Args:
        rows: Score rows of a results file.
        protocol: Protocol to show.
        reference: Method that the last column's gain is counted from; the last method's gain.
    """
    chosen = [row for row in rows if row["protocol"] == protocol]
    methods = list(dict.fromkeys(row["method"] for row in chosen))
    cells = {(r["dataset"], r["codec"], r["quality"], r["method"]): r for r in chosen}
    lines = [
        f"| set | quality | {' | '.join(methods)} | {methods[-1]} - {reference} |",
        "|---|---|" + "---|" * (len(methods) + 1),
    ]
    for key in dict.fromkeys((r["dataset"], r["codec"], r["quality"]) for r in chosen):
        line = [key[0], f"{key[1]} {key[2]}"]
        for method in methods:
            cell = cells[(*key, method)]
            line.append(f"{cell['psnr_db']:.2f} / {cell['ssim']:.3f}")
        gain = cells[(*key, methods[-1])]["psnr_db"] - cells[(*key, reference)]["psnr_db"]
        lines.append(f"| {' | '.join(line)} | {gain:+.2f} |")
    return "\n".join(lines)


def base_card(name: str, config: UCIPConfig, record: Mapping[str, Any]) -> str:
    """Card of a base network.

    Args:
        name: The base's name.
        config: Its architecture.
        record: Its results.
    """
    options = record["config"]
    data = ModelCardData(
        license=licence_id(options),
        library_name="ucip_adapt",
        pipeline_tag="image-to-image",
        tags=["ucip", "compressed-image-super-resolution", "base"],
        metrics=["psnr", "ssim"],
    )
    inference = (
        "whole images"
        if config.window is None
        else (f"overlapping windows of {config.window} LQ pixels, blended")
    )
    start = options["pretrained_model_name_or_path"]
    design = f'prompt "{config.prompt}", {config.num_prompts} basic prompts'
    size = f"{config.num_blocks} PTMBs x {config.num_layers} PTMMs, {config.embed_dim} channels"
    stages = "\n".join(f"1. {describe_stage(s)}" for s in record["parameters"].get("stages", []))
    images = "\n".join(f"- {phrase}" for phrase in training_images(options))
    return f"""---
{data.to_yaml()}
---

# {name}

A UCIP network for compressed image super-resolution (x4), made by
[`recipes/pretrain_base.py`](https://arxiv.org/abs/2407.13108) of ucip_adapt, an independent
implementation of "UCIP: A Universal Framework for Compressed Image Super-Resolution using Dynamic
Prompt" (Li et al., ECCV 2024). A codec that it has not seen is learnt by a prompt adapter.

| | |
|---|---|
| architecture | {size}, {design} |
| parameters | {record["parameters"]["total"]:,} |
| fingerprint | `{record["parameters"]["fingerprint"]}` |
| damage seen | {", ".join(options["settings"])} |
| started from | {start or "random weights"} |
| applied to | {inference} (chosen on validation images) |
| command | `{record["command"]}` |

## Training

{stages}

Images:

{images}

## Scores

Mean PSNR in dB / SSIM, protocol y-c4, on validation images that were not trained on; "whole" is the
whole image at once, "base" the way above.

{score_table(record["scores"]["rows"], protocol="y-c4", reference="bicubic")}

## Use

```python
import torch
from ucip_adapt import UCIP

base = UCIP.from_pretrained("{name}")
sr = base.upscale(torch.rand(1, 3, 48, 64))  # (1, 3, 192, 256)
```
"""


def adapter_card(record: Mapping[str, Any]) -> str:
    """Card of an adapter.

    Args:
        record: Its results, with ``adapter_bytes``.
    """
    options, parameters, about = record["config"], record["parameters"], record["environment"]
    codec = options["codec"]
    prompts = options["peft_method"] == "prompts"
    trained = options["trainable"] if prompts else options["peft_method"]
    data = ModelCardData(
        license=licence_id(options),
        library_name="peft",
        base_model=options["pretrained_model_name_or_path"],
        pipeline_tag="image-to-image",
        tags=["ucip", "compressed-image-super-resolution", f"codec:{codec}", "adapter"],
        metrics=["psnr", "ssim"],
        base_model_relation="adapter",
    )
    rows = record["scores"]["rows"]
    images = "\n".join(f"- {phrase}" for phrase in training_images(options))
    sets = ", ".join(dict.fromkeys(row["dataset"] for row in rows))
    name, patch = options["pretrained_model_name_or_path"], options["patch_size"]
    crops = f"{options['train_batch_size']} crops of {patch} x {patch} LQ pixels"
    time = f"{record['seconds']['training']:.0f} s of training steps"
    hardware = f"{about['gpu'] or about['cpu']}, {about['torch_threads']} threads"
    return f"""---
{data.to_yaml()}
---

# UCIP adapter for {codec}

Adapts the base `{name}` to {codec}-compressed images. It
replaces {parameters["trained"]:,} of {parameters["total"]:,} parameters.

| | |
|---|---|
| base | `{name}`, fingerprint `{parameters["base_fingerprint"]}` |
| codec and qualities | {codec}: {", ".join(map(str, options["qualities"]))} |
| trained | {trained}, blocks {options["trainable_blocks"]}: {parameters["trained"]:,} parameters |
| file | {parameters["adapter_bytes"]:,} bytes |
| protocol | row {parameters["protocol"]} of Table 3 |
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
import torch
import ucip_adapt  # registers the adapter's PEFT type

model = ucip_adapt.load_prompt_adapter("path/to/this/folder")
sr = model.get_base_model().upscale(torch.rand(1, 3, 48, 64))  # (1, 3, 192, 256)
```
"""
