"""`ucip-adapt codecs --check`: it passes what is sound and names what is not."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt import codecs
from ucip_adapt.cli import main
from ucip_adapt.codecs import CODECS, Degraded
from ucip_adapt.codecs.pillow import JPEG, WEBP


@pytest.fixture
def swap(monkeypatch: pytest.MonkeyPatch):
    """Put a faulty WebP into the table: each coded picture goes through a function first."""

    def _swap(change) -> None:
        class Faulty(type(WEBP)):
            def roundtrip(self, rgb, quality):
                return change(super().roundtrip(rgb, quality), quality)

        fields = {field.name: getattr(WEBP, field.name) for field in dataclasses.fields(WEBP)}
        monkeypatch.setitem(codecs.CODECS, "webp", Faulty(**fields))

    return _swap


def test_check_shows_rate_fidelity_and_time_of_every_quality(capsys) -> None:
    assert main(["codecs", "--check", "webp", "jpeg"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    expected = [(c.spec.name, q) for c in (WEBP, JPEG) for q in c.spec.qualities]
    assert [(line[0], int(line[2])) for line in lines] == expected
    assert [line[-1] for line in lines if line[-1] == "ok"] == ["ok", "ok"]

    assert main(["codecs", "--check", "webp", "jpeg", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    points = [point for entry in entries for point in entry["check"]["points"]]
    for line, point in zip(lines, points, strict=True):
        assert line[3:5] == [f"{point['bpp']:.3f}", f"{point['psnr_db']:.2f}"]
        assert point["seconds"] > 0
    # The picture is a photograph of 144 x 144 pixels: the rates are those of the contract's window.
    assert all(0.2 < point["bpp"] < 2 and 20 < point["psnr_db"] < 40 for point in points)


def noise(coded: Degraded, _quality: int) -> Degraded:
    pixels = coded.pixels + np.random.default_rng().integers(0, 2, coded.pixels.shape)
    return dataclasses.replace(coded, pixels=pixels.astype(np.uint8))


FAULTS = {
    "size": (
        lambda coded, _: dataclasses.replace(coded, pixels=coded.pixels[1:]),
        (
            "webp: uint8 of shape (143, 144, 3) came back at quality 10, "
            "not uint8 of shape (144, 144, 3)"
        ),
    ),
    "type": (
        lambda coded, _: dataclasses.replace(coded, pixels=coded.pixels / 255),
        "webp: float64 of shape (144, 144, 3) came back",
    ),
    "rate": (
        lambda coded, quality: dataclasses.replace(coded, num_bytes=1000 if quality > 20 else 900),
        "the rate does not rise from quality 10 to 20 (0.347 to 0.347 bpp)",
    ),
    "fidelity": (
        lambda coded, quality: (
            dataclasses.replace(coded, pixels=coded.pixels // 2) if quality == 40 else coded
        ),
        "the PSNR does not rise from quality 30 to 40",
    ),
    "chance": (noise, "quality 10 gives another result each time"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_check_names_what_is_wrong(name: str, swap, capsys) -> None:
    change, problem = FAULTS[name]
    swap(change)
    assert main(["codecs", "--check", "webp"]) == 1
    assert f"FAILED: {problem}" in capsys.readouterr().out


def test_check_of_a_codec_that_is_not_here_fails_only_if_it_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    gone = codecs.Availability(ok=False, reason="no library", install="pip install it")
    monkeypatch.setattr(codecs, "CODECS", {"jpeg": JPEG, "webp": WEBP})
    monkeypatch.setattr(
        type(WEBP), "available", lambda self: gone if self is WEBP else codecs.Availability(ok=True)
    )
    assert main(["codecs", "--check"]) == 0
    assert capsys.readouterr().out.endswith("not here: no library\n")
    assert main(["codecs", "--check", "webp"]) == 1


def test_check_of_ones_own_command(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(codecs, "_OWN", {})
    script = tmp_path / "encode.py"
    script.write_text(
        "import sys\nfrom PIL import Image\n"
        "Image.open(sys.argv[1]).save(sys.argv[2], 'WEBP', quality=int(sys.argv[3]), method=4)\n"
    )
    text = f"command:{shlex.join([sys.executable, str(script)])} {{in}} {{out}} {{q}}"
    argv = ["codecs", "--check", text, "--qualities", "10", "40"]
    assert main(argv) == 2
    assert "add --allow-command" in capsys.readouterr().err
    assert main([*argv, "--allow-command", "--json"]) == 0
    [own] = json.loads(capsys.readouterr().out)
    assert main(["codecs", "--check", "webp", "--qualities", "10", "40", "--json"]) == 0
    [webp] = json.loads(capsys.readouterr().out)
    for mine, theirs in zip(own["check"]["points"], webp["check"]["points"], strict=True):
        assert (mine["bpp"], mine["psnr_db"]) == (theirs["bpp"], theirs["psnr_db"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--check", "wepb"], "unknown codec 'wepb'; did you mean 'webp'?"),
        (["--check", "webp", "--qualities", "x"], "--qualities: invalid int value: 'x'"),
        (["--qualities", "10"], "--qualities and --allow-command belong to --check NAME"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str, capsys) -> None:
    assert main(["codecs", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_all_codecs_of_the_table_are_checked_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(
        "ucip_adapt.cli.codecs.check_codec",
        lambda codec, _qualities: codecs_check(codec.spec.name),
    )
    assert main(["codecs", "--check"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == list(CODECS)


def codecs_check(name: str):
    from ucip_adapt.codecs.check import Check

    return Check(name, (), "")
