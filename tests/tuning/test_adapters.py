"""Adding, loading, saving, switching, deleting and naming adapters."""

from __future__ import annotations

import copy
import gc
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from ucip_adapt import assets
from ucip_adapt.errors import AdapterError, BaseFormatError, ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import (
    DynamicPromptConfig,
    add_prompt_adapter,
    load_prompt_adapter,
    save_prompt_adapter,
    trainable_parameters,
)

MakeBase = Callable[..., UCIP]
MakeAdapter = Callable[..., Path]


@torch.no_grad()
def _forward(model: nn.Module, lq: Tensor) -> Tensor:
    return model(lq)


def _live_tensors() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some libraries' lazy objects warn when looked at.
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def _check_swaps(make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor, swaps: int) -> int:
    """R15; returns the growth of the process in bytes over the second half."""
    first = make_adapter(trainable_set="dpm+offset", name="first")
    second = make_adapter(trainable_set="dpm+offset+spade", seed=2, name="second")
    model = PeftModel.from_pretrained(make_base(), str(first), adapter_name="A")
    out_a = _forward(model, lq)
    model.load_adapter(str(second), "B")
    model.set_adapter("B", inference_mode=True)
    out_b = _forward(model, lq)
    assert not torch.equal(out_a, out_b)
    model.set_adapter("A", inference_mode=True)
    assert torch.equal(_forward(model, lq), out_a)
    model.delete_adapter("B")
    tensors = parameters = memory = 0
    for swap in range(swaps):
        name = f"B{swap}"  # Always another, so that nothing left behind is overwritten.
        model.load_adapter(str(second), name)
        model.set_adapter(name, inference_mode=True)
        assert torch.equal(_forward(model, lq), out_b)
        model.set_adapter("A", inference_mode=True)
        assert torch.equal(_forward(model, lq), out_a)
        model.delete_adapter(name)
        if swap == 2:
            tensors, parameters = _live_tensors(), len(list(model.parameters()))
        if swap == swaps // 2:
            memory = psutil.Process().memory_info().rss
    assert _live_tensors() == tensors
    assert len(list(model.parameters())) == parameters
    assert list(model.peft_config) == ["A"]
    return psutil.Process().memory_info().rss - memory


def test_swaps(make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor) -> None:
    """R15, short."""
    _check_swaps(make_base, make_adapter, lq, swaps=5)


@pytest.mark.slow
def test_a_hundred_swaps(make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor) -> None:
    """R15, in full."""
    assert _check_swaps(make_base, make_adapter, lq, swaps=100) < 8 * 2**20


