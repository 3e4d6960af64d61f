"""What `upscale` takes from folders and how it names results; runs that go wrong halfway."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from ucip_adapt.cli import main
from ucip_adapt.errors import ConfigError, NonFiniteError
from ucip_adapt.imaging.batch import BatchOptions, run_jobs
from ucip_adapt.imaging.jobs import Job, collect_jobs, format_of
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.upscaler import Upscaler, load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (200, 90, 10)).save(tmp_path / name, "PNG")
        return tmp_path

    return make


@pytest.fixture
def nano(tmp_path):
    torch.manual_seed(0)
    UCIP(UCIPConfig.preset("nano")).save_pretrained(tmp_path / "nano")
    return ["--base", str(tmp_path / "nano"), "--adapter=none"]


def pairs(*inputs, output="out", **more):
    return [(job.source, job.target) for job in collect_jobs(inputs, output, **more)]


def test_every_ending_that_can_be_read_is_taken(here):
    endings = "png jpg jpeg jpe jfif webp bmp tif tiff gif avif heic heif jxl jp2 j2k ppm pgm"
    here(*(f"in/{i:02}.{ending}" for i, ending in enumerate(endings.split())), "in/notes.txt")
    found = pairs("in")
    assert [source.rpartition(".")[2] for source, _ in found] == endings.split()
    assert {target.rpartition(".")[2] for _, target in found} == {"png"}


def test_results_of_an_earlier_run_are_no_pictures(here, capsys):
    here("in/a.png", "in/b.png", "in/b_x4.png", "in/c_x4.png")
    assert pairs("in", output="in") == [
        ("in/a.png", "in/a_x4.png"),
        ("in/b.png", "in/b_x4.png"),
        ("in/c_x4.png", "in/c_x4_x4.png"),  # of no picture here: it may have been called so
    ]
    assert "left out: 1 that are named like results, such as 'in/b_x4.png'" in (
        capsys.readouterr().err
    )
    # Named by itself, or with its result elsewhere, it is a picture like others.
    assert pairs("in/b_x4.png", output="in") == [("in/b_x4.png", "in/b_x4_x4.png")]
    assert len(pairs("in", output="out")) == 4
    assert capsys.readouterr().err == ""


def test_a_folder_is_not_replaced_by_its_own_results(here):
    here("in/a.png", "in/b.png")
    with pytest.raises(ConfigError, match=r"in/a\.png would be replaced by its own result"):
        pairs("in", output="in", suffix="")


def test_a_picture_is_not_replaced_by_the_result_of_another(here, nano):
    folder = here("in/a.png", "in/a_x4.png")
    before = (folder / "in/a_x4.png").read_bytes()
    with pytest.raises(
        ConfigError, match=r"a_x4\.png would be replaced by the result of in/a\.png"
    ):
        pairs("in/a.png", "in/a_x4.png", output="in")
    assert main(["upscale", "in/a.png", "in/a_x4.png", "-o", "in", "--overwrite", *nano]) == 2
    assert (folder / "in/a_x4.png").read_bytes() == before


def test_an_output_folder_inside_the_input_is_not_searched(here, capsys):
    here("in/a.png", "in/deep/b.png", "in/large/a_x4.png", "in/large/deep/b_x4.png")
    found = pairs("in", output="in/large", recursive=True)
    assert found == [("in/a.png", "in/large/a_x4.png"), ("in/deep/b.png", "in/large/deep/b_x4.png")]
    assert "left out: 2 in the output folder 'in/large'" in capsys.readouterr().err


def test_a_second_run_enlarges_nothing_twice(here, nano, capsys):
    folder = here("in/a.png")
    words = ["upscale", "in", "-o", "in", "--overwrite", *nano]
    assert [main(words) for _ in range(3)] == [0, 0, 0]
    assert sorted(path.name for path in (folder / "in").iterdir()) == ["a.png", "a_x4.png"]


def test_the_ending_of_a_result_says_its_format(here, nano, capsys):
    folder = here("a.png", "in/1.png", "in/2.png")
    assert [format_of(name) for name in ("a.PNG", "b.tif", "c.jpeg", "d", "e.bmp")] == (
        ["png", "tiff", "jpeg", None, None]
    )
    for words, message in [
        (["a.png", "-o", "b.bmp"], "b.bmp: no .bmp can be written; these can: .jpeg, .jpg, .png"),
        (["a.png", "-o", "b.gif"], "no .gif can be written"),
        (["a.png", "-o", "b.pgn"], ".webp; a folder ends with a slash: b.pgn/"),
        (["a.png", "-o", "b.png", "--format=webp"], "--format webp contradicts b.png"),
        (["in", "-o", "b.png"], "b.png is named like one picture; 2 need a folder"),
        (["a.png", "-o", "out", "--suffix=/x"], "without slashes"),
        (["a.png", "-o", "out", "--revision=v1"], "name it with --adapter"),
        (["a.png", "-o", "out", "--max-memory=lots"], "error: max_memory='lots': give a size"),
    ]:
        assert main(["upscale", *words, *nano]) == 2, words
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "in", "nano"]
    assert main(["upscale", "a.png", "-o", "b.tiff", "--format=tiff", *nano]) == 0
    assert main(["upscale", "a.png", "-o", "out.d", "--format=webp", *nano]) == 0
    assert Image.open("b.tiff").format == "TIFF"
    assert Image.open("out.d/a_x4.webp").format == "WEBP"


@pytest.mark.parametrize("output", ["x4.2026", "v1.2", "b.pgn/", "b.png/", "there.pgn", "out"])
def test_what_is_a_folder(here, output):
    here("a.png", "there.pgn/old.png")
    assert pairs("a.png", output=output) == [("a.png", str(Path(output, "a_x4.png")))]
    here("c.png")
    assert len(pairs("a.png", "c.png", output="b.pgn")) == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "--max-memory"),
        (MemoryError(), "--max-memory"),
        (RuntimeError("CUDA out of memory. Tried"), "--max-memory"),
        (RuntimeError("no kernel\nmore lines"), "the network failed: no kernel"),
        (RuntimeError("unsupported memory format"), "the network failed: unsupported"),
    ],
)
def test_what_the_network_cannot_do_is_that_pictures_error(
    here, nano, monkeypatch, capsys, error, words
):
    here("in/a.png", "in/b.png", "in/c.png")
    upscale, calls = Upscaler.upscale_picture, []

    def fails_once(self, picture):
        calls.append(picture)
        if len(calls) == 2:
            raise error
        return upscale(self, picture)

    monkeypatch.setattr(Upscaler, "upscale_picture", fails_once)
    assert main(["upscale", "in", "-o", "out", "--json", *nano]) == 3
    outcomes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(outcome["error"]) for outcome in outcomes] == [False, True, False]
    assert words in outcomes[1]["error"]
    assert "\n" not in outcomes[1]["error"]


def test_a_name_that_is_no_text_does_not_stop_the_rest(here, nano, monkeypatch):
    folder = here("in/z.png")
    strange = b"a\xe9.png".decode("utf-8", "surrogateescape")
    try:
        (folder / "in" / "z.png").rename(folder / "in" / strange)
    except OSError:
        pytest.skip("this file system takes no such names")
    here("in/z.png")
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_jobs(collect_jobs(["in"], "out"), BatchOptions(adapter="none", base=nano[1])) == 0
    out.flush()
    lines = out.buffer.getvalue().decode("utf-8").splitlines()
    assert lines[0].startswith("out/a\\udce9_x4.png: 36 x 32")
    assert lines[1].startswith("out/z_x4.png: 36 x 32")


def test_a_pil_picture_comes_back_upright(nano):
    model = load(base=nano[1])
    pixels = np.random.default_rng(0).integers(0, 255, (10, 6, 3), np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as turned:
        result = model.upscale(turned)
    assert result.size == (40, 24)
    wanted = model.upscale(np.rot90(pixels, -1).copy())
    np.testing.assert_array_equal(np.array(result), wanted)


def test_a_pil_picture_keeps_its_transparent_colour(nano):
    model = load(base=nano[1])
    pixels = np.full((6, 6, 3), 90, np.uint8)
    pixels[:, 3:] = 200
    image = Image.fromarray(pixels)
    image.info["transparency"] = (200, 200, 200)
    alpha = np.array(model.upscale(image))[..., 3]
    assert (alpha[:, :6] == 255).all()
    assert (alpha[:, -6:] == 0).all()


def photo(file_format, mode, orientation):
    """A small photo with a profile, a place, and a camera's data."""
    pixels = np.random.default_rng(3).integers(0, 255, (10, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.IFD.Exif] = {36867: "2020:01:02 03:04:05", 33434: (1, 100)}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if mode[0] == "L":  # of a grey one only the name of its channels matters here
        profile = profile[:16] + b"GRAY" + profile[20:]
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(buffer, file_format, exif=exif.tobytes(), icc_profile=profile)
    return buffer.getvalue(), profile


@pytest.mark.parametrize("adapter", [None, "auto"])
@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
    ],
)
def test_a_pil_picture_keeps_what_its_file_would(
    nano, tmp_path, file_format, mode, orientation, adapter
):
    """The command's own way of a file, and Pillow's own reading of both, are the measure."""
    data, profile = photo(file_format, mode, orientation)
    (tmp_path / "photo").write_bytes(data)
    model = load(adapter, base=nano[1])
    wanted = model.upscale_file(data)
    with Image.open(tmp_path / "photo") as image:
        before = dict(image.getexif())
        results = [model.upscale(image), model.upscale(image)]
        # Pillow itself takes the orientation out of a TIFF that it loads.
        assert file_format == "TIFF" or dict(image.getexif()) == before
    for result in results:
        assert result.size == ((40, 24) if orientation == 6 else (24, 40))
        assert (result.mode, result.info["icc_profile"]) == (mode, profile)
        assert result.info["icc_profile"] == wanted.icc_profile
        assert result.info["exif"] == wanted.exif
        exif = result.getexif()
        assert ExifTags.Base.Orientation not in exif
        assert exif[ExifTags.Base.Make] == "maker"
        assert exif.get_ifd(ExifTags.IFD.Exif)[36867] == "2020:01:02 03:04:05"
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
        # And so does a file of it.
        result.save(tmp_path / "large.png", exif=result.info["exif"])
        with Image.open(tmp_path / "large.png") as large:
            assert large.info["icc_profile"] == profile
            assert large.getexif()[ExifTags.Base.Make] == "maker"


