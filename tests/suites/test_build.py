"""Builds: what is in a shard, the same bytes whoever works, and what goes wrong on the way."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.cli import main
from ucip_adapt.data import bicubic_down4, list_images, modcrop
from ucip_adapt.data.images import image_names
from ucip_adapt.errors import CodecError, ConfigError, DataError
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.suites.build import Part, build_suite
from ucip_adapt.suites.engines import open_engine
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.suites.records import Layout, verify_suite
from ucip_adapt.suites.shards import read_rows

HERE = Path(__file__).parent


def rows_of(out):
    return [row for path in sorted((out / "data").rglob("*.parquet")) for row in read_rows(path)]


def test_images_are_listed_as_elsewhere(photos, tmp_path):
    expected = [path.relative_to(photos).as_posix() for path in list_images(photos)]
    assert image_names(photos) == expected
    assert len(expected) == 10
    with pytest.raises(DataError, match="no folder"):
        image_names(tmp_path / "none")
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="no images in"):
        image_names(tmp_path)


def test_every_row_against_its_image_and_its_bitstream(photos, reference):
    rows = rows_of(reference)
    assert len(rows) == 60
    seen = set()
    for row in rows:
        seen.add((row["image"], row["codec"], row["quality"]))
        file = photos / row["hr_path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["hr_sha256"]
        lr = bicubic_down4(modcrop(np.array(Image.open(file))))
        assert hashlib.sha256(lr.tobytes()).hexdigest() == row["lr_sha256"]
        # Encode again by Pillow itself, and decode the stored stream.
        kind, options = {
            "jpeg": ("JPEG", {"subsampling": 2}),
            "webp": ("WEBP", {"method": 4}),
        }[row["codec"]]
        again = io.BytesIO()
        Image.fromarray(lr).save(again, kind, quality=row["quality"], **options)
        assert row["stream"] == again.getvalue()
        decoded = np.array(Image.open(io.BytesIO(row["stream"])).convert("RGB"))
        stored = Image.open(io.BytesIO(row["lq"]["bytes"]))
        assert stored.format == "PNG"
        np.testing.assert_array_equal(np.array(stored), decoded)
        assert (row["height"], row["width"], 3) == lr.shape
        assert row["num_bytes"] == len(row["stream"])
        assert row["bpp"] == 8 * len(row["stream"]) / (lr.shape[0] * lr.shape[1])
        assert json.loads(row["encoder"])["codec"] == row["codec"]
        assert row["slot"] == {"jpeg": "jpeg", "webp": "web"}[row["codec"]]
    assert len(seen) == 60


def test_nothing_in_the_shards_is_of_this_machine_or_moment(reference, photos):
    text = (reference / "suite.json").read_text()
    record = json.loads(Layout(reference).record("jpeg-10/00000").read_text())
    assert {"codec", "png", "images", "shard"} <= record["seconds"].keys()
    assert record["host"]
    for secret in (str(photos), str(reference), record["host"], "seconds"):
        assert f'"{secret}' not in text
        for path in (reference / "data").rglob("*.parquet"):
            assert secret.encode() not in path.read_bytes() or len(secret) < 4


@pytest.mark.parametrize("trials", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_build_killed_at_random_ends_with_the_same_bytes(
    reference, photos, suite_file, hashes, tmp_path, trials
):
    """R26: nothing that was finished is made again, nothing unfinished is taken for finished."""
    out = tmp_path / "out"
    command = [sys.executable, HERE / "kill_loop.py", trials, trials, photos, suite_file, out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any(kill["killed"] for kill in report["kills"])
    assert len(report["kills"]) == trials
    for kill in report["kills"]:
        for name, file in kill["finished"].items():
            assert report["end"][name] == file, f"{name} was made again"
    assert report["made"] == 30 - len(report["kills"][-1]["finished"])
    assert hashes(out) == hashes(reference)
    assert not list((out / ".build").rglob("unfinished/*"))


def wait_for_records(out, count, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((out / ".build" / "done").rglob("[!.]*.json"))) >= count:
            return
        time.sleep(0.002)


def children(pid):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if status.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes under /proc")
def test_ten_kills_of_the_command_with_two_workers(
    reference, photos, suite_file, hashes, tmp_path, start
):
    """R26 through the command line; the workers of a killed build do not outlive it."""
    out = tmp_path / "out"
    words = ["--suite", suite_file, "--hr", photos, "--out", out, "--images-per-shard", 2]
    draw = np.random.default_rng(0)
    for trial in range(10):
        process = start(*words, "--workers", 2)
        wait_for_records(out, 2 * trial + int(draw.integers(1, 3)), process)
        time.sleep(float(draw.uniform(0, 0.02)))
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, workers)), "a worker outlived its build"
    process = start(*words, "--workers", 2)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert hashes(out) == hashes(reference)


def test_two_workers_and_a_command_of_ones_own(photos, hashes, tmp_path, build):
    """R26, R27b: spawned workers know what the user allowed, and give the same bytes."""
    suite = tmp_path / "own.toml"
    suite.write_text(
        "[[slots]]\ncodec = 'jpeg'\nqualities = [10]\n"
        "[[slots]]\nname = 'copy'\ncodec = 'command:cp {in} {out}'\nqualities = [0]\n"
    )
    words = ["build-suite", "--suite", suite, "--hr", photos, "--images-per-shard", "3"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*map(str, words), "--out", str(one), "--workers", "0"]) == 2
    assert not one.exists()
    for out, workers in ((one, 0), (two, 2)):
        more = ["--out", out, "--workers", workers, "--allow-command"]
        assert main(list(map(str, [*words, *more]))) == 0
    assert hashes(one) == hashes(two)
    copied = [row for row in rows_of(two) if row["slot"] == "copy"]
    assert len(copied) == 10
    for row in copied:
        pixels = np.array(Image.open(io.BytesIO(row["lq"]["bytes"])))
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["lr_sha256"]


def test_jobs_of_an_array_share_a_build(build, reference, hashes, tmp_path):
    reports = [build(tmp_path, part=Part(index, 3)) for index in (2, 0, 1)]
    assert [report.made for report in reports] == [6, 12, 12]
    assert [report.complete for report in reports] == [False, False, True]
    assert hashes(tmp_path) == hashes(reference)
    assert build(tmp_path).kept == 30
    with pytest.raises(ConfigError, match="--shard-index 3 must lie between 0 and 2"):
        Part(3, 3)


def test_another_plan_finds_the_folder_taken(build, reference, hashes, tmp_path):
    build(tmp_path)
    before = hashes(tmp_path)
    with pytest.raises(DataError, match=r"holds another build .other images_per_shard"):
        build(tmp_path, plan={"images_per_shard": 5})
    with pytest.raises(DataError, match=r"holds another build .other hr_mode"):
        build(tmp_path, plan={"hr_mode": "bytes"})
    assert hashes(tmp_path) == before == hashes(reference)


def test_two_builds_at_once(build, reference, hashes, photos, tmp_path):
    """R28: the second one is told; when the first has gone, it goes on."""
    folder = Layout(tmp_path).part(0, 1)
    folder.mkdir(parents=True)
    code = (
        "import pathlib, sys; from ucip_adapt.training.lock import lock_folder\n"
        "class Owner: pass\n"
        "owner = Owner(); lock_folder(pathlib.Path(sys.argv[1]), owner); print('locked')\n"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(DataError, match=r"another build is writing to .*choose another folder"):
            build(tmp_path)
        assert not (tmp_path / "data").exists()
        other.stdin.close()
        other.wait(timeout=30)
    assert build(tmp_path).made == 30
    assert hashes(tmp_path) == hashes(reference)


@pytest.mark.slow
def test_two_commands_at_once(reference, photos, suite_file, hashes, tmp_path, start):
    """R28 with two real builds: one wins, or both do one after the other; nothing is mixed."""
    words = ["--suite", suite_file, "--hr", photos, "--out", tmp_path, "--images-per-shard", 2]
    both = [start(*words, "--workers", 1) for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert 0 in [process.returncode for process in both], texts
    for process, text in zip(both, texts, strict=True):
        assert process.returncode == 0 or "another build is writing to" in text
    assert hashes(tmp_path) == hashes(reference)


@pytest.fixture
def spoilt(photos, tmp_path):
    """The photographs, one of them cut short, one with holes."""
    folder = tmp_path / "spoilt"
    shutil.copytree(photos, folder)
    whole = (folder / "photo01.png").read_bytes()
    (folder / "photo01.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGBA", (80, 80), (9, 9, 9, 99)).save(folder / "photo08.png")
    return folder


def test_unusable_images_are_left_out_noted_and_made_later(
    build, spoilt, photos, reference, hashes, tmp_path
):
    out = tmp_path / "out"
    report = build(out, spoilt)
    assert (report.complete, report.quarantined) == (True, 2)
    manifest = json.loads((out / "suite.json").read_text())
    noted = {entry["image"]: entry["error"] for entry in manifest["quarantined"]}
    assert noted.keys() == {"photo01.png", "photo08.png"}
    assert "has transparent pixels" in noted["photo08.png"]
    assert str(spoilt) not in json.dumps(manifest)
    assert manifest["rows"] == 48
    assert {row["image"] for row in rows_of(out)} == set(image_names(photos)) - noted.keys()
    # Mended images are taken when asked for, and only the shards that lacked them are made.
    for name in noted:
        shutil.copy(photos / name, spoilt / name)
    assert build(out, spoilt).made == 0
    again = build(out, spoilt, retry_quarantined=True)
    assert (again.made, again.kept, again.quarantined) == (12, 18, 0)
    assert hashes(out) == hashes(reference)


def test_too_many_unusable_images_end_the_build(build, spoilt, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"2 images cannot be used, more than --max-quarantined 1"):
        build(out, spoilt, max_quarantined=1)
    with pytest.raises(DataError, match=r"first: photo01\.png: "):
        build(out, spoilt, max_quarantined=0)
    assert build(out, spoilt, max_quarantined=2).complete


def test_a_codec_that_fails_on_one_image_fails_on_no_other(build, tmp_path, photos, monkeypatch):
    """R25: the other images and the other codecs go on."""
    from ucip_adapt.suites import worker

    real = worker.code_image

    def fails(codec, lr, quality, *, name):
        if (codec.spec.name, quality, name) == ("webp", 40, "photo04"):
            raise CodecError(f"webp: out of paint at {photos}/photo04.png")
        return real(codec, lr, quality, name=name)

    monkeypatch.setattr(worker, "code_image", fails)
    report = build(tmp_path)
    assert (report.made, report.quarantined, report.complete) == (30, 1, True)
    manifest = json.loads((tmp_path / "suite.json").read_text())
    assert manifest["quarantined"] == [
        {
            "image": "photo04.png",
            "setting": "webp:40",
            "error": "webp: out of paint at photo04.png",
        }
    ]
    assert manifest["rows"] == 59


def test_a_worker_with_another_encoder_is_refused(photos, suite_file, tmp_path):
    plan = BuildPlan.make(fill_suite(load_suite(suite_file)), image_names(photos))
    other = dataclasses.replace(plan.settings[0], fingerprint='{"codec": "jpeg", "version": "0"}')
    plan = dataclasses.replace(plan, settings=(other, *plan.settings[1:]))
    with (
        open_engine(workers=0) as engine,
        pytest.raises(CodecError, match=r"jpeg is another version on .* than where the build was"),
    ):
        build_suite(plan, photos, tmp_path, engine)
    assert not list((tmp_path / "data").rglob("*.parquet"))


def test_a_disk_that_is_too_small_or_gets_full(build, reference, hashes, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
        with pytest.raises(DataError, match=r"30 shards need about .* free; make room, or add"):
            build(tmp_path)
        assert not (tmp_path / "data").exists()
        real, calls = os.fsync, []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) > 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left on device\. Finished shards stay"):
            build(tmp_path, check_space=False)
    kept = len(list((tmp_path / ".build" / "done").rglob("*.json")))
    assert 0 < kept < 30
    assert not [path for path in tmp_path.rglob("*") if "unfinished" in path.parts[:-1]]
    assert build(tmp_path).kept == kept
    assert hashes(tmp_path) == hashes(reference)


def test_verify_finds_a_flipped_bit_and_the_next_build_mends_it(
    build, reference, hashes, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    assert main(["build-suite", "--verify", "--out", str(out)]) == 0
    assert "30 shards" in capsys.readouterr().out
    shard = Layout(out).shard("web-40/00003")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    Layout(out).shard("jpeg-10/00000").unlink()
    assert main(["build-suite", "--verify", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "2 of 30 shards: jpeg-10/00000 is missing; web-40/00003 is damaged" in error
    assert build(out).made == 2
    assert verify_suite(out) == 30
    assert hashes(out) == hashes(reference)


def test_a_dry_run_opens_no_image_and_writes_nothing(tmp_path, suite_file, capsys, photos):
    hr, out = tmp_path / "hr", tmp_path / "out"
    hr.mkdir()
    for number in range(2000):
        (hr / f"{number}.png").touch()
    words = ["build-suite", "--suite", suite_file, "--out", out, "--dry_run", "--hr"]
    assert main([*map(str, words), str(hr)]) == 0
    text = capsys.readouterr().out
    assert "2,000 images x 6 settings" in text
    assert "378 of 32 images, 378 in this job" in text
    assert "no sample could be read" in text
    assert not out.exists()
    assert main([*map(str, words), str(photos), "--push-to-hub", "me/pair"]) == 0
    text = capsys.readouterr().out
    assert "disk      about 0.00 GB" in text
    assert "data/*/*.parquet to me/pair" in text
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hr", "x"], "--suite is required"),
        (["--suite", "webp"], "--hr is required"),
        (["--suite", "webp", "--hr", "x", "--workers", "-1"], "--workers must be at least 0"),
        (["--suite", "webp", "--hr", "x", "--strict", "--substitute"], "exclude each other"),
        (["--suite", "webp", "--hr", "x", "--engine", "dask", "--workers", "2"], "has its own w"),
        (["--suite", "webp", "--hr", "x", "--private"], "--private belongs to --push-to-hub"),
        (["--suite", "webp", "--hr", "no/such"], "no folder 'no/such'"),
        (["--suite", "webp", "--hr", "PHOTOS", "--engine", "dask"], "needs --scheduler ADDRESS"),
        (["--suite", "webp", "--hr", "PHOTOS", "--scheduler", "x"], "belongs to --engine dask"),
        (["--verify"], "is it a folder of a finished build"),
    ],
)
def test_options_that_do_not_fit(tmp_path, capsys, photos, words, message):
    words = [str(photos) if word == "PHOTOS" else word for word in words]
    assert main(["build-suite", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


HM_SUITE = """
description = "HM by its streams"

