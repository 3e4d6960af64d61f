"""DynamicPromptConfig: what is written is read again, and what others write is only text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor

from ucip_adapt.errors import AdapterError, ConfigError, UnknownNameError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, save_prompt_adapter

MakeBase = Callable[..., UCIP]


def _edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip(make_base: MakeBase, tmp_path: Path) -> None:
    config = DynamicPromptConfig(
        codec="webp",
        qualities=(10, 40),  # type: ignore[arg-type]
        trainable_set="dpm+offset",
        trainable_blocks="last:1",
        metrics={"set5": {"psnr_y_c4_db": 28.5}},
    )
    base = make_base()
    base.name_or_path = "user/base"
    model = add_prompt_adapter(base, config)
    assert config.base_fingerprint is None, "the caller's configuration was changed"
    written = model.peft_config["default"]
    save_prompt_adapter(model, tmp_path)
    read = DynamicPromptConfig.from_pretrained(tmp_path)
    assert read.base_fingerprint == base.fingerprint
    assert read.base_model_name_or_path == "user/base"
    assert read.qualities == [10, 40]
    assert read.num_prompts == 8
    assert read.format_version == "1.0"
    assert read.weights_sha256
    assert read.inference_mode
    different = {"inference_mode", "auto_mapping"}
    for name, value in written.to_dict().items():
        assert name in different or getattr(read, name) == value, name
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), DynamicPromptConfig)


def test_keys_of_a_newer_minor_version_are_ignored_with_a_warning(
    make_base: MakeBase, make_adapter: Callable[..., Path], lq: Tensor
) -> None:
    folder = make_adapter()
    expected = PeftModel.from_pretrained(make_base(), str(folder))
    _edit(folder, format_version="1.7", colour="green", import_path="os.system")
    with pytest.warns(UserWarning, match=r"1\.7\): unknown keys ignored: colour, import_path"):
        model = PeftModel.from_pretrained(make_base(), str(folder))
    with torch.no_grad():
        assert torch.equal(model(lq), expected(lq))


def test_a_file_cannot_choose_what_is_imported(make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    own = {"base_model_class": "UCIP", "parent_library": "ucip_adapt.models.ucip"}
    assert DynamicPromptConfig.from_pretrained(folder).auto_mapping == own
    _edit(folder, auto_mapping={"base_model_class": "system", "parent_library": "os"})
    assert DynamicPromptConfig.from_pretrained(folder).auto_mapping is None


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"trainable_set": "dmp"}, UnknownNameError, "did you mean 'dpm'"),
        ({"trainable_blocks": "first:1"}, ConfigError, "must be 'all' or 'last:N'"),
        ({"qualities": [1.5]}, ConfigError, "list of integers"),
        ({"codec": 3}, ConfigError, "codec must be text"),
        ({"target_modules": []}, ConfigError, "list of module names"),
        ({"num_prompts": True}, ConfigError, "from 1 to 4096"),
        ({"metrics": [1]}, ConfigError, "metrics must be a table"),
        ({"format_version": "2.0"}, AdapterError, "reads 1.x; update the package"),
    ],
)
def test_wrong_values(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DynamicPromptConfig(**values)


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"', "null", '{"peft_type": 3}'])
def test_configuration_files_that_are_none(content: str, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        DynamicPromptConfig.from_pretrained(folder)


def test_no_adapter_at_all(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="must be a folder with that file, or a repository"):
        DynamicPromptConfig.from_pretrained(tmp_path / "nothing")
