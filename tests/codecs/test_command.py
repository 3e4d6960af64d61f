"""Commands and folders in place of codecs, and who may name them (R27b)."""

from __future__ import annotations

import io
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt import codecs
from ucip_adapt.codecs import get_codec, list_codecs
from ucip_adapt.codecs.base import code_image, fingerprint_digest
from ucip_adapt.codecs.command import command_codec
from ucip_adapt.codecs.folder import folder_codec
from ucip_adapt.data import (
    ArrayCache,
    EvalImage,
    EvalSet,
    Setting,
    degrade_images,
    parse_settings,
    read_rgb,
)
from ucip_adapt.data.degrade import check_namesakes, compress_lr
from ucip_adapt.errors import CodecError, CommandRefusedError, ConfigError, DataError
from ucip_adapt.evaluation import bicubic, evaluate_sets

# An encoder as a user may have one: WebP by Pillow, under a command line of its own.
ENCODER = """
import sys
from PIL import Image
source, target, quality = sys.argv[1:4]
Image.open(source).save(target, "WEBP", quality=int(quality), method=4)
if len(sys.argv) > 4:
    open(sys.argv[4], "wb").write(open(target, "rb").read())
    Image.open(target).convert("RGB").save(target, "PNG")
"""
DECODER = """
import sys
from PIL import Image
data = open(sys.argv[1], "rb").read()
assert sys.argv[1].endswith(".own") and data[:4] == b"RIFF", data[:4]
Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2])
"""


@pytest.fixture(autouse=True)
def _forget_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_OWN", {})


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


@pytest.fixture
def python(tmp_path: Path) -> str:
    (tmp_path / "encode.py").write_text(ENCODER)
    (tmp_path / "decode.py").write_text(DECODER)
    return shlex.quote(sys.executable)


@pytest.fixture
def small(lr: np.ndarray) -> np.ndarray:
    return lr[:40, :57]


def webp(rgb: np.ndarray, quality: int) -> tuple[np.ndarray, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "WEBP", quality=quality, method=4)
    return np.asarray(Image.open(buffer).convert("RGB")), buffer.getvalue()