def test_a_pil_picture_without_metadata_gets_none(nano):
    result = load(base=nano[1]).upscale(Image.new("RGB", (6, 5)))
    assert not result.info


def test_exif_data_that_cannot_be_written_are_left_out_and_said(nano):
    image = Image.new("RGB", (6, 5))
    image.getexif()[ExifTags.Base.XResolution] = "seventy-two"  # a ratio in every standard
    with pytest.warns(UserWarning, match="EXIF data that cannot be written are left out"):
        result = load(base=nano[1]).upscale(image)
    assert (result.size, result.info) == ((24, 20), {})


def test_a_transparent_level_of_16_bit_grey_is_refused_where_pillow_has_no_kind_for_it(nano):
    model = load(base=nano[1])
    image = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    assert (image.mode, model.upscale(image).mode) == ("I;16", "I;16")
    image.info["transparency"] = 5000
    with pytest.raises(ConfigError, match=r"no 16-bit grey with alpha.*upscale_file"):
        model.upscale(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=5000)
    assert model.upscale_file(buffer.getvalue()).mode == "LA;16"


def test_a_network_that_overflows_is_an_error_for_tensors_too(nano):
    model = load(base=nano[1])
    with torch.no_grad():
        next(model.network.embed.parameters()).mul_(1e38)
    with pytest.raises(NonFiniteError, match="not finite"):
        model.upscale(torch.rand(1, 3, 8, 8))


def test_a_revision_needs_an_adapter_of_the_hub():
    for adapter in (None, "auto"):
        with pytest.raises(ConfigError, match="name the adapter"):
            load(adapter, revision="v1")
        with pytest.raises(ConfigError, match="name the adapter"):
            load(adapter, subfolder="a")


def test_jobs_are_plain():
    assert collect_jobs(["-"], "-", file_format="webp") == [Job("-", "-")]
