"""Stored streams of HM and VTM: found by pixels, checked twice, and never outside their folder."""

from __future__ import annotations

import csv
import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs import CODECS, get_codec
from ucip_adapt.codecs.reference import HM, VTM
from ucip_adapt.codecs.streams import (
    StoredCodec,
    StreamIndex,
    embedded_streams,
    open_streams,
    use_streams,
)
from ucip_adapt.data import (
    ArrayCache,
    EvalImage,
    EvalSet,
    Setting,
    bicubic_down4,
    degrade_images,
    list_images,
    load_eval_set,
    read_rgb,
)
from ucip_adapt.errors import (
    CodecError,
    CommandRefusedError,
    ConfigError,
    DataError,
    UnknownNameError,
)
from ucip_adapt.evaluation import bicubic, evaluate_sets, mean_psnr, source_of, summarise

pytest.importorskip("av")

Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _no_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for codec in (HM, VTM):
        monkeypatch.setenv(codec.variable, str(tmp_path / "no-encoder"))


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def rows_of(folder: Path) -> Rows:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """``copy(change)`` makes a folder of the streams of two images; ``change`` edits its rows."""

    def make(change: Callable[[Rows], object] = lambda rows: None, name: str = "streams") -> Path:
        folder = tmp_path / name
        rows = [row for row in rows_of(embedded_streams()) if row["name"] in {"dog", "girl"}]
        for row in rows:
            (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(embedded_streams() / row["path"], folder / row["path"])
        header = list(rows[0])
        change(rows)
        with (folder / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return make


def test_every_embedded_image_has_its_eight_streams_and_they_decode_as_stated() -> None:
    """The digests were written by others, with another program: they pin the whole colour path."""
    rows = rows_of(embedded_streams())
    images = {
        sha256(bicubic_down4(read_rgb(path))): path.stem
        for split in ("train", "validation")
        for path in list_images(image_folder(split))
    }
    assert len(images) == 19
    assert {(images[r["lr_sha256"]], r["codec"], r["qp"]) for r in rows} == {
        (name, codec, qp)
        for name in images.values()
        for codec in ("HM", "VTM")
        for qp in ("32", "37", "42", "47")
    }
    index = StreamIndex(embedded_streams())
    for row in rows[::3]:
        coded = index.read(index.find(row["codec"], int(row["qp"]), row["lr_sha256"]))
        assert sha256(coded.pixels) == row["rgb_sha256"]
        assert coded.num_bytes == int(row["bytes"]) == len(coded.stream)
        assert (
            index.named(row["codec"], int(row["qp"]), row["set"], row["name"]).path == row["path"]
        )
    listed = {row["path"] for row in rows} | {"index.csv", "README.md"}
    found = {
        path.relative_to(embedded_streams()).as_posix()
        for path in embedded_streams().rglob("*")
        if path.is_file()
    }
    assert found == listed


@pytest.mark.parametrize("name", ["hm", "vtm"])
def test_rate_and_fidelity_are_those_of_the_index(name: str, lr: np.ndarray) -> None:
    codec = open_streams(name, [embedded_streams()])
    weights = np.array([0.299, 0.587, 0.114])
    software = codec.reference.software
    rows = [r for r in rows_of(embedded_streams()) if (r["name"], r["codec"]) == ("dog", software)]
    assert len(rows) == 4
    for row in rows:
        coded = codec.roundtrip(lr, int(row["qp"]))
        error = coded.pixels.astype(float) - lr
        assert coded.bpp == pytest.approx(8 * int(row["bytes"]) / 144**2)
        for difference, key in ((error, "psnr_rgb"), (error @ weights, "psnr_y")):
            value = 10 * np.log10(255**2 / np.mean(difference**2))
            assert value == pytest.approx(float(row[key]), abs=1e-3)


def test_an_image_is_found_by_its_pixels_whatever_its_memory_looks_like(lr: np.ndarray) -> None:
    codec = open_streams("hm", [embedded_streams()])
    expected = codec.roundtrip(lr, 37).pixels
    swapped = lr.transpose(1, 0, 2).copy().transpose(1, 0, 2)
    np.testing.assert_array_equal(codec.roundtrip(swapped, 37).pixels, expected)
    other = lr.copy()
    other[0, 0, 0] ^= 1
    flat = lr.reshape(72, 288, 3)  # the same bytes, another image
    for image, qp in ((other, 37), (flat, 37), (lr, 33)):
        message = rf"hm: no stored stream at QP {qp} was made of this image.*no-encoder is no file"
        with pytest.raises(CodecError, match=message):
            codec.roundtrip(image, qp)
    with pytest.raises(ConfigError, match="hm takes qp 0 to 51, not 52"):
        codec.roundtrip(lr, 52)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../dog.hevc"}, r"line 2: the path '\.\./dog\.hevc' leads out of the folder"),
        ({"path": "hm/../../dog.hevc"}, r"leads out of the folder"),
        ({"path": "/etc/passwd"}, r"leads out of the folder"),
        ({"path": "C:dog.hevc"}, r"leads out of the folder"),
        ({"path": "hm\\..\\..\\dog.hevc"}, r"leads out of the folder"),
        ({"sha256": ""}, r"line 2: no sha256"),
        ({"codec": "JM"}, r"line 2: unknown codec 'JM'"),
        ({"width": "-4"}, r"line 2: qp, width, height and bytes are numbers"),
        ({"height": "99999999"}, r"line 2: 144 x 99999999 pixels"),
    ],
    ids=lambda value: next(iter(value.items()))[1][:12] if isinstance(value, dict) else "",
)
def test_a_line_that_cannot_be_right_is_refused(copy, changes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        StreamIndex(copy(lambda rows: rows[0].update(changes)))


def test_a_link_out_of_the_folder_is_not_followed(copy, tmp_path: Path, lr: np.ndarray) -> None:
    folder = copy()
    stream = folder / "hm" / "qp37" / "dog.hevc"
    stream.replace(tmp_path / "outside.hevc")
    stream.symlink_to(tmp_path / "outside.hevc")
    with pytest.raises(DataError, match=r"dog\.hevc leads out of its folder"):
        open_streams("hm", [folder]).roundtrip(lr, 37)


def test_damage_is_found_before_and_after_decoding(copy, lr: np.ndarray) -> None:
    folder = copy()
    stream = folder / "hm" / "qp37" / "dog.hevc"
    data = stream.read_bytes()
    codec = open_streams("hm", [folder])
    for damaged in (data[:-1], data + b"\0", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]):
        stream.write_bytes(damaged)
        with pytest.raises(DataError, match=r"dog\.hevc is damaged: its bytes are not those"):
            codec.roundtrip(lr, 37)
    stream.unlink()
    with pytest.raises(DataError, match=r"cannot read the stored stream .*dog\.hevc"):
        codec.roundtrip(lr, 37)

    def swap(rows: Rows) -> None:
        first, second = (r for r in rows if (r["codec"], r["qp"]) == ("HM", "37"))
        first["rgb_sha256"], second["rgb_sha256"] = second["rgb_sha256"], first["rgb_sha256"]

    with pytest.raises(DataError, match=r"decodes to other pixels than the index says"):
        open_streams("hm", [copy(swap, "swapped")]).roundtrip(lr, 37)


