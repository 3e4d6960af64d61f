"""R14: an adapter that does not fit is refused with its own error, and nothing has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ucip_adapt.errors import (
    AdapterError,
    AdapterKeyError,
    AdapterShapeError,
    AdapterValueError,
    BaseMismatchError,
    ConfigError,
)
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, load_prompt_adapter

WEIGHTS = "adapter_model.safetensors"
BASIS = "base_model.model.blocks.1.prompt.dynprompt_basis"

MakeBase = Callable[..., UCIP]
MakeAdapter = Callable[..., Path]
Snapshot = Callable[[nn.Module], dict[str, Any]]


def _missing(tensors: dict[str, Tensor]) -> None:
    del tensors[BASIS]


def _extra(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.blocks.2.prompt.dynprompt_basis"] = torch.zeros(8, 8)


def _renamed(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS.replace("basis", "bases")] = tensors.pop(BASIS)


def _base_tensor(tensors: dict[str, Tensor]) -> None:
    # A file that also brings weights of the base would change it.
    tensors["base_model.model.embed.weight"] = torch.zeros(16, 3, 5, 5)


def _doubled(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS.removeprefix("base_model.model.")] = tensors[BASIS].clone()


def _shape(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS] = tensors[BASIS][:, :4].clone()


def _transposed(tensors: dict[str, Tensor]) -> None:
    name = "base_model.model.blocks.0.prompt.dynprompt_coefficient_fc1.weight"
    tensors[name] = tensors[name].T.contiguous()


def _nan(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS][2, 3] = torch.nan


def _inf(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS][2, 3] = torch.inf


def _overflow(tensors: dict[str, Tensor]) -> None:
    # Finite as it is stored, infinite as soon as it is in the model.
    tensors[BASIS] = tensors[BASIS].double()
    tensors[BASIS][0, 0] = 1e300


def _integers(tensors: dict[str, Tensor]) -> None:
    tensors[BASIS] = tensors[BASIS].to(torch.int32)


TENSOR_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], None], type[Exception], str]] = {
    "missing": (_missing, AdapterKeyError, r"blocks\.1\.prompt\.dynprompt_basis"),
    "extra": (_extra, AdapterKeyError, r"1 have no place .*blocks\.2\.prompt\.dynprompt_basis"),
    "renamed": (_renamed, AdapterKeyError, r"dynprompt_bases.*1 of the 10 expected .*_basis"),
    "base tensor": (_base_tensor, AdapterKeyError, r"embed\.weight"),
    "doubled": (_doubled, AdapterKeyError, r"11 tensors"),
    "shape": (_shape, AdapterShapeError, r"\(8, 4\), expected \(8, 8\)"),
    "transposed": (_transposed, AdapterShapeError, r"\(16, 8\), expected \(8, 16\)"),
    "nan": (_nan, AdapterValueError, r"1 of 64 values of .*dynprompt_basis are NaN"),
    "inf": (_inf, AdapterValueError, r"1 of 64 values"),
    "overflow": (_overflow, AdapterValueError, r"1 of 64 values"),
    "integers": (_integers, AdapterValueError, r"int32, expected floating point"),
}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # The lowest byte but one of a float: still finite.
    path.write_bytes(content)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


FILE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "damaged or incomplete"),
    "trailing bytes": (_append, "damaged"),
    "flipped bit": (_flip_bit, "was altered after it was saved"),
    "empty": (_write(b""), "is empty"),
    "seven bytes": (_write(b"1234567"), "damaged"),
    "huge header": (_write(b"\xff" * 8 + b"{}"), "damaged"),
    "web page": (_write(b"<!DOCTYPE html><title>404</title>"), "a web page"),
    "lfs pointer": (_write(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "pickle": (_write(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}"), "a pickle"),
    "torch file": (_write(b"PK\x03\x04" + bytes(60)), "a zip archive"),
    "absent": (Path.unlink, "has no adapter_model.safetensors"),
}


def _edit(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _edit_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


ROADS: dict[str, Callable[[UCIP, Path], object]] = {
    "PeftModel.from_pretrained": lambda base, folder: PeftModel.from_pretrained(base, str(folder)),
    "low_cpu_mem_usage": lambda base, folder: PeftModel.from_pretrained(
        base, str(folder), low_cpu_mem_usage=True
    ),
    "is_trainable": lambda base, folder: PeftModel.from_pretrained(
        base, str(folder), is_trainable=True
    ),
    "load_prompt_adapter": lambda base, folder: load_prompt_adapter(folder, base),
}


@pytest.fixture
def expect_refusal(
    make_base: MakeBase, make_adapter: MakeAdapter, snapshot: Snapshot, lq: Tensor
) -> Callable[[Path, type[Exception], str], None]:
    """Load an adapter onto bare bases and into a model with another adapter: all must refuse."""

    def check(folder: Path, error: type[Exception], message: str) -> None:
        for road in ROADS.values():
            base = make_base()
            base.head.requires_grad_(False)  # Whoever froze a part finds it frozen, the rest not.
            _unchanged(base, lambda base=base, road=road: road(base, folder), error, message)
        # A model whose adapter replaces fewer modules than the new one would.
        first = make_adapter(trainable_set="basis", trainable_blocks="last:1", name="first")
        for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
            model = PeftModel.from_pretrained(make_base(), str(first))
            _unchanged(
                model,
                lambda model=model, options=options: model.load_adapter(
                    str(folder), "webp", **options
                ),
                error,
                message,
            )

    def _unchanged(
        model: nn.Module, load: Callable[[], object], error: type[Exception], message: str
    ) -> None:
        before = snapshot(model)
        with torch.no_grad():
            out = model(lq)
        with pytest.raises(error, match=message) as caught:
            load()
        assert type(caught.value) is error
        assert snapshot(model) == before
        with torch.no_grad():
            assert torch.equal(model(lq), out)

    return check


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_wrong_tensors(
    fault: str, make_adapter: MakeAdapter, expect_refusal: Callable[..., None]
) -> None:
    change, error, message = TENSOR_FAULTS[fault]
    folder = make_adapter()
    _edit(folder, change)
    expect_refusal(folder, error, message)


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_wrong_files(
    fault: str, make_adapter: MakeAdapter, expect_refusal: Callable[..., None]
) -> None:
    change, message = FILE_FAULTS[fault]
    folder = make_adapter(trainable_set="dpm+offset+spade")
    change(folder / WEIGHTS)
    expect_refusal(folder, AdapterError, message)


def test_wrong_base(make_adapter: MakeAdapter, expect_refusal: Callable[..., None]) -> None:
    folder = make_adapter(base_seed=3)
    expect_refusal(folder, BaseMismatchError, r"fingerprint [0-9a-f]{12}, this base .* unaltered")


def test_wrong_kind_of_base(make_adapter: MakeAdapter, expect_refusal: Callable[..., None]) -> None:
    expect_refusal(make_adapter("prompt-free"), BaseMismatchError, "own base")


def test_config_and_tensors_of_different_adapters(
    make_adapter: MakeAdapter, expect_refusal: Callable[..., None]
) -> None:
    folder = make_adapter(trainable_set="dpm+offset")
    _edit_config(folder, trainable_set="dpm")
    expect_refusal(folder, AdapterKeyError, "16 have no place.*trainable_set 'dpm'")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_fingerprint": None}, "has no base_fingerprint"),
        ({"format_version": "2.0"}, r"format_version 2\.0.*update the package"),
        ({"format_version": None}, "not written by ucip_adapt"),
        ({"trainable_set": "everything"}, "unknown trainable set 'everything'"),
        ({"trainable_blocks": "last:0"}, "trainable_blocks='last:0'"),
        ({"num_prompts": 10**9}, "num_prompts"),
        ({"qualities": "all"}, "qualities"),
        ({"target_modules": ".*"}, "patterns are not supported"),
        ({"base_fingerprint": "../../secret"}, "64 hexadecimal"),
    ],
)
def test_wrong_configuration(
    values: dict[str, Any],
    message: str,
    make_adapter: MakeAdapter,
    expect_refusal: Callable[..., None],
) -> None:
    folder = make_adapter()
    _edit_config(folder, **values)
    expect_refusal(folder, AdapterError, message)


def test_an_adapter_of_another_kind_is_said_to_be_one(make_adapter: MakeAdapter) -> None:
    folder = make_adapter()
    _edit_config(folder, peft_type="LORA", format_version=None)
    with pytest.raises(AdapterError, match="of the kind LORA, not of prompts"):
        DynamicPromptConfig.from_pretrained(folder)


def test_fewer_blocks_than_the_adapter_wants(
    make_adapter: MakeAdapter, expect_refusal: Callable[..., None]
) -> None:
    folder = make_adapter()
    _edit_config(folder, trainable_blocks="last:9")
    expect_refusal(folder, ConfigError, "last:1' to 'last:2'")


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_state_dict_into_an_existing_adapter(
    fault: str, make_base: MakeBase, make_adapter: MakeAdapter, snapshot: Snapshot, lq: Tensor
) -> None:
    """The adapter was there before, so it stays, with its values."""
    change, error, message = TENSOR_FAULTS[fault]
    tensors = load_file(make_adapter() / WEIGHTS)
    change(tensors)
    model = add_prompt_adapter(make_base(), DynamicPromptConfig())
    before = snapshot(model)
    with pytest.raises(error, match=message):
        set_peft_model_state_dict(model, tensors)
    assert snapshot(model) == before


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_explicit_config(
    fault: str, make_base: MakeBase, make_adapter: MakeAdapter, snapshot: Snapshot
) -> None:
    """With ``config=`` the file is first seen after the layers are in place: they go again."""
    change, error, message = TENSOR_FAULTS[fault]
    folder = make_adapter()
    _edit(folder, change)
    base = make_base()
    base.head.requires_grad_(False)
    before = snapshot(base)
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base, str(folder), config=DynamicPromptConfig())
    assert snapshot(base) == before


@pytest.mark.parametrize("fault", ["missing", "shape", "nan"])
def test_file_over_an_existing_adapter(
    fault: str, make_base: MakeBase, make_adapter: MakeAdapter, snapshot: Snapshot
) -> None:
    change, error, message = TENSOR_FAULTS[fault]
    good, bad = make_adapter(), make_adapter(name="bad")
    _edit(bad, change)
    model = PeftModel.from_pretrained(make_base(), str(good))
    before = snapshot(model)
    with pytest.raises(error, match=message):
        model.load_adapter(str(bad), "default")
    assert snapshot(model) == before


def test_good_adapter_after_a_refused_one(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    good, bad = make_adapter(), make_adapter(name="bad")
    _edit(bad, _nan)
    base = make_base()
    with pytest.raises(AdapterValueError):
        PeftModel.from_pretrained(base, str(bad))
    model = PeftModel.from_pretrained(base, str(good))
    expected = PeftModel.from_pretrained(make_base(), str(good))
    with torch.no_grad():
        assert torch.equal(model(lq), expected(lq))


def test_half_precision_files_are_read(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    folder = make_adapter()
    _edit(folder, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    _edit_config(folder, weights_sha256=None)
    for low in (False, True):
        model = PeftModel.from_pretrained(make_base(), str(folder), low_cpu_mem_usage=low)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        stored = load_file(folder / WEIGHTS)[BASIS]
        assert torch.equal(
            model.get_submodule("base_model.model.blocks.1.prompt").dynprompt_basis["default"],
            stored.float(),
        )


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="fit UCIP networks, this is a Linear"):
        get_peft_model(nn.Linear(2, 2), DynamicPromptConfig())


@pytest.mark.parametrize("design", ["fixed", "promptir"])
def test_other_prompt_designs_are_refused(design: str, make_base: MakeBase) -> None:
    with pytest.raises(ConfigError, match=f"prompt='{design}'"):
        add_prompt_adapter(make_base(prompt=design, prompt_size=4), DynamicPromptConfig())
