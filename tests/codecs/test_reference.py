"""HM and VTM as external programs, through a small encoder that knows a few true streams."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.codecs import reference
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.codecs.reference import HM, VTM, ReferenceCodec
from ucip_adapt.codecs.streams import embedded_streams, open_streams
from ucip_adapt.codecs.vvenc import VVENC
from ucip_adapt.codecs.x265 import X265
from ucip_adapt.codecs.yuv import to_planes
from ucip_adapt.errors import CodecError, ConfigError

pytest.importorskip("av")

# Looks its input up by sha256 and QP, and writes what the true encoder made of it.
ENCODER = """#!{python}
import hashlib, json, os, sys
known = json.load(open({known!r}))
words = sys.argv[1:]
flags = dict(zip(words[0:18:2], words[1:18:2]))
data = open(flags["-i"], "rb").read()
stream = known[hashlib.sha256(data).hexdigest() + " " + flags["-q"]]
open(flags["-b"], "wb").write(open(stream, "rb").read())
open(flags["-o"], "wb").write(data)
json.dump({{"words": words, "cwd": os.getcwd()}}, open({said!r}, "w"))
print("{software} software: Encoder Version [{version}] (including RExt)[Linux]")
"""


class Fake:
    """A folder with a program and its configuration, as a build leaves them."""

    def __init__(self, folder: Path, codec: ReferenceCodec, lr: np.ndarray) -> None:
        self.codec, self.said = codec, folder / "said.json"
        self.program = folder / "bin" / codec.programs[0]
        self.config = folder / "cfg" / codec.config
        self.program.parent.mkdir(parents=True)
        self.config.parent.mkdir()
        self.config.write_text("# all-intra\n")
        self.known = folder / "known.json"
        known = {}
        for qp in codec.spec.qualities:
            stored = open_streams(codec.spec.name, [embedded_streams()]).roundtrip(lr, qp)
            known[self._key(lr, qp)] = self._keep(folder, stored.stream)
        # What the encoder is tried out with; nobody stored a stream of it.
        grey = np.full((16, 16, 3), 128, np.uint8)
        stand_in = (X265 if codec is HM else VVENC).roundtrip(grey, 32)
        known[self._key(grey, 32)] = self._keep(folder, stand_in.stream)
        self.known.write_text(json.dumps(known))
        self.install()

    def _key(self, rgb: np.ndarray, qp: int) -> str:
        data = to_planes(rgb, bits=self.codec.bits).tobytes()
        return f"{hashlib.sha256(data).hexdigest()} {qp}"

    @staticmethod
    def _keep(folder: Path, stream: bytes) -> str:
        path = folder / f"{hashlib.sha256(stream).hexdigest()[:8]}.bin"
        path.write_bytes(stream)
        return str(path)

    def install(self, text: str = ENCODER, version: str = "18.0") -> None:
        self.program.write_text(
            text.format(
                python=sys.executable,
                known=str(self.known),
                said=str(self.said),
                software=self.codec.software,
                version=version,
            )
        )
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    reference._probe.cache_clear()
    for codec in (HM, VTM):
        monkeypatch.delenv(codec.variable, raising=False)
        monkeypatch.delenv(f"{codec.variable}_CFG", raising=False)


@pytest.fixture
def fake(tmp_path: Path, lr: np.ndarray) -> Callable[[ReferenceCodec], Fake]:
    return lambda codec: Fake(tmp_path / codec.spec.name, codec, lr)


@pytest.mark.parametrize("codec", [HM, VTM], ids=["hm", "vtm"])
def test_a_picture_goes_through_the_program_as_the_stored_streams_were_made(
    codec: ReferenceCodec, fake, lr: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input file has the bytes that the true encoder got, or the lookup would fail."""
    if codec is VTM and not VVENC.available().ok:
        pytest.skip("no vvenc for the trial picture")
    made = fake(codec)
    monkeypatch.setenv(codec.variable, str(made.program))
    assert codec.available().version == f"{codec.software} 18.0"
    stored = open_streams(codec.spec.name, [embedded_streams()])
    for qp in codec.spec.qualities:
        coded = codec.roundtrip(lr, qp)
        np.testing.assert_array_equal(coded.pixels, stored.roundtrip(lr, qp).pixels)
        assert coded.stream == stored.roundtrip(lr, qp).stream
        assert coded.seconds > 0
    said = json.loads(made.said.read_text())
    depth = str(codec.bits)
    expected = (
        f"-c {made.config} -i in.yuv -b out.bin -o rec.yuv -wdt 144 -hgt 144 -fr 1 -f 1 -q 32 "
        f"--InputBitDepth={depth} --OutputBitDepth={depth} --ConformanceWindowMode=1 --Level=6.2 "
        "--SEIDecodedPictureHash=0"
    ).split() + ["--TemporalSubsampleRatio=1"] * (codec is VTM)
    assert [os.path.normpath(word) if "cfg" in word else word for word in said["words"]] == expected
    assert not Path(said["cwd"]).exists()