def test_an_index_that_is_missing_empty_or_of_another_codec_says_so(copy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the stream index .*index\.csv"):
        StreamIndex(tmp_path)
    with pytest.raises(DataError, match=r"lists nothing"):
        StreamIndex(copy(lambda rows: rows.clear()))
    only_hm = copy(
        lambda rows: rows.__setitem__(slice(None), [r for r in rows if r["codec"] == "HM"])
    )
    with pytest.raises(DataError, match=r"no VTM streams in "):
        open_streams("vtm", [only_hm])
    with pytest.raises(UnknownNameError, match=r"unknown codec with stored streams 'webp'"):
        open_streams("webp", [embedded_streams()])


def test_the_form_streams_is_taken_from_the_users_own_words_only(copy, lr: np.ndarray) -> None:
    text = f"streams:vtm={copy()}"
    with pytest.raises(CommandRefusedError, match="was not run"):
        get_codec(text)
    codec = get_codec(text, allow_command=True)
    assert codec.spec.name == text
    assert codec.available().version == "streams VTM 23.13"
    expected = open_streams("vtm", [embedded_streams()]).roundtrip(lr, 42)
    np.testing.assert_array_equal(codec.roundtrip(lr, 42).pixels, expected.pixels)
    with pytest.raises(ConfigError, match=r"write streams:hm=FOLDER or streams:vtm=FOLDER"):
        get_codec("streams:hm", allow_command=True)


def test_training_reads_the_streams_of_its_images(tmp_path: Path) -> None:
    use_streams(["hm", "webp"], None)
    assert isinstance(CODECS["hm"], StoredCodec)
    assert not isinstance(CODECS["webp"], StoredCodec)
    paths = list_images(image_folder("train"))[:2]
    setting = Setting("hm", 42)
    cache = ArrayCache(tmp_path / "cache")
    rows = {(r["name"], r["codec"], r["qp"]): r for r in rows_of(embedded_streams())}
    for image in degrade_images(paths, [setting], cache):
        expected = rows[image.name, "HM", "42"]["rgb_sha256"]
        assert sha256(np.asarray(image.lq[setting])) == expected
    # The other edge rule makes another image, which nobody has encoded.
    with pytest.raises(CodecError, match="no stored stream at QP 42 was made of this image"):
        degrade_images(paths, [setting], cache, edge="edge")


def test_the_table_is_as_it_was_in_the_next_test() -> None:
    assert CODECS["hm"] is HM


@pytest.fixture
def sets() -> list[EvalSet]:
    """One set of which all images have streams, and one with a stranger."""
    images = load_eval_set("GB82-val", limit=2).images
    gt = images[0].gt[:64, :64]
    stranger = EvalImage("stranger", gt, bicubic_down4(gt))
    return [EvalSet("whole", images, "made"), EvalSet("part", (*images, stranger), "made")]


def test_a_set_counts_only_if_all_its_images_have_streams(sets, tmp_path: Path) -> None:
    use_streams(["vtm"], None)
    settings = [Setting("vtm", 47), Setting("vtm", 37)]
    cache = ArrayCache(tmp_path / "cache")
    rows = evaluate_sets({"bicubic": bicubic}, sets, settings, ["y-c4"], cache=cache)
    assert [(r.dataset, r.quality, r.images) for r in rows] == [
        ("whole", 47, 2),
        ("whole", 37, 2),
        ("part", 47, 0),
        ("part", 37, 0),
    ]
    assert rows[0].source == "streams VTM 23.13"
    assert rows[0].psnr_db < rows[1].psnr_db
    assert math.isnan(rows[2].psnr_db)
    written = rows[2].to_dict()
    assert (written["psnr_db"], written["ssim"], written["images"]) == (None, None, 0)
    assert written["source"] == "2 of 3 images have streams VTM 23.13, and no encoder is here"
    assert mean_psnr(rows, "bicubic") == np.mean([rows[0].psnr_db, rows[1].psnr_db])
    table = summarise(rows, reference="bicubic").splitlines()
    assert [line.split() for line in table[4:6]] == [["part", "vtm", str(q), "-"] for q in (47, 37)]
    assert table[6:] == [f"vtm on whole: {rows[0].source}", f"vtm on part: {written['source']}"]


def test_an_encoder_codes_the_whole_of_an_incomplete_set(sets, monkeypatch) -> None:
    """Streams of one build and pictures of another are not mixed into one mean."""
    use_streams(["hm"], None)
    state = CODECS["webp"].available()
    monkeypatch.setattr(type(HM), "available", lambda self: state)
    codec, source = source_of(sets[1], Setting("hm", 32))
    assert codec is HM
    assert source == state.version
    codec, source = source_of(sets[0], Setting("hm", 32))
    assert isinstance(codec, StoredCodec)
    assert not codec.may_encode
    assert source == "streams HM 18.0"


@pytest.mark.parametrize(
    ("name", "codec", "complete"),
    [
        ("Set5", "hm", True),
        ("Set14", "vtm", True),
        ("Urban100", "hm", True),
        ("Urban100", "vtm", False),
    ],
)
def test_the_streams_beside_the_data_cover_the_sets(
    data_root: Path, name: str, codec: str, complete: bool
) -> None:
    use_streams([codec], data_root)
    paths = list_images(data_root / name / "LRbicx4")
    images = tuple(EvalImage(path.stem, np.zeros(0), read_rgb(path)) for path in paths)
    found, source = source_of(EvalSet(name, images, "stored"), Setting(codec, 32))
    assert (found is not None) == complete
    if not complete:
        assert source.startswith("77 of 100 images have streams VTM 23.13")


def test_cid22_can_be_trained_on_from_the_streams(data_root: Path, tmp_path: Path) -> None:
    paths = list_images(data_root / "train" / "CID22")[:3]
    use_streams(["hm", "vtm"], data_root)
    settings = [Setting("hm", 32), Setting("vtm", 47)]
    images = degrade_images(paths, settings, ArrayCache(tmp_path))
    rows = rows_of(data_root / "reference_streams")
    stored = {(r["set"], r["name"], r["codec"], r["qp"]): r["rgb_sha256"] for r in rows}
    for image in images:
        for setting in settings:
            key = ("CID22", image.name, setting.codec.upper(), str(setting.quality))
            assert sha256(np.asarray(image.lq[setting])) == stored[key]
