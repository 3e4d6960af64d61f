"""Files are either old or new, and of the mode that the user's files have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt import atomic
from ucip_adapt.atomic import replaced, write_atomically
from ucip_adapt.data.cache import ArrayCache
from ucip_adapt.data.images import save_png


def test_what_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with replaced(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda f: (calls.append("sync"), fsync(f))[1])
    monkeypatch.setattr(
        atomic.os, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1]
    )
    write_atomically(tmp_path / "a", b"new")
    assert calls == ["sync", "rename", "sync"]  # the file, its name, the folder's entries
    calls.clear()
    with replaced(tmp_path / "b", sync=False) as temporary:
        temporary.write_bytes(b"can be made again")
    assert calls == ["rename"]


def test_the_temporary_name_may_be_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "hidden").mkdir()
    with replaced(tmp_path / "shown" / "a", beside=tmp_path / "hidden") as temporary:
        assert temporary.parent == tmp_path / "hidden"
        assert os.listdir(tmp_path / "shown") == []
        temporary.write_bytes(b"x")
    assert (tmp_path / "shown" / "a").read_bytes() == b"x"
    assert os.listdir(tmp_path / "hidden") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows counts characters, and those of the path")
@pytest.mark.parametrize("letter", ["x", "写"])
def test_the_longest_name_that_the_disk_takes_can_be_written(tmp_path: Path, letter: str) -> None:
    limit = os.pathconf(tmp_path, "PC_NAME_MAX")
    count, rest = divmod(limit - len(".png"), len(letter.encode()))
    target = tmp_path / f"{letter * count}{'-' * rest}.png"
    assert len(os.fsencode(target.name)) == limit
    target.touch()  # a plain writer's way
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [target.name]
    with pytest.raises(OSError, match="too long"):
        write_atomically(target.with_stem(target.stem + "x"), b"new")
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_others_may_read_what_this_users_umask_lets_them(tmp_path: Path) -> None:
    """A cache that several people share: files from tempfile.mkstemp would be private."""
    before = os.umask(0o022)
    try:
        cache = ArrayCache(tmp_path / "cache")
        cache.get("image", lambda: np.zeros((4, 6, 3), np.uint8))
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert [path.stat().st_mode & 0o777 for path in files] == [0o644]
    finally:
        os.umask(before)


def test_an_interrupted_picture_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(image: Image.Image, file: Path, file_format: str) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_png(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    assert os.listdir(tmp_path) == []
