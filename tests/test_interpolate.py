"""Between two adapters: `ucip_adapt.interpolate`, and the page that describes it."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import make_interpolation as maker
import pytest
import torch
from torch import Tensor, nn

from ucip_adapt.errors import BaseMismatchError, ConfigError, UnknownNameError
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, save_prompt_adapter
from ucip_adapt.upscaler import Upscaler, interpolate, load

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Save an adapter on one small base in ``base``; returns its folder."""

    def base(seed: int = 0) -> UCIP:
        torch.manual_seed(seed)
        return UCIP(UCIPConfig.preset("nano", last_conv_scale=1.0)).eval()

    base().save_pretrained(tmp_path / "base")

    def save(name: str, seed: int, trainable_set: str = "dpm+offset", base_seed: int = 0) -> Path:
        config = DynamicPromptConfig(codec="webp", trainable_set=trainable_set)
        model = add_prompt_adapter(base(base_seed), config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name_of, parameter in sorted(model.named_parameters()):
                if "dynprompt_" in name_of:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
        return save_prompt_adapter(model, tmp_path / name)

    return save


def _values(model: Upscaler) -> dict[str, Tensor]:
    """The tensors that the network computes with: those of the only adapter, by their places."""
    (name,) = model.network.peft_config
    return {
        key.replace(f".{name}", ""): value.detach().clone()
        for key, value in model.network.named_parameters()
        if "dynprompt_" in key
    }


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_every_parameter_lies_between(t: float, make: Make, tmp_path: Path) -> None:
    first, second = make("A", 1), make("B", 2)
    base = tmp_path / "base"
    ends = [_values(load(folder, base=base)) for folder in (first, second)]
    model = interpolate(first, second, t, base=base)
    between = _values(model)
    assert between.keys() == ends[0].keys()
    for key, value in between.items():
        torch.testing.assert_close(
            value.double(),
            (1 - t) * ends[0][key].double() + t * ends[1][key].double(),
            rtol=0,
            atol=1e-6,
        )
    assert not [p for p in model.network.parameters() if p.requires_grad]
    lq = torch.rand(1, 3, 9, 13)
    outputs = [load(folder, base=base).upscale(lq) for folder in (first, second)]
    if t in (0.0, 1.0):
        assert torch.equal(model.upscale(lq), outputs[int(t)])
    else:
        assert not any(torch.equal(model.upscale(lq), out) for out in outputs)
        assert model.adapter == f"0.7 {first} + 0.3 {second}"


def test_beyond_the_two_only_if_asked_for(make: Make, tmp_path: Path) -> None:
    first, second = make("A", 1), make("B", 2)
    base = tmp_path / "base"
    for t in (-0.1, 1.2):
        with pytest.raises(ConfigError, match=r"outside \[0, 1\]: give extrapolate=True"):
            interpolate(first, second, t, base=base)
    with pytest.raises(ConfigError, match="t=nan must be a finite number"):
        interpolate(first, second, math.nan, extrapolate=True, base=base)
    ends = [_values(load(folder, base=base)) for folder in (first, second)]
    for key, value in _values(interpolate(first, second, 1.2, extrapolate=True, base=base)).items():
        expected = 1.2 * ends[1][key].double() - 0.2 * ends[0][key].double()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)


def test_adapters_that_do_not_fit_each_other(make: Make, tmp_path: Path) -> None:
    first, base = make("A", 1), tmp_path / "base"
    with pytest.raises(ConfigError, match="'linear' needs the same trainable_set"):
        interpolate(first, make("C", 1, "dpm"), 0.5, base=base)
    with pytest.raises(BaseMismatchError):
        interpolate(first, make("D", 1, base_seed=7), 0.5, base=base)
    with pytest.raises(UnknownNameError, match="unknown adapter 'wepb'"):
        interpolate(first, "wepb", 0.5, base=base)


def _inventory(model: nn.Module) -> tuple[int, int, int]:
    """Modules, parameters and hooks of a network."""
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    return len(list(model.modules())), len(list(model.parameters())), hooks


@pytest.mark.parametrize("swaps", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_swaps_leave_nothing_behind(swaps: int, make: Make, tmp_path: Path) -> None:
    """Interpolations made, used and dropped in one network; R15 has the memory of files swapped."""
    first, second = make("A", 1, "dpm"), make("B", 2, "dpm")
    model = load(first, base=tmp_path / "base").network
    model.load_adapter(str(second), "second")
    lq = torch.rand(2, 3, 8, 9)
    names = ["default", "second"]
    with torch.no_grad():
        alone = [_with(model, name, lq) for name in names]
        before = _inventory(model)
        tensors = 0
        for swap in range(swaps):
            name, t = f"between{swap}", swap / (swaps - 1)
            model.base_model.add_weighted_adapter(names, [1 - t, t], name)
            out = _with(model, name, lq)
            if swap in (0, swaps - 1):
                assert torch.equal(out, alone[min(swap, 1)])
            # In one batch: the new one, and one of its ends beside it.
            mixed = model(lq, adapter_names=[name, "default"])
            torch.testing.assert_close(mixed, torch.stack([out[0], alone[0][1]]), rtol=0, atol=1e-6)
            model.set_adapter("default", inference_mode=True)
            model.delete_adapter(name)
            if swap in (2, swaps - 1):
                gc.collect()
                live = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
                assert tensors in (0, live)
                tensors = live
    assert _inventory(model) == before
    assert set(model.peft_config) == set(names)


def _with(model: nn.Module, name: str, lq: Tensor) -> Tensor:
    model.set_adapter(name, inference_mode=True)
    return model(lq)


def _blocks(page: Path) -> Iterator[str]:
    yield from re.findall(r"(?ms)^```python\n(.+?)^```", page.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:.*already found a `peft_config`:UserWarning")
def test_the_code_of_the_page_runs(
    make: Make, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("webp-10", 1), ("webp-40", 2)):
        make(name, seed, "dpm")
        config = tmp_path / name / "adapter_config.json"
        text = config.read_text(encoding="utf-8")
        assert '"base_model_name_or_path": null' in text
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    code = list(_blocks(repo_root / "docs" / "adapter_arithmetic.md"))
    assert len(code) >= 3
    scope: dict[str, object] = {}
    for block in code:
        # The tests' adapters are of a small base, which they cannot name.
        ours = block.replace('"ucip-tiny"', '"base"').replace("0.3)", '0.3, base="base")')
        exec(ours, scope)  # noqa: S102


def test_the_table_of_the_page_is_fresh() -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    assert maker.main(["--check"]) == 0
    assert "| webp 10 | " in page
    assert maker.PLOT.stat().st_size < 150_000
    # The gains are differences to the base at the same quality.
    record = json.loads(maker.RESULTS.read_text(encoding="utf-8"))
    rows = {(r["method"], r["quality"]): r["psnr_db"] for r in record["scores"]["rows"]}
    assert f"{rows['t=0', 40] - rows['base', 40]:+.3f}" in page