def test_the_fingerprint_follows_program_and_configuration(
    fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake(HM)
    monkeypatch.setenv("UCIP_HM", str(made.program))
    first = HM.fingerprint()
    assert first["version"] == "HM 18.0"
    assert first["sha256"] == hashlib.sha256(made.program.read_bytes()).hexdigest()
    made.install(version="18.1")
    assert HM.fingerprint()["version"] == "HM 18.1"
    other = tmp_path / "other.cfg"
    other.write_text("# another\n")
    monkeypatch.setenv("UCIP_HM_CFG", str(other))
    assert HM.fingerprint()["config_sha256"] == hashlib.sha256(b"# another\n").hexdigest()
    assert fingerprint_digest(HM.fingerprint()) != fingerprint_digest(first)


def test_program_and_configuration_are_found_on_the_path(
    fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake(HM)
    links = tmp_path / "links"
    links.mkdir()
    (links / "TAppEncoder").symlink_to(made.program)  # its second name, and the build elsewhere
    monkeypatch.setenv("PATH", str(links))
    assert HM.available().ok


@pytest.mark.parametrize("codec", [HM, VTM], ids=["hm", "vtm"])
def test_without_a_program_the_message_says_what_to_do(
    codec: ReferenceCodec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lr: np.ndarray
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = (
        rf"codec {codec.spec.name} is not available: no {codec.software}: {codec.variable} is "
        rf"unset, and none of {codec.programs[0]}, {codec.programs[1]} is on the PATH\. build "
        rf"{codec.software} and name {codec.programs[0]} with {codec.variable}, {codec.config} with"
    )
    with pytest.raises(CodecError, match=message):
        codec.roundtrip(lr, 32)
    with pytest.raises(CodecError, match=message):
        codec.fingerprint()
    with pytest.raises(ConfigError, match=rf"{codec.spec.name} takes qp 0 to"):
        codec.roundtrip(lr, 99)


def test_what_the_user_names_has_to_be_there(
    fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UCIP_HM", str(tmp_path / "nothing"))
    assert HM.available().reason.startswith("UCIP_HM=")
    made = fake(HM)
    monkeypatch.setenv("UCIP_HM", str(made.program))
    made.config.unlink()
    assert "encoder_intra_main.cfg is not beside" in HM.available().reason
    assert "UCIP_HM_CFG" in HM.available().reason
    monkeypatch.setenv("UCIP_HM_CFG", str(made.config))
    assert HM.available().reason == f"UCIP_HM_CFG={made.config} is no file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho bad cfg >&2; exit 1\n", r"hm: exit code 1; its last words: bad cfg"),
        ("#!/bin/sh\nexit 0\n", r"hm: wrote nothing"),
        ("#!/bin/sh\necho xx > out.bin\n", r"hm: (cannot decode|the stream holds 0 pictures)"),
        ("no program\n", r"hm: cannot start"),
    ],
    ids=["fails", "silent", "rubbish", "no program"],
)
def test_a_program_that_does_not_work_is_not_available(
    fake, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    """Found out with a grey square, before a build of a thousand images has begun."""
    made = fake(HM)
    made.install(text)
    monkeypatch.setenv("UCIP_HM", str(made.program))
    state = HM.available()
    assert not state.ok
    with pytest.raises(CodecError, match=reason):
        HM.fingerprint()
