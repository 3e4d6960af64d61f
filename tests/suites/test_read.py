"""A built suite as training data: the pixels of compressing on the fly, and what libraries read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ucip_adapt.cli import main
from ucip_adapt.data import ArrayCache, PairedCrops, Setting, degrade_images, list_images
from ucip_adapt.data.degrade import read_gt
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.suites import fill_suite, load_suite, read
from ucip_adapt.suites.hub import files_to_push, push_suite, render_suite_card, write_suite_card
from ucip_adapt.suites.read import open_suite
from ucip_adapt.suites.records import Layout


@pytest.fixture(scope="module")
def on_the_fly(photos, suite_file, tmp_path_factory):
    """The images, compressed without any shard, in a cache of their own."""
    cache = ArrayCache(tmp_path_factory.mktemp("fly"))
    settings = fill_suite(load_suite(suite_file)).settings
    return degrade_images(list_images(photos), settings, cache)


def assert_same(found, expected):
    assert [image.name for image in found] == [image.name for image in expected]
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one.gt), np.asarray(two.gt))
        assert list(one.lq) == list(two.lq)
        for setting in one.lq:
            np.testing.assert_array_equal(np.asarray(one.lq[setting]), np.asarray(two.lq[setting]))


def test_built_and_on_the_fly_are_equal_bit_for_bit(reference, on_the_fly, suite_file, tmp_path):
    built = open_suite(reference)
    filled = fill_suite(load_suite(suite_file))
    assert built.settings == filled.settings
    assert built.slot_numbers == filled.slot_numbers == [0, 0, 0, 0, 1, 1]
    images = built.images(built.settings, ArrayCache(tmp_path))
    assert_same(images, on_the_fly)
    options = {"patch_size": 8, "seed": 3, "slots": built.slot_numbers}
    one, two = PairedCrops(images, **options), PairedCrops(on_the_fly, **options)
    for index in (0, 1, 5, 77, 1000):
        assert torch.equal(one[index]["lq"], two[index]["lq"])
        assert torch.equal(one[index]["gt"], two[index]["gt"])
    # A part of it.
    few = built.images([Setting("webp", 40)], ArrayCache(tmp_path), limit=3)
    assert [image.name for image in few] == [image.name for image in on_the_fly[:3]]
    assert list(few[0].lq) == [Setting("webp", 40)]


def test_shards_that_hold_the_images_need_no_folder(build, photos, on_the_fly, tmp_path):
    hr = tmp_path / "hr"
    shutil.copytree(photos, hr)
    build(tmp_path / "out", hr, plan={"hr_mode": "bytes"})
    shutil.rmtree(hr)
    built = open_suite(tmp_path / "out")
    assert_same(built.images(built.settings, ArrayCache(tmp_path / "cache")), on_the_fly)


def test_an_image_in_a_shard_that_is_not_the_one_its_row_names(
    build, photos, tmp_path, monkeypatch
):
    """The cache is everybody's, and keeps a picture by the checksum that the row names."""
    build(tmp_path / "out", plan={"hr_mode": "bytes"})
    built, cache = open_suite(tmp_path / "out"), ArrayCache(tmp_path / "cache")
    files = {path: path.read_bytes() for path in photos.rglob("*.png")}
    rows_of = read.read_rows

    def swapped(path, columns):
        for row in rows_of(path, columns):
            other = next(data for data in files.values() if data != row["hr"]["bytes"])
            yield {**row, "hr": {**row["hr"], "bytes": other}}

    monkeypatch.setattr(read, "read_rows", swapped)
    with pytest.raises(DataError, match="is not the one that its row names by checksum"):
        built.images(built.settings, cache)
    image = degrade_images([next(iter(files))], [Setting("jpeg", 10)], cache)[0]
    np.testing.assert_array_equal(image.gt, read_gt(next(iter(files))))


def test_images_that_moved_or_changed(build, photos, on_the_fly, tmp_path):
    hr, out, cache = tmp_path / "hr", tmp_path / "out", ArrayCache(tmp_path / "cache")
    shutil.copytree(photos, hr)
    build(out, hr)
    hr.rename(tmp_path / "moved")
    built = open_suite(out)
    with pytest.raises(DataError, match=r"not where they were: name their folder with --train_da"):
        built.images(built.settings, cache)
    images = built.images(built.settings, cache, hr_folder=tmp_path / "moved")
    assert_same(images, on_the_fly)
    Image.new("RGB", (80, 80)).save(tmp_path / "moved" / "photo04.png")
    with pytest.raises(DataError, match=r"photo04\.png is not the image that .* was built from"):
        built.images(built.settings, cache, hr_folder=tmp_path / "moved")