def test_loading_twice_under_one_name(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    first, second = make_adapter(name="first"), make_adapter(seed=2, name="second")
    model = PeftModel.from_pretrained(make_base(), str(first))
    out = _forward(model, lq)
    model.load_adapter(str(second), "default")
    assert not torch.equal(_forward(model, lq), out)
    model.load_adapter(str(first), "default")
    assert torch.equal(_forward(model, lq), out)


@pytest.mark.filterwarnings("ignore:You are trying to modify:UserWarning")  # PEFT's own
def test_a_network_with_adapters_is_not_wrapped_again(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    """Parts of an earlier adapter of the same name would go on working unseen."""
    first, second = make_adapter(trainable_set="dpm+offset", name="first"), make_adapter(seed=2)
    base = make_base()
    model = PeftModel.from_pretrained(base, str(first))
    out, config = _forward(model, lq), model.peft_config["default"]
    with pytest.raises(ConfigError, match=r"carries adapters already.*load_adapter.*unload"):
        PeftModel.from_pretrained(base, str(second))
    with pytest.raises(ConfigError, match="carries adapters already"):
        add_prompt_adapter(get_peft_model(make_base(), LoraConfig(target_modules=["proj"])).model)
    assert torch.equal(_forward(model, lq), out)
    assert model.peft_config == {"default": config}
    again = PeftModel.from_pretrained(model.unload(), str(second))
    expected = PeftModel.from_pretrained(make_base(), str(second))
    assert torch.equal(_forward(again, lq), _forward(expected, lq))


def test_deleting_the_active_adapter(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    """All layers agree on the next one, also those that never had the deleted adapter."""
    folders = {
        name: make_adapter(trainable_set=trainable_set, seed=seed, name=name)
        for seed, (name, trainable_set) in enumerate(
            {"gone": "basis", "webp": "dpm+offset", "avif": "dpm+offset+spade"}.items(), start=1
        )
    }
    alone = PeftModel.from_pretrained(make_base(), str(folders["webp"]))
    model = PeftModel.from_pretrained(make_base(), str(folders["gone"]), adapter_name="gone")
    model.load_adapter(str(folders["webp"]), "webp")
    model.load_adapter(str(folders["avif"]), "avif")
    with pytest.warns(UserWarning, match="'gone' was active and is deleted; 'webp' is active now"):
        model.delete_adapter("gone")
    assert model.active_adapters == ["webp"]
    assert torch.equal(_forward(model, lq), _forward(alone, lq))
    assert not trainable_parameters(model)
    with pytest.raises(ValueError, match="gone"):
        model.delete_adapter("gone")


def test_deleting_the_last_adapter_and_loading_again(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    folder = make_adapter()
    base = make_base()
    before = _forward(base, lq)
    model = PeftModel.from_pretrained(base, str(folder))
    out = _forward(model, lq)
    model.delete_adapter("default")
    assert torch.equal(_forward(base, lq), before)
    model.load_adapter(str(folder), "default")
    model.set_adapter("default", inference_mode=True)
    assert torch.equal(_forward(model, lq), out)


def test_an_adapter_that_is_not_there_does_not_become_active(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    """A misspelt name would turn the adapter off, and the network would look untuned."""
    model = PeftModel.from_pretrained(make_base(), str(make_adapter()), adapter_name="webp")
    out = _forward(model, lq)
    for names in ("wepb", ["wepb"]):
        with pytest.raises(ConfigError, match=r"'wepb'; did you mean 'webp'\? Known: webp$"):
            model.base_model.set_adapter(names, inference_mode=True)
        assert model.active_adapters == ["webp"]
        assert torch.equal(_forward(model, lq), out)


def test_two_active_adapters_are_refused(make_base: MakeBase) -> None:
    model = add_prompt_adapter(make_base())
    model.add_adapter("second", DynamicPromptConfig())
    with pytest.raises(ConfigError, match="add_weighted_adapter"):
        model.base_model.set_adapter(["default", "second"])
    assert model.active_adapters == ["default"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["default"], "1 names for 3 images"),
        (["default", "webb", "__base__"], r"unknown adapter 'webb'\. Known: __base__, default"),
    ],
)
def test_wrong_adapter_names(
    names: list[str], message: str, make_base: MakeBase, lq: Tensor
) -> None:
    model = add_prompt_adapter(make_base()).eval()
    out = _forward(model, lq)
    with pytest.raises(ConfigError, match=message):
        model(lq, adapter_names=names)
    assert torch.equal(_forward(model, lq), out), "a refused call left something behind"


def test_adapter_names_are_for_inference(make_base: MakeBase, lq: Tensor) -> None:
    model = add_prompt_adapter(make_base()).train()
    with pytest.raises(ConfigError, match="inference"):
        model(lq, adapter_names=["default"] * 3)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.b",
        "a/b",
        "__base__",
        "prompt",
        "dyn",
        "offset",
        "spade",
        "model",
        "0",
        "weight",
        "keys",
    ],
)
@pytest.mark.filterwarnings("ignore:Adapter name:UserWarning")  # PEFT's own, of the prefix
def test_names_that_would_be_confused(name: str, make_base: MakeBase, lq: Tensor) -> None:
    base = make_base()
    before = _forward(base, lq)
    with pytest.raises(ConfigError, match=f"adapter name '{name}' .*choose another"):
        add_prompt_adapter(base, adapter_name=name)
    assert torch.equal(_forward(base, lq), before)
    assert not hasattr(base, "peft_config")


def test_target_modules(make_base: MakeBase) -> None:
    config = DynamicPromptConfig(trainable_set="dpm+offset", target_modules=["layers.0.offset"])
    names = [name for name, _ in trainable_parameters(add_prompt_adapter(make_base(), config))]
    assert {name.split(".dynprompt")[0] for name in names} == {
        f"base_model.model.blocks.{i}.layers.0.offset" for i in (0, 1)
    }


@pytest.mark.parametrize("target", ["embed", "prompt.coefficient", "mixer", "offset"])
def test_target_modules_of_another_kind(target: str, make_base: MakeBase) -> None:
    with pytest.raises(TypeError, match=r"replaces the DPM modules.*LoRA"):
        add_prompt_adapter(make_base(), DynamicPromptConfig(target_modules=[target]))


def test_target_modules_that_match_nothing(make_base: MakeBase) -> None:
    with pytest.raises(ConfigError, match=r"matches nothing.*blocks\.0\.prompt"):
        add_prompt_adapter(make_base(), DynamicPromptConfig(target_modules=["promqt"]))


def test_another_number_of_prompts(
    make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    folder = make_adapter(num_prompts=3)
    model = PeftModel.from_pretrained(make_base(), str(folder))
    out = _forward(model, lq)
    again = PeftModel.from_pretrained(make_base(), str(folder), low_cpu_mem_usage=True)
    assert torch.equal(_forward(again, lq), out)
    with pytest.raises(ConfigError, match="has 3 prompts per block, the base 8"):
        model.merge_and_unload()
    assert torch.equal(_forward(model, lq), out)
    with pytest.raises(ConfigError, match="take 'dpm' for another number"):
        add_prompt_adapter(make_base(), DynamicPromptConfig(trainable_set="basis", num_prompts=3))


def test_copies_are_independent(
    make_base: MakeBase, perturb: Callable[..., None], lq: Tensor
) -> None:
    model = add_prompt_adapter(make_base(), DynamicPromptConfig(trainable_set="dpm+offset+spade"))
    out = _forward(model, lq)
    twin = copy.deepcopy(model)
    perturb(twin)
    assert not torch.equal(_forward(twin, lq), out)
    assert torch.equal(_forward(model, lq), out)


def test_casting_after_loading(make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor) -> None:
    folder = make_adapter(trainable_set="dpm+offset+spade")
    model = PeftModel.from_pretrained(make_base(), str(folder))
    out = _forward(model, lq)
    double = _forward(model.double(), lq.double())
    torch.testing.assert_close(double, out.double(), rtol=0, atol=2e-4)
    late = PeftModel.from_pretrained(make_base().double(), str(folder), low_cpu_mem_usage=True)
    assert torch.equal(_forward(late, lq.double()), double)


def test_autocast_and_gradient_checkpointing(make_base: MakeBase, lq: Tensor) -> None:
    gradients = []
    for checkpointing in (False, True):
        base = make_base()
        model = add_prompt_adapter(base, DynamicPromptConfig(trainable_set="dpm+offset+spade"))
        if checkpointing:
            base.enable_gradient_checkpointing()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(lq).float().abs().mean()
        loss.backward()
        gradients.append([p.grad for _, p in trainable_parameters(model)])
    assert all(grad is not None and grad.isfinite().all() for grad in gradients[0])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


# -- saving, and finding the base ------------------------------------------------------------------


def test_saving_replaces_only_complete_files(
    make_base: MakeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add_prompt_adapter(make_base(), adapter_name="webp")
    save_prompt_adapter(model, tmp_path, adapter_name="webp")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"adapter_config.json", "adapter_model.safetensors"}

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.peft_model.safe_save_file", full)
    with pytest.raises(AdapterError, match=r"No space left on device.*unchanged"):
        save_prompt_adapter(model, tmp_path, adapter_name="webp")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ConfigError, match="no adapter 'default'; there are: webp"):
        save_prompt_adapter(model, tmp_path)


def test_saving_does_not_ask_the_hub(
    make_base: MakeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("the Hub was asked")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    base = make_base()
    base.name_or_path = "user/base"
    save_prompt_adapter(add_prompt_adapter(base), tmp_path)


def test_the_base_is_found_by_its_name(
    make_base: MakeBase,
    perturb: Callable[..., None],
    lq: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assets, "_ROOT", tmp_path)
    make_base().save_pretrained(tmp_path / "bases" / "ucip-tiny-v3")
    model = add_prompt_adapter(UCIP.from_pretrained("ucip-tiny"), DynamicPromptConfig(codec="webp"))
    perturb(model)
    folder = save_prompt_adapter(model, tmp_path / "adapter")
    loaded = load_prompt_adapter(folder)
    # The version is recorded, not the name that will mean another base one day.
    assert loaded.peft_config["default"].base_model_name_or_path == "ucip-tiny-v3"
    assert torch.equal(_forward(loaded, lq), _forward(model, lq))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", AdapterError, "does not name its base"),
        ("{folder}", ConfigError, "'base', which is no shipped one and not on the Hub.*give that"),
        ("/no/such/secret", ConfigError, "'secret', which is no shipped one"),
        ("nobody/no-such-base", BaseFormatError, "the Hub was not asked"),
        ("no such/base/at all", ConfigError, "no base 'no such/base/at all'"),
    ],
)
def test_bases_that_are_not_fetched(
    name: str, error: type[Exception], message: str, make_base: MakeBase, tmp_path: Path
) -> None:
    make_base().save_pretrained(tmp_path / "base")
    base = make_base()
    base.name_or_path = name.format(folder=tmp_path / "base")
    folder = save_prompt_adapter(add_prompt_adapter(base), tmp_path / "adapter")
    with pytest.raises(error, match=message):
        load_prompt_adapter(folder)
    assert load_prompt_adapter(folder, make_base()).peft_config
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("save", [save_prompt_adapter, PeftModel.save_pretrained])
@pytest.mark.parametrize("made", ["at first", "later", "from a file"])
@pytest.mark.parametrize(
    ("name", "public"),
    [("{folder}", "base"), ("runs/base", "base"), ("ucip-tiny", "ucip-tiny-v3"), ("a/b", "a/b")],
)
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")  # PEFT's own
def test_pefts_own_ways_pass_on_no_folder_and_no_moving_name(
    name: str,
    public: str,
    made: str,
    save: Callable[..., object],
    make_base: MakeBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: None)
    make_base().save_pretrained(tmp_path / "runs" / "base")
    base = make_base()
    base.name_or_path = name.format(folder=tmp_path / "runs" / "base")
    config = DynamicPromptConfig(codec="webp")
    if made == "from a file":  # of an earlier version, which passed the folder on
        folder = save_prompt_adapter(add_prompt_adapter(make_base()), tmp_path / "old")
        file = folder / "adapter_config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(values | {"base_model_name_or_path": base.name_or_path}))
        model = PeftModel.from_pretrained(base, str(folder))
    else:
        model = get_peft_model(base, config)
    if made == "later":
        model.delete_adapter("default")
        model.add_adapter("default", DynamicPromptConfig(codec="webp"))
    save(model, str(tmp_path / "adapter"))
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert written["base_model_name_or_path"] == public
    for file in (tmp_path / "adapter").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


