"""The rule of `format_version`, for every format that outlives the version that wrote it.

A base's config.json, an adapter's adapter_config.json and results.json: each carries a version;
unknown keys are a warning; a newer minor version is read; a newer major one says to update; a file
without a readable version is a typed error.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ucip_adapt.errors import AdapterError, BaseFormatError, UcipError
from ucip_adapt.formats import check_format_version
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.results import ResultsError, read_results, write_results
from ucip_adapt.tuning import add_prompt_adapter, load_prompt_adapter, save_prompt_adapter


@dataclass(frozen=True)
class Format:
    """How a format is written and read, and the error of a file that cannot be."""

    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    error: type[UcipError]


def nano() -> UCIP:
    torch.manual_seed(0)
    return UCIP(UCIPConfig.preset("nano"))


FORMATS = [
    Format(
        "config.json",
        lambda folder: nano().save_pretrained(folder),
        UCIP.from_pretrained,
        BaseFormatError,
    ),
    Format(
        "adapter_config.json",
        lambda folder: save_prompt_adapter(add_prompt_adapter(nano()), folder),
        lambda folder: load_prompt_adapter(folder, nano()),
        AdapterError,
    ),
    Format(
        "results.json",
        lambda folder: write_results(folder / "results.json", {"kind": "evaluate"}),
        lambda folder: read_results(folder / "results.json"),
        ResultsError,
    ),
]

MISSING = object()
GARBAGE = [
    *(MISSING, None, "", "abc", "1", "1.", ".0", "1.0.0", "1.x", "-1.0", "1.0\n", " 1.0", "1,0"),
    *("\u0661.\u0660", "9" * 5000 + ".0", 1, 1.0, True, ["1.0"], {"major": 1}),
]


@pytest.fixture(params=FORMATS, ids=lambda fmt: fmt.file)
def fmt(request: pytest.FixtureRequest, tmp_path: Path) -> Format:
    """Each format in turn, a file of it already in ``tmp_path``."""
    request.param.write(tmp_path)
    return request.param


def change(path: Path, **changes: object) -> None:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    kept = {key: value for key, value in content.items() if value is not MISSING}
    path.write_text(json.dumps(kept), encoding="utf-8")


def test_the_file_carries_its_version_and_is_read_without_a_warning(fmt, tmp_path):
    assert json.loads((tmp_path / fmt.file).read_text())["format_version"] == "1.0"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert fmt.read(tmp_path) is not None


def test_unknown_keys_are_a_warning_and_the_file_is_read(fmt, tmp_path):
    change(tmp_path / fmt.file, colour="green", depth=[1])
    with pytest.warns(UserWarning, match=r"unknown .*colour, depth") as caught:
        assert fmt.read(tmp_path) is not None
    assert fmt.file in "".join(str(warning.message) for warning in caught)


def test_a_newer_minor_version_is_read(fmt, tmp_path):
    change(tmp_path / fmt.file, format_version="1.12")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert fmt.read(tmp_path) is not None


@pytest.mark.parametrize("version", ["2.0", "10.1"])
def test_a_newer_major_version_says_to_update(fmt, version, tmp_path):
    # What it brings may be anything: not a key of it may be looked at before its version.
    change(tmp_path / fmt.file, format_version=version, colour="green")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(
            fmt.error, match=rf"{fmt.file} has format_version {version}; .* update the package"
        ):
            fmt.read(tmp_path)


def test_an_older_major_version_does_not_say_to_update(fmt, tmp_path):
    change(tmp_path / fmt.file, format_version="0.9")
    with pytest.raises(fmt.error, match=r"format_version 0\.9; .* reads 1\.x; write it again"):
        fmt.read(tmp_path)


@pytest.mark.parametrize("version", GARBAGE, ids=lambda v: repr(v)[:12] if v is not MISSING else "")
def test_a_missing_or_unreadable_version_is_an_error(fmt, version, tmp_path):
    change(tmp_path / fmt.file, format_version=version)
    with pytest.raises(fmt.error, match=rf"{fmt.file}.* format_version"):
        fmt.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"1.0"', "null"])
def test_what_is_no_table_is_an_error(fmt, text, tmp_path):
    (tmp_path / fmt.file).write_text(text)
    with pytest.raises(fmt.error):
        fmt.read(tmp_path)


def test_every_module_with_a_version_uses_the_one_rule(repo_root):
    """Checkpoint manifests and the metadata of weights too, and formats that are yet to come."""
    sources = {
        path.name: path.read_text(encoding="utf-8")
        for path in (repo_root / "ucip_adapt").rglob("*.py")
    }
    writers = [name for name, text in sources.items() if "FORMAT_VERSION = " in text]
    assert len(writers) >= len(FORMATS)
    assert [name for name in writers if "    check_format_version(" not in sources[name]] == []


def test_the_rule_itself():
    check_format_version("1.0", "1.0", what="x", error=ResultsError)
    check_format_version("3.0", "3.4", what="x", error=ResultsError)
    with pytest.raises(BaseFormatError, match=r"x has format_version 4\.0; .* reads 3\.x; update"):
        check_format_version("4.0", "3.4", what="x", error=BaseFormatError)
    with pytest.raises(AdapterError, match=r"x has format_version 3, expected one like '3\.4'"):
        check_format_version(3, "3.4", what="x", error=AdapterError)
