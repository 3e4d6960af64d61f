"""Files are opened by the formats that are documented, and start no other program."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import pytest
from PIL import Image, UnidentifiedImageError

import ucip_adapt
from ucip_adapt.codecs.command import command_codec
from ucip_adapt.data import read_rgb
from ucip_adapt.data.opening import READ_FORMATS, open_image
from ucip_adapt.errors import CodecError, DataError
from ucip_adapt.imaging import read_picture
from ucip_adapt.imaging.jobs import _READABLE
from ucip_adapt.suites.read import _decode

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
NOT_READ = "EPS, which is not a format that is read; convert it to PNG first"


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
def test_a_postscript_file_under_another_name_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, log, picture = tmp_path / "bin" / "gs", tmp_path / "log", tmp_path / "photo.png"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> {shlex.quote(str(log))}\nexit 0\n")
    program.chmod(0o755)
    picture.write_bytes(EPS)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)  # what it found before
    for read, source in ((read_picture, EPS), (read_picture, picture), (read_rgb, picture)):
        with pytest.raises(DataError, match=NOT_READ):
            read(source)
    with pytest.raises(DataError, match=f"image of the suite cannot be read: {NOT_READ}"):
        _decode(EPS)
    copy = f"import shutil, sys; shutil.copy({str(picture)!r}, sys.argv[1])"
    codec = command_codec(
        f"command:{shlex.quote(sys.executable)} -c {shlex.quote(copy)} {{out}} {{in}}"
    )
    with pytest.raises(CodecError, match=f"its output cannot be read: {NOT_READ}"):
        codec.roundtrip(np.zeros((40, 40, 3), np.uint8), 0)
    assert not log.exists()
    with contextlib.suppress(OSError), Image.open(picture) as image:
        image.load()  # what Pillow does by itself; the script makes no pixels
    assert log.exists()


def test_every_opening_in_the_package_names_its_formats() -> None:
    calls = []
    for file in Path(ucip_adapt.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                calls.append(f"{file.name}:{node.lineno}")
                assert "formats" in [keyword.arg for keyword in node.keywords], calls[-1]
    assert len(calls) > 4


def test_every_ending_that_is_taken_has_its_format() -> None:
    formats = {Image.registered_extensions().get(ending) for ending in _READABLE}
    formats -= {None, "HEIF"}  # of other libraries: JPEG XL, and HEIC where that is registered
    assert formats == set(READ_FORMATS)


def test_each_format_is_read_under_any_name(tmp_path: Path) -> None:
    pixels = np.full((9, 13, 3), 90, np.uint8)
    for name in READ_FORMATS:
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path, name)
        with open_image(path) as image:
            assert (image.format, image.size) == (name, (13, 9))
        assert np.abs(read_rgb(path).astype(int) - 90).max() < 4
        assert read_picture(path).size == (9, 13)


def test_a_cameras_jpeg_with_a_preview_is_read() -> None:
    buffer = io.BytesIO()
    large, small = Image.new("RGB", (40, 30), (9, 99, 9)), Image.new("RGB", (8, 6))
    large.save(buffer, "MPO", save_all=True, append_images=[small])
    with open_image(io.BytesIO(buffer.getvalue())) as image:
        assert (image.format, image.size) == ("MPO", (40, 30))
    assert read_picture(buffer.getvalue()).size == (30, 40)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com", "LFS pointer"),
        (b"%PDF-1.7", "PDF, which is not a format that is read"),
        (b"\xd7\xcd\xc6\x9a\0\0" + bytes(40), "WMF, which is not"),
        (b"\x01\0\0\0" + bytes(36) + b" EMF", "EMF, which is not"),
        (b"words", "no picture format that is known here"),
    ],
)
def test_what_is_not_read_is_said(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(start)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), io.BytesIO(start)):
        with pytest.raises(UnidentifiedImageError, match=words):
            open_image(source)
    with pytest.raises(DataError, match=f"cannot read image .*{words}"):
        read_rgb(tmp_path / "a.png")
