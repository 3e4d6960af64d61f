"""Suites as data: the paper's settings, substitutions on record, and files that may be hostile."""

from __future__ import annotations

import pytest

from ucip_adapt.codecs import CODECS, Availability, get_codec
from ucip_adapt.errors import CodecError, CommandRefusedError, ConfigError, UnknownNameError
from ucip_adapt.suites import SUITES, fill_suite, load_suite

SLOT = "[[slots]]\ncodec = 'webp'\nqualities = [10]\n"


def test_the_papers_23_settings():
    """Sec. 4.1: JPEG 10 to 40, HM and VTM at QP 32 to 47, Cheng2020 twice, HiFiC at three rates."""
    suite = load_suite("ucsr")
    assert [(slot.codec, set(slot.qualities)) for slot in suite.slots] == [
        ("jpeg", {10, 20, 30, 40}),
        ("hm", {32, 37, 42, 47}),
        ("vtm", {32, 37, 42, 47}),
        ("cheng2020-mse", {1, 2, 3, 4}),
        ("cheng2020-msssim", {1, 2, 3, 4}),
        ("hific", {1, 2, 3}),
    ]
    assert suite.strict
    assert suite.num_settings == 23


def test_the_open_suite_has_the_same_slots():
    paper, opened = load_suite("ucsr"), load_suite("ucsr-open")
    assert [slot.name for slot in opened.slots] == [slot.name for slot in paper.slots]
    assert [slot.qualities for slot in opened.slots] == [slot.qualities for slot in paper.slots]
    assert [slot.asked for slot in opened.slots] == [slot.codec for slot in paper.slots]
    assert [slot.codec for slot in opened.slots] == [
        *("jpeg", "hevc-x265", "vvc-vvenc"),
        *("tiny-mse", "tiny-msssim", "tiny-perceptual"),
    ]
    stored = load_suite("ucsr-streams")
    assert [slot.name for slot in stored.slots] == [slot.name for slot in paper.slots]
    assert [slot.asked for slot in stored.slots] == [slot.asked for slot in paper.slots]
    assert [slot.codec for slot in stored.slots][:4] == ["jpeg", "hm", "vtm", "tiny-mse"]


@pytest.mark.parametrize("name", SUITES)
def test_qualities_go_from_the_worst_picture_to_the_best(name):
    for slot in load_suite(name).slots:
        assert slot.qualities == CODECS[slot.codec].spec.qualities
        assert CODECS[slot.asked].spec.faithful