def test_a_folder_that_holds_other_images_or_lacks_one(build, photos, on_the_fly, tmp_path):
    hr, out, cache = tmp_path / "hr", tmp_path / "out", ArrayCache(tmp_path / "cache")
    shutil.copytree(photos, hr)
    build(out, hr)
    built = open_suite(out)
    message = rf"images of {out} are not in {tmp_path}: there is no .* name their folder with --tr"
    with pytest.raises(DataError, match=message):
        built.images(built.settings, cache, hr_folder=tmp_path)
    (hr / "photo04.png").unlink()
    assert built.hr_folder == hr
    with pytest.raises(DataError, match=rf"are not in {hr}: there is no photo04\.png\. Put it b"):
        built.images(built.settings, cache)
    # The images move, and their folder stays.
    shutil.rmtree(hr)
    hr.mkdir()
    assert built.hr_folder is None
    with pytest.raises(DataError, match="they are not where they were: name their folder with"):
        built.images(built.settings, cache)
    assert_same(built.images(built.settings, cache, hr_folder=photos), on_the_fly)


def test_a_damaged_shard_is_not_trained_on(reference, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    shard = Layout(out).shard("jpeg-10/00001")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    built = open_suite(out)
    with pytest.raises(DataError, match=r"00001\.parquet is missing or damaged"):
        built.images(built.settings, ArrayCache(tmp_path / "cache"))


def test_what_cannot_be_trained_on(reference, build, photos, tmp_path):
    built, cache = open_suite(reference), ArrayCache(tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"has no webp:20; it has jpeg:10, .*webp:40"):
        built.images([Setting("webp", 20)], cache)
    with pytest.raises(DataError, match=r"too small: .* and crops of 32 are asked for"):
        built.images(built.settings, cache, min_side=32)
    (tmp_path / "half" / ".build").mkdir(parents=True)
    (tmp_path / "half" / ".build" / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="is not finished; run its command again"):
        open_suite(tmp_path / "half")
    newer = tmp_path / "newer"
    newer.mkdir()
    manifest = json.loads((reference / "suite.json").read_text())
    (newer / "suite.json").write_text(json.dumps({**manifest, "format_version": "2.0"}))
    with pytest.raises(DataError, match="newer"):
        open_suite(newer)


def test_an_image_that_lacks_a_setting_is_left_out_with_a_warning(
    build, on_the_fly, tmp_path, monkeypatch
):
    from ucip_adapt.errors import CodecError
    from ucip_adapt.suites import worker

    real = worker.code_image

    def fails(codec, lr, quality, *, name):
        if (codec.spec.name, quality, name) == ("webp", 40, "photo04"):
            raise CodecError("no")
        return real(codec, lr, quality, name=name)

    monkeypatch.setattr(worker, "code_image", fails)
    build(tmp_path / "out")
    built = open_suite(tmp_path / "out")
    with pytest.warns(UserWarning, match="1 images of .* were left out"):
        images = built.images(built.settings, ArrayCache(tmp_path / "cache"))
    assert_same(images, [image for image in on_the_fly if image.name != "photo04"])


def test_the_datasets_library_reads_streams_and_splits_it(reference, on_the_fly, tmp_path):
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node

    files = str(reference / "data" / "*" / "*.parquet")
    options = {"data_files": files, "split": "train", "cache_dir": str(tmp_path)}
    whole = load_dataset("parquet", **options)
    assert whole.num_rows == 60
    truth = {image.name: image for image in on_the_fly}
    for row in whole:
        lq = truth[Path(row["image"]).stem].lq[Setting(row["codec"], row["quality"])]
        np.testing.assert_array_equal(np.array(row["lq"]), np.asarray(lq))
    stream = load_dataset("parquet", streaming=True, **options)
    parts = [
        [
            (row["image"], row["codec"], row["quality"])
            for row in split_dataset_by_node(stream, r, 2)
        ]
        for r in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 30
    assert len({*parts[0], *parts[1]}) == 60


def test_the_card_makes_each_slot_a_configuration(reference, tmp_path):
    from huggingface_hub import DatasetCard

    out = tmp_path / "out"
    shutil.copytree(reference, out)
    card = DatasetCard.load(write_suite_card(open_suite(out)))
    configs = {
        entry["config_name"]: entry["data_files"] for entry in card.data.to_dict()["configs"]
    }
    assert configs["default"] == [{"split": "train", "path": ["data/*/*.parquet"]}]
    [web] = configs["web"]
    assert web["path"] == ["data/web-10/*.parquet", "data/web-40/*.parquet"]
    for patterns in configs.values():
        for pattern in patterns[0]["path"]:
            assert list(out.glob(pattern))
    assert "| jpeg | jpeg | 10 20 30 40 | the same |" in card.text
    assert "60 rows" in card.text
    assert str(tmp_path) not in card.content
    # A card that its owner has changed stays.
    (out / "README.md").write_text("mine")
    write_suite_card(open_suite(out))
    assert (out / "README.md").read_text() == "mine"


def test_unlucky_names_of_slots(build, tmp_path):
    """What YAML takes for a truth value, for nothing, for a number; `datasets` reads the card."""
    from datasets import load_dataset

    suite, out = tmp_path / "odd.toml", tmp_path / "out"
    slots = [f"[[slots]]\nname = '{name}'\ncodec = 'jpeg'\n" for name in ("no", "null", "2024")]
    texts = [f"{slot}qualities = [{10 + n}]\n" for n, slot in enumerate(slots)]
    suite.write_text("".join(texts))
    build(out, suite=suite)
    write_suite_card(open_suite(out))
    for name, rows in (("no", 10), ("null", 10), ("2024", 10), (None, 30), ("default", 30)):
        found = load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert found.num_rows == rows
        assert set(found["slot"]) == ({name} if rows == 10 else {"no", "null", "2024"})


def test_the_card_counts_images_not_failures(reference):
    built = open_suite(reference)
    assert "No image was left out." in render_suite_card(built)
    built.manifest["quarantined"] = [
        {"image": image, "setting": f"jpeg:{quality}", "error": "no"}
        for image in ("a.png", "b.png")
        for quality in (10, 20, 30, 40)
    ]
    assert "2 images could not be read, or not coded at some setting" in render_suite_card(built)


def test_a_stand_in_is_named_on_the_card(reference):
    built = open_suite(reference)
    built.manifest["slots"][0] |= {"asked": "hm", "codec": "hevc-x265"}
    assert "| hevc-x265 | 10 20 30 40 | hm: a stand-in |" in render_suite_card(built)


def test_the_upload_sends_shards_manifest_and_card_only(reference, tmp_path, monkeypatch):
    """No record with its host name, no plan with its paths."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    out = tmp_path / "out"
    shutil.copytree(reference, out)
    sent = {}

    class Api:
        def create_repo(self, repo, **options):
            assert options == {"repo_type": "dataset", "private": True, "exist_ok": True}
            return type("Url", (), {"repo_id": f"user/{repo}"})

        def upload_large_folder(self, **options):
            every = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
            kept = filter_repo_objects(
                every,
                allow_patterns=options["allow_patterns"],
                ignore_patterns=options["ignore_patterns"],
            )
            sent.update({name: (out / name).stat().st_size for name in kept})
            assert options["repo_id"] == "user/pair"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    built = open_suite(out)
    assert push_suite(built, "pair", private=True) == "user/pair"
    assert sent == dict(files_to_push(built))
    assert len(sent) == 32
    assert all(name.startswith("data/") for name in sent.keys() - {"README.md", "suite.json"})
    for name in sent:
        assert b"hr_folder" not in (out / name).read_bytes()
    broken = type("Api", (Api,), {"upload_large_folder": lambda *_, **__: Path("/no/such").stat()})
    monkeypatch.setattr(huggingface_hub, "HfApi", broken)
    with pytest.raises(DataError, match=r"cannot upload .* The folder itself is complete"):
        push_suite(built, "pair", private=True)


@pytest.mark.slow
def test_the_whole_open_suite_by_two_workers(photos, tmp_path):
    """All 23 settings, video and learned codecs among them, in workers and in threads here."""
    pytest.importorskip("av")
    pytest.importorskip("imageio_ffmpeg")
    hr, out = tmp_path / "hr", tmp_path / "out"
    hr.mkdir()
    for name in ("photo01.png", "photo08.png"):
        shutil.copy(photos / name, hr)
    words = ["build-suite", "--suite", "ucsr-open", "--hr", hr, "--out", out, "--workers", 2]
    assert main(list(map(str, words))) == 0
    built = open_suite(out)
    filled = fill_suite(load_suite("ucsr-open"))
    assert (len(built.settings), max(built.slot_numbers)) == (23, 5)
    assert built.settings == filled.settings
    fly = degrade_images(list_images(hr), filled.settings, ArrayCache(tmp_path / "fly"))
    assert_same(built.images(built.settings, ArrayCache(tmp_path / "cache")), fly)
    assert {slot["asked"] for slot in built.manifest["slots"]} >= {"hm", "vtm", "hific"}
    assert len(built.manifest["substitutions"]) == 5


def test_two_versions_of_an_image_in_one_build_are_an_error(build, photos, tmp_path):
    """Builds of before, which did not look, may hold them."""
    hr, out = tmp_path / "hr", tmp_path / "out"
    shutil.copytree(photos, hr)
    build(out, hr, plan={"hr_mode": "bytes"})
    name = next(iter(Layout(out).finished("web-40/00001").images))
    for file in (out / ".build/done").rglob("*.json"):  # a record of before
        record = json.loads(file.read_text())
        del record["images"]
        file.write_text(json.dumps(record))
    (out / "data/web-40/00001.parquet").unlink()
    Image.open(hr / name).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(hr / name)
    build(out, hr, plan={"hr_mode": "bytes"})
    built = open_suite(out)
    with pytest.raises(DataError, match=rf"built from two images called {name}"):
        built.images(built.settings, ArrayCache(tmp_path / "cache"))


def test_a_manifest_that_lacks_its_parts_is_damaged(tmp_path):
    (tmp_path / "suite.json").write_text('{"format_version": "1.0"}')
    with pytest.raises(DataError, match="is damaged: it lacks suite, slots, settings"):
        open_suite(tmp_path)
