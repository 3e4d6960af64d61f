"""Where an adapter is looked for, and what cannot be asked for there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ucip_adapt import load
from ucip_adapt.assets import adapters_folder
from ucip_adapt.cli import main
from ucip_adapt.errors import AdapterError, ConfigError
from ucip_adapt.hub import library
from ucip_adapt.hub.library import locate_adapter

SHIPPED = "adapter 'webp' comes with the package and has no"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str | None]]:
    """What the Hub was asked for."""
    calls: list[tuple[str, str | None, str | None]] = []

    def fetch(source: str, *, revision: str | None, subfolder: str | None) -> Path:
        calls.append((source, revision, subfolder))
        return Path("fetched")

    monkeypatch.setattr(library, "fetch_adapter", fetch)
    return calls


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"revision": "v1"}, f"{SHIPPED} revisions; leave the revision out"),
        ({"subfolder": "a"}, f"{SHIPPED} subfolders; leave the subfolder out"),
        ({"revision": "v1", "subfolder": "a"}, f"{SHIPPED} revisions; leave the revision out"),
    ],
)
def test_a_shipped_adapter_has_one_version_and_one_place(
    where: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        locate_adapter("webp", **where)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load("webp", **where)


@pytest.mark.parametrize("nothing", ["", " "])
def test_an_empty_name_is_not_the_folder_here(
    nothing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(adapters_folder() / "avif")
    with pytest.raises(AdapterError, match="no adapter is named"):
        load(nothing)
    assert main(["adapters", "show", nothing]) == 2
    assert "no adapter is named" in capsys.readouterr().err


def test_a_folder_has_subfolders_and_no_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = Path("user", "codecs", "mine")
    inner.mkdir(parents=True)
    assert locate_adapter("user/codecs", subfolder="mine") == inner
    message = "'user/codecs' is a folder here and has no revisions; leave the revision out"
    for subfolder in (None, "mine"):
        with pytest.raises(ConfigError, match=re.escape(message)):
            locate_adapter("user/codecs", revision="v1", subfolder=subfolder)
    assert asked == []


def test_the_hub_is_asked_for_both(asked: list[object]) -> None:
    assert locate_adapter("user/codecs", revision="v1", subfolder="a") == Path("fetched")
    assert asked == [("user/codecs", "v1", "a")]


@pytest.mark.parametrize("action", ["show", "verify", "pull"])
def test_commands_say_it_in_one_line(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "mine")] if action == "pull" else []
    for source, flag, message in (
        ("webp", "--revision", f"{SHIPPED} revisions"),
        ("webp", "--subfolder", f"{SHIPPED} subfolders"),
        (str(adapters_folder() / "webp"), "--revision", "is a folder here and has no revisions"),
    ):
        assert main(["adapters", action, source, flag, "v1", *output]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert shown.out == ""
    assert not (tmp_path / "mine").exists()
    assert main(["adapters", "show", "webp"]) == 0  # neither is given by default