def test_each_form_of_command_gives_the_encoders_pixels_and_rate(
    python: str, tmp_path: Path, small: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # scripts are named relative to where the user is
    empty = tmp_path / "temporary"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    pixels, stream = webp(small, 30)
    forms = {
        "coded file": f"command:{python} encode.py {{in}} {{out}} {{q}}",
        "with suffix": f"command:{python} encode.py {{in}} {{out}}.webp {{q}}",
        "both at once": f"command:{python} encode.py {{in}} {{out}}.png {{q}} {{bits}}",
        "two commands": f"command:{python} encode.py {{in}} {{out}}.own {{q}}"
        f" => {python} decode.py {{in}} {{out}}.png",
    }
    for form, text in forms.items():
        coded = command_codec(text).roundtrip(small, 30)
        np.testing.assert_array_equal(coded.pixels, pixels, form)
        assert coded.num_bytes == len(stream), form
        assert coded.stream == (stream if form in {"coded file", "with suffix"} else None), form
    assert list(empty.iterdir()) == []


def test_no_shell_reads_the_words(
    python: str, tmp_path: Path, small: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"command:{python} encode.py {{in}} {{out}} {{q}}; touch hurt $(touch hurt) | cat"
    codec = command_codec(text)
    assert codec.encoder[-6:] == ("touch", "hurt", "$(touch", "hurt)", "|", "cat")
    with pytest.raises(CodecError, match=r"exit code 1; its last words: .*ValueError"):
        codec.roundtrip(small, 30)  # int("30;") fails: the semicolon reached the program
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decode.py", "encode.py"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cwebp {in}", r"each command has to name \{out\} once"),
        ("cwebp {in} {in} {out}", r"each command has to name \{in\} once"),
        ("cwebp {in} {out} => dwebp {in}", r"each command has to name \{out\} once"),
        ("cwebp {in} {out} {quality}", r"unknown placeholder \{quality\}. Known: \{in\}, \{out\}"),
        ("cwebp '{in} {out}", "no closing quotation"),
        ("", r"each command has to name \{in\} once"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_it_runs(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command_codec(f"command:{words}")


# What goes wrong inside: the words of a script, and the error.
BAD_OUTPUT = {
    "size": (
        "Image.new('RGB', (8, 8)).save(sys.argv[2], 'PNG')",
        r"gave \(8, 8\) pixels for an im",
    ),
    "alpha": ("Image.new('RGBA', (57, 40)).save(sys.argv[2], 'PNG')", "has transparent pixels"),
    "no image": ("open(sys.argv[2], 'w').write('text')", "its output cannot be read"),
    "nothing": ("sys.stderr.write('skipped')", "wrote nothing; its last words: skipped"),
}


@pytest.mark.parametrize("name", BAD_OUTPUT)
def test_a_wrong_output_is_an_error(name: str, tmp_path: Path, small: np.ndarray) -> None:
    code, message = BAD_OUTPUT[name]
    script = tmp_path / "encode.py"
    script.write_text(f"import sys\nfrom PIL import Image\n{code}\n")
    codec = command_codec(f"command:{shlex.join([sys.executable, str(script)])} {{in}} {{out}}")
    with pytest.raises(CodecError, match=message):
        codec.roundtrip(small, 0)


def test_a_command_without_quality_has_one_setting(python: str) -> None:
    assert command_codec("command:a {in} {out}").spec.qualities == (0,)
    with pytest.raises(ConfigError, match="takes 0 alone, not 10"):
        command_codec("command:a {in} {out}").spec.check_quality(10)
    with pytest.raises(ConfigError, match="has no qualities of its own; name them"):
        parse_settings("command:a {in} {out} {q}", allow_command=True)
    settings = parse_settings("command:a {in} {out} {q}", (40, 10), allow_command=True)
    assert [setting.quality for setting in settings] == [40, 10]


def test_a_missing_program_is_a_message(small: np.ndarray) -> None:
    codec = command_codec("command:no-such-encoder {in} {out}")
    assert codec.available().reason == "there is no program 'no-such-encoder' on the PATH"
    for act in (codec.fingerprint, lambda: codec.roundtrip(small, 0)):
        with pytest.raises(CodecError, match="there is no program 'no-such-encoder'"):
            act()


def test_the_fingerprint_follows_the_script(python: str, tmp_path: Path) -> None:
    script = tmp_path / "encode.py"
    text = f"command:{python} {shlex.quote(str(script))} {{in}} {{out}} {{q}}"
    before = fingerprint_digest(command_codec(text).fingerprint())
    assert before == fingerprint_digest(command_codec(text).fingerprint())
    script.write_text(ENCODER + "\n# another version\n")
    assert fingerprint_digest(command_codec(text).fingerprint()) != before


def test_folders_are_found_from_where_they_were_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: np.ndarray
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "fast").mkdir(parents=True)
    (tmp_path / "fast").mkdir()
    (tmp_path / "models" / "level.txt").write_text("7")
    (tmp_path / "enc.py").write_text(
        "import sys; from pathlib import Path; from PIL import Image\n"
        "level = int((Path(sys.argv[3].partition('=')[2]) / 'level.txt').read_text())\n"
        "Image.open(sys.argv[1]).point(lambda v: level).save(sys.argv[2], 'PNG')\n"
    )
    text = f"command:{shlex.quote(sys.executable)} enc.py {{in}} {{out}} --models=./models fast"
    codec = command_codec(text)
    assert codec.encoder[-2:] == (f"--models={tmp_path / 'models'}", "fast")
    monkeypatch.chdir("/")
    assert set(codec.roundtrip(small, 0).pixels.flat) == {7}
    monkeypatch.chdir(tmp_path)
    words = command_codec("command:enc {in} {out} models/ models/fast models/{q}").encoder
    assert words[3:] == (f"{tmp_path}/models/", f"{tmp_path}/models/fast", "models/{q}")


# -- who may name them -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["command", "folder"])
def test_only_the_users_own_words_are_taken(
    form: str, tmp_path: Path, small: np.ndarray, cache: ArrayCache
) -> None:
    hurt = tmp_path / "hurt"
    rest = f"touch {hurt} {{in}} {{out}}" if form == "command" else str(tmp_path)
    name = f"{form}:{rest}"
    message = rf"'{form}:.*' was not run: it names a program or a folder .* add --allow-command"
    (tmp_path / "a.png").write_bytes(b"")
    for act in (
        lambda: get_codec(name),
        lambda: parse_settings(name),
        lambda: compress_lr(small, Setting(name, 0), cache),
        lambda: degrade_images([tmp_path / "a.png"], [Setting(name, 0)], cache),
    ):
        with pytest.raises(CommandRefusedError, match=message):
            act()
    assert not hurt.exists()
    assert get_codec(name, allow_command=True) is get_codec(name)  # known from now on
    assert name not in {spec.name for spec, _ in list_codecs()}


def test_a_refused_text_cannot_steer_the_terminal() -> None:
    with pytest.raises(CommandRefusedError) as caught:
        get_codec("command:\x1b[2J\r\u202e" + "x" * 10_000)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, lr: np.ndarray) -> Path:
    """Two settings of two images: PNG at 10, JPEG at 40."""
    root = tmp_path / "elsewhere"
    for index, name in enumerate(("one", "two")):
        image = lr[index : index + 40, :57]
        for quality in (10, 40):
            (root / str(quality)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image // 2).save(root / "10" / f"{name}.png")
        Image.fromarray(image // 2).save(root / "40" / f"{name}.jpg")
    return root


def test_a_folder_gives_what_lies_under_the_images_name(folder: Path, lr: np.ndarray) -> None:
    codec = folder_codec(f"folder:{folder}")
    assert codec.spec.qualities == (10, 40)
    for index, name in enumerate(("one", "two")):
        image = lr[index : index + 40, :57]
        png = code_image(codec, image, 10, name=name)
        np.testing.assert_array_equal(png.pixels, image // 2)
        assert np.isnan(png.bpp)  # nobody knows how long the bitstream was
        assert png.stream is None
        jpeg = code_image(codec, image, 40, name=name)
        assert jpeg.stream == (folder / "40" / f"{name}.jpg").read_bytes()
        assert jpeg.bpp == 8 * len(jpeg.stream) / (40 * 57)


def test_what_a_folder_lacks_is_named(folder: Path, lr: np.ndarray) -> None:
    codec = folder_codec(f"folder:{folder}")
    image = lr[:40, :57]
    for name, quality, size, message in (
        ("three", 10, 57, r"has no image 'three' at quality 10 \(of 2 images\)"),
        ("one", 20, 57, r"has no quality 20\. Known: 10, 40"),
        ("one", 10, 50, r"one.png has \(40, 57\) pixels, the image it stands for \(40, 50\)"),
    ):
        with pytest.raises(CodecError, match=message):
            code_image(codec, image[:, :size], quality, name=name)
    with pytest.raises(CodecError, match="finds images by their names"):
        codec.roundtrip(image, 10)
    missing = folder_codec(f"folder:{folder / 'no'}")
    assert missing.available().reason.endswith("does not exist")
    with pytest.raises(CodecError, match="does not exist"):
        code_image(missing, image, 10, name="one")


def test_a_folder_that_is_not_there_is_said_whatever_the_quality(folder: Path) -> None:
    for qualities in ((), (8,)):
        with pytest.raises(CodecError, match="does not exist"):
            parse_settings(f"folder:{folder / 'no'}", qualities, allow_command=True)


def test_a_quality_without_a_place_among_the_words_is_said() -> None:
    with pytest.raises(ConfigError, match=r"has no \{q\} among its words"):
        parse_settings("command:cp {in} {out}", (8,), allow_command=True)


def test_a_folder_without_settings_is_one_setting(folder: Path, lr: np.ndarray) -> None:
    codec = folder_codec(f"folder:{folder / '10'}")
    assert codec.spec.qualities == (0,)
    coded = code_image(codec, lr[:40, :57], 0, name="one")
    np.testing.assert_array_equal(coded.pixels, lr[:40, :57] // 2)


def test_a_quality_may_have_leading_zeros(folder: Path, lr: np.ndarray) -> None:
    (folder / "10").rename(folder / "008")
    codec = folder_codec(f"folder:{folder}")
    assert codec.spec.qualities == (8, 40)
    for index, name in enumerate(("one", "two")):
        image = lr[index : index + 40, :57]
        coded = code_image(codec, image, 8, name=name)
        np.testing.assert_array_equal(coded.pixels, image // 2)
        jpeg = code_image(codec, image, 40, name=name)
        assert jpeg.stream == (folder / "40" / f"{name}.jpg").read_bytes()
    before = fingerprint_digest(codec.fingerprint())
    with (folder / "008" / "one.png").open("ab") as file:
        file.write(b"\0")
    assert fingerprint_digest(codec.fingerprint()) != before


def test_two_folders_of_one_quality_are_an_error(folder: Path) -> None:
    (folder / "0010").mkdir()
    with pytest.raises(DataError, match=r"/0010 and .*/10 are both quality 10: rename or remove"):
        folder_codec(f"folder:{folder}")


def test_equal_images_of_two_names_are_not_mixed_up_in_the_cache(
    folder: Path, tmp_path: Path, cache: ArrayCache, lr: np.ndarray
) -> None:
    """The cache is keyed by content; a folder also goes by the name."""
    text = f"folder:{folder}"
    [setting] = parse_settings(text, (10,), allow_command=True)
    hr = np.repeat(np.repeat(lr[:40, :57], 4, axis=0), 4, axis=1)
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        Image.fromarray(hr).save(path)
    found = degrade_images(paths, [setting], cache)
    for image in found:
        expected = read_rgb(folder / "10" / f"{image.name}.png")
        np.testing.assert_array_equal(np.asarray(image.lq[setting]), expected)
        again = compress_lr(lr[:40, :57], setting, cache, name=image.name)
        np.testing.assert_array_equal(again, expected)
    assert not np.array_equal(*(np.asarray(image.lq[setting]) for image in found))


def test_a_folder_refuses_two_pictures_of_one_name_in_two_sets(
    folder: Path, cache: ArrayCache, lr: np.ndarray
) -> None:
    """Also where the sets themselves have one name, as two folders called HR have."""
    [setting] = parse_settings(f"folder:{folder}", (10,), allow_command=True)
    small = lr[:40, :57]
    gt = small.repeat(4, axis=0).repeat(4, axis=1)
    other = gt.copy()
    other[0, 0] ^= 1
    one, two = (EvalSet(n, (EvalImage("one", gt, small),), "made") for n in ("HR", "copy"))
    three = EvalSet("HR", (EvalImage("one", other, small, Path("HR", "one.png")),), "made")
    evaluate_sets({"bicubic": bicubic}, [one, two], [setting], ["y-c4"], cache=cache)
    message = r"names, and 'one' of copy and HR/one\.png are two pictures of one name"
    with pytest.raises(CodecError, match=message):
        evaluate_sets({"bicubic": bicubic}, [two, three], [setting], ["y-c4"], cache=cache)
    with pytest.raises(CodecError, match=r"'one' of HR and HR/one\.png are"):
        check_namesakes(get_codec(setting.codec), [(s.name, s.images) for s in (one, three)])
    evaluate_sets({"bicubic": bicubic}, [two, three], [Setting("webp", 10)], ["y-c4"], cache=cache)


def test_the_fingerprint_follows_the_files(folder: Path) -> None:
    before = fingerprint_digest(folder_codec(f"folder:{folder}").fingerprint())
    assert before == fingerprint_digest(folder_codec(f"folder:{folder}").fingerprint())
    with (folder / "10" / "one.png").open("ab") as file:
        file.write(b"\0")
    assert fingerprint_digest(folder_codec(f"folder:{folder}").fingerprint()) != before
