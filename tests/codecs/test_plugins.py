"""Codecs of other packages, and which codec fills a slot here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt import codecs
from ucip_adapt.cli import main
from ucip_adapt.codecs import Availability, CodecSpec, get_codec, list_codecs, register_codec
from ucip_adapt.codecs.pillow import WEBP
from ucip_adapt.codecs.plugins import installed
from ucip_adapt.codecs.resolve import Resolution, resolve
from ucip_adapt.data import parse_settings
from ucip_adapt.errors import CodecError, ConfigError, UnknownNameError

MODULE = """
import dataclasses
from ucip_adapt.codecs.pillow import WEBP
LOADED = open(__file__ + ".loaded", "a").write("x")
GOOD = dataclasses.replace(WEBP, spec=dataclasses.replace(WEBP.spec, name="good"))
HALF = object()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a package that offers codecs: entry points by name."""
    monkeypatch.syspath_prepend(tmp_path)

    def _install(distribution: str, **points: str) -> Path:
        module = f"{distribution}_module"
        (tmp_path / f"{module}.py").write_text(MODULE)
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        lines = [f"{name} = {value.format(module=module)}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[ucip_adapt.codecs]", *lines, ""]))
        installed.cache_clear()
        return tmp_path / f"{module}.py.loaded"

    yield _install
    installed.cache_clear()


def test_a_plug_in_is_a_codec_like_any_other(install, lr: np.ndarray, capsys) -> None:
    loaded = install("friendly", good="{module}:GOOD")
    get_codec("webp")
    assert not loaded.exists()  # nothing is imported until it is asked for
    assert [setting.codec for setting in parse_settings("good", (10,))] == ["good"]
    assert loaded.exists()
    coded = get_codec("good").roundtrip(lr, 30)
    np.testing.assert_array_equal(coded.pixels, WEBP.roundtrip(lr, 30).pixels)
    assert list_codecs()[-1][0].name == "good"
    assert str(resolve("good")) == "good"
    with pytest.raises(ConfigError, match="there is a codec 'good' already"):
        register_codec(get_codec("good"))
    assert main(["codecs"]) == 0
    assert "good " in capsys.readouterr().out


BROKEN = {
    "no module": ("no_such_module:X", r"ModuleNotFoundError: No module named 'no_such_module'"),
    "no object": ("{module}:BAD", r"AttributeError: module .* has no attribute 'BAD'"),
    "half": ("{module}:HALF", r"HALF has no spec, available, fingerprint, roundtrip"),
    "other name": ("{module}:GOOD", r"GOOD\.spec is no CodecSpec named 'bad'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_a_message(name: str, install, lr: np.ndarray, capsys) -> None:
    value, problem = BROKEN[name]
    install(f"sad{len(name)}", bad=value)
    message = rf"the plug-in sad{len(name)} cannot be used: .*{problem}"
    with pytest.raises(CodecError, match=rf"codec bad is not available: {message}"):
        get_codec("bad").roundtrip(lr, 10)
    assert main(["codecs"]) == 0  # the others are listed all the same
    table = capsys.readouterr().out
    assert "webp " in table
    assert f"the plug-in sad{len(name)} cannot be used" in table
    assert f"pip install --upgrade sad{len(name)}" in table


def test_a_name_that_two_offer_is_an_error(install, capsys) -> None:
    install("first", good="{module}:GOOD")
    install("second", good="{module}:GOOD")
    with pytest.raises(ConfigError, match=r"two plug-ins, (first|second) and .*, offer a"):
        get_codec("good")
    assert main(["codecs"]) == 2
    assert "offer a codec 'good'" in capsys.readouterr().err


def test_a_plug_in_does_not_take_the_place_of_ours(install) -> None:
    install("thief", webp="{module}:GOOD")
    assert get_codec("webp") is WEBP
    with pytest.raises(ConfigError, match="the plug-in thief offers a codec 'webp', and there is"):
        list_codecs()


# -- resolve ---------------------------------------------------------------------------------------


def fake(name: str, *, ok: bool, faithful: bool, qualities=(47, 42), family: str = "hevc"):
    spec = CodecSpec(name, family, "qp", qualities, (0, 51), faithful=faithful)
    state = Availability(ok=ok, reason=f"no {name} program", install=f"build {name}")
    codec = dataclasses.replace(WEBP, spec=spec)
    object.__setattr__(codec, "available", lambda: state)
    return codec


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch):
    """Put other codecs into the table."""

    def _table(**entries) -> None:
        monkeypatch.setattr(codecs, "CODECS", entries)

    return _table


def test_what_works_is_not_replaced(table) -> None:
    table(
        x265=fake("x265", ok=True, faithful=False),
        hm=fake("hm", ok=True, faithful=True),
    )
    own = Resolution("hm", "hm", substituted=False, reason="")
    assert resolve("hm") == resolve("hevc") == resolve("hm", prefer=("x265",)) == own
    assert resolve("hevc", strict=True) == own
    assert resolve("x265").got == "x265"


def test_a_substitution_is_on_record_or_an_error(table) -> None:
    table(
        other=fake("other", ok=True, faithful=False, qualities=(10, 20)),
        x265=fake("x265", ok=True, faithful=False),
        hm=fake("hm", ok=False, faithful=True),
    )
    expected = Resolution("hm", "x265", substituted=True, reason="no hm program")
    assert resolve("hm") == resolve("hevc") == resolve("hevc", prefer=("hm", "x265")) == expected
    assert str(expected) == "x265 in place of hm (no hm program)"
    assert expected.codec.spec.name == "x265"
    for slot in ("hm", "hevc"):
        with pytest.raises(CodecError, match=r"hm is not available: no hm program\. build hm"):
            resolve(slot, strict=True)
    # Its qualities mean something else, so it is taken only where the user says so.
    assert resolve("hm", prefer=("other",)).got == "other"


def test_a_slot_that_nothing_fills_names_what_was_tried(table) -> None:
    table(
        x265=fake("x265", ok=False, faithful=False),
        hm=fake("hm", ok=False, faithful=True),
        webp=fake("webp", ok=True, faithful=True, family="webp"),
    )
    with pytest.raises(CodecError, match=r"no codec for hevc works here \(tried hm, x265\)\. hm"):
        resolve("hevc")
    with pytest.raises(UnknownNameError, match="unknown codec or family 'hefc'; did you mean 'hev"):
        resolve("hefc")
