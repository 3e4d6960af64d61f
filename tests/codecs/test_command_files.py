"""Files that the words of a command name: found by the program, and noticed by the cache."""

from __future__ import annotations

import hashlib
import io
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt import codecs
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.codecs.command import command_codec
from ucip_adapt.data import ArrayCache, parse_settings
from ucip_adapt.data.degrade import compress_lr

# WebP, with the quality that a file says.
ENCODER = """
import sys
from PIL import Image
source, target, *rest = sys.argv[1:]
file = rest[-1].partition("=")[2] or rest[-1]
Image.open(source).save(target, "WEBP", quality=int(open(file).read()), method=4)
"""
PYTHON = shlex.quote(sys.executable)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is, with an encoder in it."""
    monkeypatch.setattr(codecs, "_OWN", {})
    monkeypatch.chdir(tmp_path)
    Path("encode.py").write_text(ENCODER)
    return tmp_path


def webp(rgb: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "WEBP", quality=quality, method=4)
    return np.asarray(Image.open(buffer).convert("RGB"))


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digest(text: str) -> str:
    return fingerprint_digest(command_codec(text).fingerprint())


# The last word of a command, and the file that it means at quality 7.
WORDS = {
    "own.cfg": "own.cfg",
    "--cfg=own.cfg": "own.cfg",
    "m_{q}.txt": "m_7.txt",
    "--model=sets/../m_{q}.txt": "m_7.txt",
    "sets[1]//{q}/m.txt": "sets[1]/7/m.txt",
    "./{q}": "7",
    "--file=./{q}": "7",
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_rewritten_file_is_never_answered_from_the_cache(
    word: str, absolute: bool, here: Path, lr: np.ndarray
) -> None:
    file = Path(WORDS[word])
    file.parent.mkdir(parents=True, exist_ok=True)
    if absolute:
        flag, equals, name = word.rpartition("=")
        word = f"{flag}{equals}{here}/{name}"
    text = f"command:{PYTHON} encode.py {{in}} {{out}} {{q}} {shlex.quote(word)}"
    rgb, cache = lr[:40, :57], ArrayCache(here / "cache")
    file.write_text("30")
    [setting] = parse_settings(text, (7,), allow_command=True)
    np.testing.assert_array_equal(compress_lr(rgb, setting, cache), webp(rgb, 30))
    assert sha256(file) in command_codec(text).fingerprint()["sha256"]
    file.write_text("80")
    np.testing.assert_array_equal(compress_lr(rgb, setting, cache), webp(rgb, 80))
    assert sha256(file) in command_codec(text).fingerprint()["sha256"]


def test_the_decoders_files_count_too() -> None:
    Path("own.cfg").write_text("1")
    text = (
        f"command:{PYTHON} encode.py {{in}} {{out}} => {PYTHON} encode.py {{in}} {{out}} c=own.cfg"
    )
    before = digest(text)
    Path("own.cfg").write_text("2")
    assert digest(text) != before


def test_files_that_change_places_are_noticed() -> None:
    """The same contents in the same order, each at another quality."""
    text = f"command:{PYTHON} encode.py {{in}} {{out}} m_{{q}}.txt"
    Path("m_1.txt").write_text("one")
    Path("m_2.txt").write_text("two")
    before = digest(text)
    Path("m_2.txt").rename("m_3.txt")
    Path("m_1.txt").rename("m_2.txt")
    assert digest(text) != before


def test_files_of_no_quality_do_not_count() -> None:
    text = f"command:{PYTHON} encode.py {{in}} {{out}} m_{{q}}.txt"
    Path("m_1.txt").write_text("one")
    before = digest(text)
    for name in ("m_old.txt", "m_1.txt.bak", "m_1_2.txt"):
        Path(name).write_text("other")
    assert digest(text) == before
    Path("m_-2.txt").write_text("below zero")
    assert digest(text) != before


def test_words_without_files_stay_as_they_are(here: Path) -> None:
    """Keys of caches that were made before: {q} alone is a quality, whatever lies around."""
    Path("10").write_text("not meant")
    Path("out.10").write_text("not meant")
    rest = "{in} {out}.{q} -q {q} --quality={q} --cfg=none.cfg -m none_{q}.pt --empty="
    text = f"command:{PYTHON} encode.py {rest}"
    script = str(here / "encode.py")
    assert command_codec(text).fingerprint() == {
        "codec": text,
        "library": "command",
        "version": "",
        "options": {"encoder": [sys.executable, script, *rest.split()], "decoder": []},
        "sha256": [sha256(sys.executable), sha256(script)],
    }