@pytest.mark.filterwarnings("ignore:The PEFT config's:UserWarning")  # PEFT's own, of the new name
def test_a_configuration_may_be_used_for_several_bases(
    make_base: MakeBase, perturb: Callable[..., None], lq: Tensor, tmp_path: Path
) -> None:
    config = DynamicPromptConfig(codec="webp")
    bases = {name: make_base(seed=seed) for seed, name in enumerate(("user/one", "user/two"))}
    for name, base in bases.items():
        base.name_or_path = name
        model = get_peft_model(base, config)
        perturb(model)
        written = model.peft_config["default"]
        assert written.base_model_name_or_path == name
        assert written.base_fingerprint == base.fingerprint
        folder = save_prompt_adapter(model, tmp_path / name)
        again = load_prompt_adapter(folder, make_base(seed=list(bases).index(name)))
        assert torch.equal(_forward(again, lq), _forward(model, lq))
    assert config.base_fingerprint is None
    model.add_adapter("second", config)
    model.peft_config["default"].codec = "jpeg"
    assert model.peft_config["second"].codec == "webp"


@pytest.mark.parametrize("name", ["{folder}", "/etc/passwd"])
def test_a_file_does_not_choose_a_folder(name: str, make_base: MakeBase, tmp_path: Path) -> None:
    make_base().save_pretrained(tmp_path / "base")
    folder = save_prompt_adapter(add_prompt_adapter(make_base()), tmp_path / "adapter")
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = name.format(folder=tmp_path / "base")
    config.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"names a folder as its base.*If you trust it"):
        load_prompt_adapter(folder)