def test_a_substitution_is_recorded_and_strict_refuses_it(tmp_path, monkeypatch):
    missing = Availability(ok=False, reason="no HM here", install="build it")
    monkeypatch.setattr(type(get_codec("hm")), "available", lambda self: missing)
    works = Availability(ok=True)
    monkeypatch.setattr(type(get_codec("hevc-x265")), "available", lambda self: works)
    file = tmp_path / "mine.toml"
    file.write_text("[[slots]]\ncodec = 'hm'\nqualities = [47, 32]\n")
    filled = fill_suite(load_suite(file))
    assert filled.slots[0].to_dict() == {
        "name": "hm",
        "asked": "hm",
        "named": "hm",
        "codec": "hevc-x265",
        "substituted": True,
        "reason": "no HM here",
        "qualities": [47, 32],
    }
    assert [str(setting) for setting in filled.settings] == ["hevc-x265:47", "hevc-x265:32"]
    assert filled.substitutions == [
        "hm: hm is asked for, hevc-x265 stands in (no HM here)",
    ]
    with pytest.raises(CodecError, match=r"codec hm is not available: no HM here\. build it"):
        fill_suite(load_suite(file), strict=True)
    file.write_text(file.read_text() + "[[slots]]\ncodec = 'hevc-x265'\nqualities = [32]\n")
    with pytest.raises(ConfigError, match="the slots hm and hevc-x265 both come to hevc-x265:32"):
        fill_suite(load_suite(file))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("slot = []", UnknownNameError, "unknown key in .*mine.toml: 'slot'; did you mean 'slots'"),
        (SLOT + "quality = 3", UnknownNameError, "slot 1: 'quality'.* Known: codec, name, qual"),
        ("", ConfigError, r"needs at least one \[\[slots\]\]"),
        ("slots = [3]", ConfigError, r"slot 1: write it as \[\[slots\]\]"),
        ("[[slots]]\nqualities = [1]", ConfigError, "slot 1: codec is missing"),
        ("[[slots]]\ncodec = 3\nqualities = [1]", ConfigError, "codec: expected text in quotes"),
        ("[[slots]]\ncodec = 'webp'\nqualities = ['1']", ConfigError, "expected a list such as"),
        ("[[slots]]\ncodec = 'webp'\nqualities = [1, 1]", ConfigError, "one is named twice"),
        (SLOT + SLOT, ConfigError, "two slots have the name 'webp'"),
        ("strict = 1\n" + SLOT, ConfigError, "strict: expected true or false, got 1"),
        (SLOT + "name = '../../up'", ConfigError, r"name: '\.\./\.\./up' must be letters, digits"),
        (SLOT + "name = 'default'", ConfigError, "call all slots together 'default'; choose"),
        (SLOT + "name = '/abs'", ConfigError, "must be letters, digits"),
        ("= 3", ConfigError, "is not valid TOML"),
        ("x = " + "[" * 5000, ConfigError, "is not valid TOML"),
        ("description = '" + "x" * 1_000_001 + "'", ConfigError, "is too large for a suite"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, error, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(error, match=message):
        load_suite(tmp_path / "mine.toml")


def test_names_that_are_none(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'ucsr-opne'; did you mean 'ucsr-open'\?"):
        load_suite("ucsr-opne")
    with pytest.raises(ConfigError, match=r"cannot read the suite .*none\.toml: No such file"):
        load_suite(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a text file in UTF-8"):
        load_suite(tmp_path / "bytes.toml")
    (tmp_path / "odd.toml").write_text("[[slots]]\ncodec = 'webpp'\nqualities = [1]\n")
    with pytest.raises(UnknownNameError, match="unknown codec 'webpp'; did you mean 'webp'"):
        fill_suite(load_suite(tmp_path / "odd.toml"))
    (tmp_path / "odd.toml").write_text("[[slots]]\ncodec = 'webp'\nqualities = [101]\n")
    with pytest.raises(ConfigError, match="webp takes quality 0 to 100, not 101"):
        fill_suite(load_suite(tmp_path / "odd.toml"))


@pytest.mark.parametrize("codec", ["command:touch {in} {out}", "folder:/", "streams:/", "command:"])
def test_a_suite_from_anywhere_runs_and_opens_nothing(tmp_path, codec, monkeypatch):
    """R27b: shown as text, and refused."""
    file = tmp_path / "theirs.toml"
    file.write_text(f"[[slots]]\nname = 'x'\ncodec = '{codec}'\nqualities = [0]\n")
    opened = []
    monkeypatch.setattr("ucip_adapt.suites.resolved.get_codec", opened.append)
    with pytest.raises(CommandRefusedError, match=r"neither run nor opened.*--allow-command"):
        load_suite(file)
    assert not opened


def test_what_a_refused_suite_says_cannot_steer_the_terminal(tmp_path):
    file = tmp_path / "theirs.toml"
    text = '[[slots]]\nname = "x"\ncodec = "command:\\u001b[2J{in}"\nqualities = [0]\n'
    file.write_text(text)
    with pytest.raises(CommandRefusedError) as caught:
        load_suite(file)
    assert "\x1b" not in str(caught.value)
    assert load_suite(file, allow_command=True).slots[0].codec == "command:\x1b[2J{in}"
    with pytest.raises(CommandRefusedError):
        fill_suite(load_suite(file, allow_command=True))
