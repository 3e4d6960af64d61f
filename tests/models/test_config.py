"""UCIPConfig: what it accepts, refuses, writes and reads."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest

from ucip_adapt import UCIPConfig
from ucip_adapt.errors import BaseFormatError, ConfigError, UnknownNameError
from ucip_adapt.models import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset, tmp_path):
    config = UCIPConfig.preset(preset, num_slots=6, window=32)
    assert UCIPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert UCIPConfig.from_file(path) == config


def test_full_is_the_paper_and_the_default():
    assert UCIPConfig.preset("full") == UCIPConfig()
    config = UCIPConfig()
    assert (config.num_blocks, config.num_layers, config.num_prompts) == (6, 6, 8)
    assert (config.embed_dim, config.prompt_dim, config.mlp_ratio, config.share) == (128, 64, 4, 2)
    assert (config.global_skip, config.last_conv_scale, config.window) == ("none", 1.0, None)


def test_replace_changes_one_field():
    config = UCIPConfig.preset("nano")
    assert config.replace(window=16) == dataclasses.replace(config, window=16)
    with pytest.raises(TypeError, match="windows"):
        config.replace(windows=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 0}, "embed_dim=0: embed_dim must be at least 1"),
        ({"embed_dim": 18}, "embed_dim=18: embed_dim must be a multiple of 4"),
        ({"embed_dim": "16"}, "embed_dim='16': embed_dim must be of type int"),
        ({"embed_dim": 16.0}, "embed_dim=16.0: embed_dim must be of type int"),
        ({"num_blocks": True}, "num_blocks=True: num_blocks must be of type int"),
        ({"num_slots": 0}, "num_slots=0: num_slots must be at least 1"),
        ({"prompt_size": 0}, "prompt_size=0: prompt_size must be at least 1"),
        ({"prompt_dim": 7}, "prompt_dim=7: prompt_dim must be even"),
        ({"share": 3}, "share=3: share must divide embed_dim"),
        ({"local": "yes"}, "local='yes': local must be of type bool"),
        ({"last_conv_scale": None}, "last_conv_scale=None: last_conv_scale must be of type float"),
        ({"window": 4}, "window=4: window must be None or at least 8 pixels"),
        ({"window": "32"}, "window='32': window must be of type int | None"),
        ({"window_stride": 8}, "window_stride=8: window_stride needs a window"),
        ({"window": 16, "window_stride": 17}, "window_stride=17: window_stride needs a window"),
    ],
)
def test_refuses_values_by_field(changes, message):
    with pytest.raises(ConfigError) as caught:
        UCIPConfig.preset("nano", **changes)
    assert message in str(caught.value)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown preset 'nono'; did you mean 'nano'\?"):
        UCIPConfig.preset("nono")
    with pytest.raises(UnknownNameError, match=r"did you mean 'num_prompts'\? Known: embed_dim"):
        UCIPConfig.preset("nano", num_prompt=4)
    with pytest.raises(UnknownNameError, match=r"value for prompt 'dynamik'.*'dynamic'"):
        UCIPConfig.preset("nano", prompt="dynamik")
    with pytest.raises(UnknownNameError, match=r"value for sampler 'fast'.*gather, grid"):
        UCIPConfig.preset("nano", sampler="fast")


def test_function_fields_leave_out_what_changes_no_output():
    config = UCIPConfig.preset("nano")
    fields = set(config.function_fields())
    everything = {field.name for field in dataclasses.fields(config)}
    assert everything - fields == {"last_conv_scale", "sampler", "window", "window_stride"}


def test_unknown_keys_of_a_file_are_warned_about_and_ignored():
    values = {**UCIPConfig.preset("nano").to_dict(), "later": 1}
    with pytest.warns(UserWarning, match=r"config: unknown keys ignored: later"):
        assert UCIPConfig.from_dict(values) == UCIPConfig.preset("nano")


def test_minor_format_versions_are_read_and_major_ones_refused():
    values = UCIPConfig.preset("nano").to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert UCIPConfig.from_dict({**values, "format_version": "1.7"})
    with pytest.raises(BaseFormatError, match=r"format_version 2.0; .* update the package"):
        UCIPConfig.from_dict({**values, "format_version": "2.0"})


@pytest.mark.parametrize("missing", ["format_version", "architecture"])
def test_refuses_the_configuration_of_something_else(missing):
    values = UCIPConfig.preset("nano").to_dict()
    del values[missing]
    with pytest.raises(BaseFormatError, match="is not the configuration of a UCIP network"):
        UCIPConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read"), ("{", "cannot read"), ("[1]", "holds no JSON object")],
)
def test_refuses_unreadable_files(text, message, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BaseFormatError, match=message):
        UCIPConfig.from_file(path)