@pytest.mark.gpu
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_on_a_gpu(
    low_cpu_mem_usage: bool, make_base: MakeBase, make_adapter: MakeAdapter, lq: Tensor
) -> None:
    folder = make_adapter(trainable_set="dpm+offset+spade")
    out = _forward(PeftModel.from_pretrained(make_base(), str(folder), torch_device="cpu"), lq)
    for base in (make_base(), make_base().cuda()):
        device = base.embed.weight.device
        model = PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=low_cpu_mem_usage)
        assert {p.device for p in model.parameters()} == {device}
        assert not trainable_parameters(model)
        torch.testing.assert_close(_forward(model, lq.to(device)).cpu(), out, rtol=0, atol=1e-3)
    model = add_prompt_adapter(make_base("prompt-free").cuda())
    names = ["default", "__base__", "default"]
    model.eval()(lq.cuda(), adapter_names=names).sum().backward()
    assert all(p.grad is not None and p.grad.is_cuda for _, p in trainable_parameters(model))


def test_a_sampler_chosen_later_reaches_adapters(make_base, make_adapter, lq):
    """Offsets in another layout than the sampler reads would be copied, every map of them."""
    base = make_base()
    first = make_adapter(trainable_set="dpm+offset", name="one")
    second = make_adapter(trainable_set="dpm+offset", name="two", seed=2)
    model = PeftModel.from_pretrained(base, str(first), adapter_name="one")
    model.load_adapter(str(second), "two")
    before = _forward(model, lq)
    layer = base.blocks[0].layers[0].offset
    sizes = layer.base_layer.dim, layer.base_layer.prompt_dim
    x, prompt = (torch.rand(1, 5, 7, size) for size in sizes)
    for sampler in ("fused", "gather"):
        base.use_sampler(sampler)
        for name in ("two", "one"):
            model.set_adapter(name, inference_mode=True)
            offset = layer(x, prompt)
            read = offset.permute(0, 2, 3, 1) if sampler == "fused" else offset
            assert read.is_contiguous(), f"{sampler}, {name}"
    torch.testing.assert_close(_forward(model, lq), before, rtol=1e-4, atol=1e-5)
