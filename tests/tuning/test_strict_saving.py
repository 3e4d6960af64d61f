"""Saving: an adapter is saved for the base that it fits, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from ucip_adapt.errors import BaseMismatchError
from ucip_adapt.models import UCIP
from ucip_adapt.training.model_state import load_weights, save_weights
from ucip_adapt.tuning import (
    TRAINABLE_SETS,
    DynamicPromptConfig,
    add_prompt_adapter,
    load_prompt_adapter,
    save_prompt_adapter,
)

MakeBase = Callable[..., UCIP]
Save = Callable[..., object]

BOTH_WAYS = pytest.mark.parametrize("save", [save_prompt_adapter, PeftModel.save_pretrained])
KINDS = pytest.mark.parametrize("kind", ["prompted", "prompt-free", "six-slot"])


@torch.no_grad()
def _forward(model: nn.Module, lq: Tensor) -> Tensor:
    return model(lq)


@torch.no_grad()
def _tune_head(model: PeftModel, factor: float) -> None:
    """What a user does who trains more than the adapter; powers of two are undone exactly."""
    for name, parameter in model.named_parameters():
        if ".head." in name:
            parameter.mul_(factor)


@BOTH_WAYS
@pytest.mark.parametrize("merged", [False, True])
@KINDS
def test_a_base_that_changed_is_refused(
    kind: str,
    merged: bool,
    save: Save,
    make_base: MakeBase,
    perturb: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # PEFT asks the Hub whether the base's vocabulary has grown.
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: False)
    base = make_base(kind)
    base.name_or_path = "user/base"
    model = add_prompt_adapter(base)
    save(model, str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    perturb(model)
    if merged:
        model.merge_adapter()
    _tune_head(model, 2.0)
    with pytest.raises(BaseMismatchError, match=r"'default' was put on base 'user/base' .*changed"):
        save(model, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    _tune_head(model, 0.5)
    save(model, str(tmp_path))
    assert load_prompt_adapter(tmp_path, make_base(kind)).peft_config


def test_what_the_message_says_keeps_the_changed_base(
    make_base: MakeBase, perturb: Callable[..., None], lq: Tensor, tmp_path: Path
) -> None:
    base = make_base()
    model = add_prompt_adapter(base)
    perturb(model)
    _tune_head(model, 1.5)
    cast(UCIP, model.get_base_model()).save_pretrained(tmp_path / "changed")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "changed")
    model.peft_config["default"].base_fingerprint = None
    folder = save_prompt_adapter(model, tmp_path / "adapter")
    written = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["base_model_name_or_path"] == "changed"
    again = load_prompt_adapter(folder, UCIP.from_pretrained(tmp_path / "changed"))
    assert torch.equal(_forward(again, lq), _forward(model, lq))
    with pytest.raises(BaseMismatchError):
        load_prompt_adapter(folder, make_base())


@BOTH_WAYS
@pytest.mark.parametrize("trainable_set", list(TRAINABLE_SETS))
@KINDS
def test_a_merged_adapter_is_saved_for_the_base_before_the_merge(
    kind: str,
    trainable_set: str,
    save: Save,
    make_base: MakeBase,
    perturb: Callable[..., None],
    lq: Tensor,
    tmp_path: Path,
) -> None:
    config = DynamicPromptConfig(trainable_set=trainable_set, trainable_blocks="last:1")
    model = add_prompt_adapter(make_base(kind), config)
    perturb(model)
    model.eval().merge_adapter()
    out = _forward(model, lq)
    save(model, str(tmp_path))
    assert torch.equal(_forward(model, lq), out), "saving took the adapter out"
    again = load_prompt_adapter(tmp_path, make_base(kind))
    again.merge_adapter()
    assert torch.equal(_forward(again, lq), out)
    model.unmerge_adapter()
    save(model, str(tmp_path))


def test_a_cast_base_is_the_same_base(make_base: MakeBase, tmp_path: Path) -> None:
    model = add_prompt_adapter(make_base())
    model.half()
    save_prompt_adapter(model, tmp_path)
    model.merge_adapter()
    save_prompt_adapter(model, tmp_path)
    assert load_prompt_adapter(tmp_path, make_base()).peft_config


def test_a_checkpoint_of_more_than_the_adapter_resumes(make_base: MakeBase, tmp_path: Path) -> None:
    model = add_prompt_adapter(make_base())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or ".head." in name)
    _tune_head(model, 2.0)
    wanted = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with pytest.warns(UserWarning, match=r"can be resumed .* no adapter can be loaded .*'default'"):
        save_weights(model, tmp_path, index=0, trainable_only=True)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    _tune_head(model, 2.0)
    load_weights(model, tmp_path, index=0, trainable_only=True)
    parameters = dict(model.named_parameters())
    assert any(".head." in name for name in wanted)
    assert all(torch.equal(parameters[name], value) for name, value in wanted.items())
