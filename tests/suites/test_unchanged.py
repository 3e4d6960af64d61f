"""An image that has changed since its shards were made is an error that names it."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from PIL import Image

from ucip_adapt.errors import DataError
from ucip_adapt.suites import unchanged, worker
from ucip_adapt.suites.records import Layout


def test_an_image_that_changed_while_a_build_was_stopped(build, photos, reference, tmp_path):
    hr, out = tmp_path / "hr", tmp_path / "out"
    shutil.copytree(photos, hr)
    build(out, hr)
    (out / "data" / "web-40" / "00001.parquet").unlink()
    first = Layout(out).finished("web-10/00001")
    changed = hr / next(name for name in first.images)
    kept = changed.read_bytes()
    Image.open(changed).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed)
    with pytest.raises(DataError, match=rf"{changed.name} is another image than the finished"):
        build(out, hr)
    assert not (out / "data" / "web-40" / "00001.parquet").exists()
    changed.write_bytes(kept)
    assert build(out, hr).made == 1


def test_an_image_that_changed_after_a_build_was_finished(build, photos, tmp_path, monkeypatch):
    hr, out = tmp_path / "hr", tmp_path / "out"
    shutil.copytree(photos, hr)
    build(out, hr)
    changed = hr / "photo04.png"
    kept, time_before = changed.read_bytes(), changed.stat().st_mtime
    Image.open(changed).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed)
    os.utime(changed, (time_before, time_before))  # as `cp -p` does
    with pytest.raises(DataError, match=r"photo04\.png is another image than the finished shards"):
        build(out, hr)
    changed.write_bytes(kept)
    assert (build(out, hr).made, build(out, hr).kept) == (0, 30)
    # Long afterwards, what was left alone since is not read again.
    read = []
    real = unchanged.file_digest
    monkeypatch.setattr(unchanged, "file_digest", lambda path: read.append(path) or real(path))
    build(out, hr)
    assert len(read) == 10
    for file in (out / ".build/done").rglob("*.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "started": time.time() + 2 * 24 * 3600}))
    build(out, hr)
    assert len(read) == 10


def test_an_image_that_changes_while_its_shard_is_written(build, photos, tmp_path, monkeypatch):
    """What a shard holds is the file by whose checksum it goes, or nothing."""
    hr, out = tmp_path / "hr", tmp_path / "out"
    shutil.copytree(photos, hr)
    changed, png_bytes = hr / "photo04.png", worker.png_bytes

    def meanwhile(pixels):
        Image.fromarray(pixels).save(changed)
        return png_bytes(pixels)

    monkeypatch.setattr(worker, "png_bytes", meanwhile)
    with pytest.raises(DataError, match=r"photo04\.png is another image than the finished shards"):
        build(out, hr, plan={"hr_mode": "bytes"})
    for file in (out / ".build/done").rglob("*.json"):
        assert "photo04.png" not in json.loads(file.read_text())["images"]