[[slots]]
name = "hevc"
codec = "hm"
qualities = [47, 32]
"""


def test_stored_streams_fill_a_slot_where_the_images_have_them(
    photos, tmp_path, capsys, monkeypatch
):
    from ucip_adapt.assets import image_folder
    from ucip_adapt.codecs import CODECS
    from ucip_adapt.codecs.streams import embedded_streams, open_streams

    suite = tmp_path / "hm.toml"
    suite.write_text(HM_SUITE)
    hr = tmp_path / "hr"
    hr.mkdir()
    shutil.copy(image_folder("validation") / "dog.webp", hr)
    monkeypatch.setitem(CODECS, "hm", CODECS["hm"])  # put back afterwards
    words = ["build-suite", "--suite", str(suite), "--workers", "0", "--substitute"]
    assert main([*words, "--hr", str(hr), "--out", str(tmp_path / "streams")]) == 0
    codec = open_streams("hm", [embedded_streams()])
    rows = rows_of(tmp_path / "streams")
    assert [row["codec"] for row in rows] == ["hm", "hm"]
    lr = bicubic_down4(modcrop(np.array(Image.open(hr / "dog.webp").convert("RGB"))))
    for row in rows:
        decoded = np.array(Image.open(io.BytesIO(row["lq"]["bytes"])))
        np.testing.assert_array_equal(decoded, codec.roundtrip(lr, row["quality"]).pixels)
    assert "stands in" not in capsys.readouterr().err
    # Photographs without streams: a stand-in, which notes and card name, the dry run too.
    CODECS["hm"] = codec.reference
    if not codec.reference.available().ok:
        assert main([*words, "--hr", str(photos), "--out", str(tmp_path / "a"), "--dry-run"]) == 0
        assert "hm is asked for, hevc-x265 stands in" in capsys.readouterr().err
        assert main([*words, "--hr", str(photos), "--out", str(tmp_path / "b")]) == 0
        assert "; here hevc-x265 fills the slot of hm." in (tmp_path / "b/README.md").read_text()


def test_stored_streams_of_the_data_folder(tmp_path, capsys, monkeypatch):
    from ucip_adapt.assets import image_folder
    from ucip_adapt.codecs import CODECS, streams

    stored = streams.embedded_streams()
    (tmp_path / "none").mkdir()
    lines = (stored / "index.csv").read_text().splitlines(keepends=True)
    others = [line for line in lines if ",dog," not in line]
    (tmp_path / "none" / "index.csv").write_text("".join(others))
    monkeypatch.setattr(streams, "embedded_streams", lambda: tmp_path / "none")
    monkeypatch.setitem(CODECS, "hm", CODECS["hm"])  # put back afterwards
    monkeypatch.delenv("UCIP_DATA", raising=False)
    shutil.copytree(stored, tmp_path / "data" / "reference_streams")
    suite = tmp_path / "hm.toml"
    suite.write_text(HM_SUITE)
    (tmp_path / "hr").mkdir()
    shutil.copy(image_folder("validation") / "dog.webp", tmp_path / "hr")
    words = ["build-suite", "--suite", str(suite), "--hr", str(tmp_path / "hr"), "--workers", "0"]
    out = ["--out", str(tmp_path / "out")]
    if not CODECS["hm"].available().ok:
        assert main([*words, *out, "--strict"]) == 2
        assert "hm" in capsys.readouterr().err
    assert main([*words, *out, "--strict", "--data", str(tmp_path / "data")]) == 0
    assert [row["codec"] for row in rows_of(tmp_path / "out")] == ["hm", "hm"]
    (tmp_path / "data" / "reference_streams" / "index.csv").write_text("damaged")
    assert main([*words, "--out", str(tmp_path / "b"), "--data", str(tmp_path / "data")]) == 2
    assert "index" in capsys.readouterr().err


def test_a_setting_of_which_nothing_could_be_coded_is_an_error(build, tmp_path, monkeypatch):
    from ucip_adapt.suites import worker

    real = worker.code_image

    def fails(codec, lr, quality, *, name):
        if (codec.spec.name, quality) == ("webp", 40):
            raise CodecError("webp: out of paint")
        return real(codec, lr, quality, name=name)

    monkeypatch.setattr(worker, "code_image", fails)
    with pytest.raises(DataError, match=r"no image could be coded at webp:40, .*out of paint"):
        build(tmp_path)
    assert not (tmp_path / "suite.json").exists()


def test_folders_of_images_are_asked_for_what_they_hold(photos, tmp_path):
    for quality in (10, 40):
        (tmp_path / "coded" / str(quality)).mkdir(parents=True)
        shutil.copy(photos / "photo01.png", tmp_path / "coded" / str(quality))
    suite = tmp_path / "folder.toml"
    text = f'[[slots]]\nname = "mine"\ncodec = "folder:{tmp_path}/coded"\nqualities = [10, 25]\n'
    suite.write_text(f'description = "One folder"\n{text}')
    with pytest.raises(ConfigError, match=r"has no quality 25\. Known: 10, 40"):
        fill_suite(load_suite(suite, allow_command=True), allow_command=True)
    suite.write_text(f'description = "One folder"\n{text.replace("[10, 25]", "[10, 40]")}')
    filled = fill_suite(load_suite(suite, allow_command=True), allow_command=True)
    with pytest.raises(CodecError, match="by their names, and two are called '0001'"):
        BuildPlan.make(filled, ["cat/0001.png", "dog/0001.png"])


def test_the_card_follows_a_build_that_was_mended(build, spoilt, photos, tmp_path, suite_file):
    from ucip_adapt.suites.hub import write_suite_card
    from ucip_adapt.suites.read import open_suite

    out = tmp_path / "out"
    build(out, spoilt)
    card = write_suite_card(open_suite(out))
    assert "48 rows" in card.read_text()
    for name in ("photo01.png", "photo08.png"):
        shutil.copy(photos / name, spoilt / name)
    build(out, spoilt, retry_quarantined=True)
    assert "60 rows" in write_suite_card(open_suite(out)).read_text()
    card.write_text("Mine.")
    assert write_suite_card(open_suite(out)).read_text() == "Mine."
