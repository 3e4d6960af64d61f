"""The command and the Python interface enlarge pictures of any kind (R22, R23)."""

import io
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import ucip_adapt
from ucip_adapt.cli import main
from ucip_adapt.detection import detect_codec
from ucip_adapt.errors import ConfigError, NonFiniteError, UcipError, UnknownNameError
from ucip_adapt.imaging import Picture, read_picture
from ucip_adapt.imaging.enlarge import enlarge_picture
from ucip_adapt.models import UCIP, UCIPConfig, bicubic_x4, plan_large
from ucip_adapt.models.token_mixer import OffsetLayer
from ucip_adapt.upscaler import Upscaler


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nano")
    UCIP(UCIPConfig.preset("nano")).save_pretrained(folder)
    return folder


def test_every_kind_comes_out_four_times_as_large(good, bad, nano, tmp_path, capsys):
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for name, (data, *_) in good.items():
        (zoo / f"{name} é-漢.png").write_bytes(data)
    for name, (data, _) in bad.items():
        (zoo / f"bad {name}.png").write_bytes(data)
    (zoo / "-x.png").write_bytes(good["rgb"][0])
    (zoo / "folder.png").mkdir()
    out = tmp_path / "out"
    code = main(["upscale", str(zoo), "-o", str(out), "--base", str(nano), "--json"])
    outcomes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 3
    assert len(outcomes) == len(good) + len(bad) + 1
    errors = {o["input"].rsplit("/", 1)[1] for o in outcomes if o["error"]}
    assert errors == {f"bad {name}.png" for name in bad}
    for name, (_, mode, (height, width), _) in good.items():
        result = read_picture((out / f"{name} é-漢_x4.png").read_bytes())
        assert (result.mode, result.size) == (mode, (4 * height, 4 * width)), name
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_several_images_of_any_kind_and_size_at_once(nano):
    model = Upscaler(UCIP.from_pretrained(nano), base="nano")
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((8, 10), (5, 7))]
    for images in (arrays, list(map(Image.fromarray, arrays)), (torch.rand(3, 6, 9),), []):
        found = model.upscale_all(images)
        assert isinstance(found, list)
        expected = [model.upscale(image) for image in images]
        assert [type(sr) for sr in found] == [type(image) for image in expected]
        for sr, one in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(sr), np.asarray(one))


def test_sizes_give_exactly_four_times_and_the_networks_pixels(nano):
    network = UCIP.from_pretrained(nano)
    model = Upscaler(network, base="nano")
    random = np.random.default_rng(0)
    for height, width in [*random.integers(1, 41, (12, 2)), (1, 1), (40, 1), (8, 8)]:
        lq = torch.rand(1, 3, int(height), int(width))
        sr = model.upscale(lq)
        assert sr.shape == (1, 3, 4 * height, 4 * width)
        assert torch.isfinite(sr).all()
        if min(height, width) >= 8:
            with torch.no_grad():
                torch.testing.assert_close(sr, network(lq).clamp(0, 1), rtol=0, atol=0)


def test_grey_alpha_and_depth_by_an_upscaler_that_is_known():
    random = np.random.default_rng(1)
    grey = random.integers(0, 65535, (9, 7, 1), np.uint16)
    alpha = random.integers(0, 65535, (9, 7), np.uint16)
    result = enlarge_picture(Picture(grey, alpha), bicubic_x4)
    wanted = bicubic_x4(torch.from_numpy(grey[None, None, ..., 0].astype(np.float64) / 65535))
    wanted = (wanted.clamp(0, 1) * 65535)[0, 0].numpy()
    np.testing.assert_allclose(result.colour[..., 0].astype(float), wanted, atol=2)
    large = Image.fromarray(alpha.astype(np.float32)).resize((28, 36), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(result.alpha.astype(float), np.asarray(large).clip(0, 65535), atol=1)


def test_pil_numpy_and_torch_agree(nano):
    model = Upscaler(UCIP.from_pretrained(nano), base="nano")
    rgb = np.random.default_rng(2).integers(0, 255, (12, 17, 3), np.uint8)
    array = model.upscale(rgb)
    np.testing.assert_array_equal(np.asarray(model.upscale(Image.fromarray(rgb))), array)
    tensor = model.upscale(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
    np.testing.assert_array_equal((tensor * 255).round().byte().permute(1, 2, 0).numpy(), array)
    assert model.upscale(rgb[..., 0]).shape == (48, 68)
    for wrong in (rgb.astype(float), "a.png", torch.zeros(2, 3)):
        with pytest.raises(ConfigError):
            model.upscale(wrong)


def test_a_memory_limit_changes_how_and_not_what(nano):
    network = UCIP.from_pretrained(nano)
    lq = np.random.default_rng(4).integers(0, 255, (150, 120, 3), np.uint8)
    free = Upscaler(network, base="nano").upscale(lq)
    bound = Upscaler(network, base="nano", max_memory="75MB").upscale(lq)
    assert np.abs(bound.astype(int) - free).max() <= 1
    assert plan_large(network.config, 150, 120, max_memory="75MB").mode == "exact"
    with pytest.raises(UcipError, match="max_memory='69MB' or more"):
        Upscaler(network, base="nano", max_memory="30KB").upscale(lq)
    with pytest.raises(ConfigError, match="needs dtype float32"):
        Upscaler(network, base="nano", max_memory="1GB", dtype="bfloat16")


def test_streams_and_single_files(good, nano, tmp_path, monkeypatch, capsysbinary):
    class Stream:
        buffer = io.BytesIO(good["grey"][0])

    monkeypatch.setattr("sys.stdin", Stream)
    assert main(["upscale", "-", "-o", "-", "--base", str(nano), "--adapter", "none"]) == 0
    assert read_picture(capsysbinary.readouterr().out).size == (44, 52)
    source = tmp_path / "a.png"
    source.write_bytes(good["rgb"][0])
    target = tmp_path / "b.webp"
    assert main(["upscale", str(source), "-o", str(target), "--base", str(nano)]) == 0
    with Image.open(target) as image:
        assert (image.format, image.size) == ("WEBP", (52, 44))


def test_nothing_is_overwritten_unasked(good, nano, tmp_path, capsys):
    source = tmp_path / "a.png"
    source.write_bytes(good["rgb"][0])
    there = tmp_path / "a_x4.png"
    there.write_bytes(b"mine")
    words = ["upscale", str(source), "-o", str(tmp_path), "--base", str(nano)]
    assert main(words) == 3
    assert there.read_bytes() == b"mine"
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert there.read_bytes() != b"mine"
    for flags, message in (
        (["--suffix="], "would be replaced by its own result"),
        (["--jobs=0"], "need at least 1"),
        (["--adapter=wepb"], "unknown adapter 'wepb'"),
    ):
        assert main([*words, *flags]) == 2
        assert message in capsys.readouterr().err


def test_two_results_of_one_name_are_refused(good, tmp_path, capsys):
    for name in ("a.png", "a.webp"):
        (tmp_path / name).write_bytes(good["webp"][0])
    assert main(["upscale", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "would both become" in capsys.readouterr().err


def test_a_missing_input_is_said_before_anything_is_done(tmp_path, capsys):
    assert main(["upscale", str(tmp_path / "no.png"), "-o", str(tmp_path)]) == 2
    assert "no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("quality", [1, 10, 37, 50, 75, 90, 100])
def test_jpeg_quality_is_read_from_its_tables(quality):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (1, 2, 3)).save(buffer, "JPEG", quality=quality)
    detection = detect_codec(buffer.getvalue())
    assert (detection.codec, detection.quality) == ("jpeg", quality)


def test_containers_name_their_codec(good):
    named = {name: detect_codec(good[name][0]).codec for name in ("webp", "avif", "jpeg xl", "rgb")}
    # This JPEG XL is lossless.
    assert named == {"webp": "webp", "avif": "avif", "jpeg xl": None, "rgb": None}


def test_the_sampler_reaches_every_network(nano, good, tmp_path, monkeypatch):
    """By hand, by `auto` and its adapters, by the command; the picture stays the same."""
    asked = []
    monkeypatch.setattr(UCIP, "use_sampler", lambda self, name: asked.append((self, name)))
    ucip_adapt.load("webp", sampler="gather")
    automatic = ucip_adapt.load("auto", sampler="gather")
    automatic.using("avif")
    assert {name for _, name in asked} == {"gather"}
    assert len({id(network) for network, _ in asked}) == 3
    monkeypatch.undo()
    # Offsets in the layout that the kernel reads, also those that an adapter has wrapped.
    adapted = ucip_adapt.load("webp", sampler="fused").network
    assert {part.planar for part in adapted.modules() if isinstance(part, OffsetLayer)} == {False}
    source = tmp_path / "in.png"
    source.write_bytes(good["rgb"][0])
    for name in ("grid", "gather"):
        command = ["upscale", str(source), "-o", str(tmp_path / f"{name}.png"), "--adapter", "none"]
        assert main([*command, "--base", str(nano), "--sampler", name, "--quiet"]) == 0
    grid, gather = (
        read_picture((tmp_path / f"{name}.png").read_bytes()).colour.astype(int)
        for name in ("grid", "gather")
    )
    assert np.abs(grid - gather).max() <= 1
    with pytest.raises(UcipError, match=r"unknown sampler 'grit'; did you mean 'grid'"):
        ucip_adapt.load(sampler="grit")


def test_self_ensemble_reaches_every_network(nano, good, tmp_path):
    """By hand, by `auto` and its adapters, by the command; it is the mean of eight pictures."""
    automatic = ucip_adapt.load("auto", self_ensemble=True)
    assert automatic.using("avif").self_ensemble
    assert automatic.using(None).self_ensemble
    assert ucip_adapt.interpolate("webp", "webp", 0.5, self_ensemble=True).self_ensemble
    source = tmp_path / "in.png"
    source.write_bytes(good["rgb"][0])
    command = ["upscale", str(source), "--adapter", "none", "--base", str(nano), "--quiet"]
    assert main([*command, "-o", str(tmp_path / "once.png")]) == 0
    assert main([*command, "-o", str(tmp_path / "all.png"), "--self-ensemble"]) == 0
    once, together = (
        read_picture((tmp_path / f"{name}.png").read_bytes()).colour for name in ("once", "all")
    )
    assert not np.array_equal(once, together)
    colour = read_picture(source.read_bytes()).colour
    model = ucip_adapt.load(base=nano)
    turned = [
        np.rot90(model.upscale(np.ascontiguousarray(np.rot90(seen, k))), -k)[:, ::step]
        for seen, step in ((colour, 1), (colour[:, ::-1], -1))
        for k in range(4)
    ]
    mean = np.mean([picture.astype(float) for picture in turned], axis=0)
    assert np.abs(together - mean).max() <= 1.01  # each of the eight was rounded here
    assert np.array_equal(ucip_adapt.load(base=nano, self_ensemble=True).upscale(colour), together)


def test_self_ensemble_counts_the_results_that_wait_beside_each_other(nano):
    """Within the least memory of one orientation it is refused, by what the average adds."""
    seen = torch.rand(1, 3, 60, 80)
    of_two = 2 * 4 * seen.numel() * 16

    def least(ensemble):
        limited = ucip_adapt.load(base=nano, max_memory="1MB", self_ensemble=ensemble)
        with pytest.raises(UcipError, match="give max_memory") as refused:
            limited.upscale(seen)
        return int(re.search(r"max_memory='(\d+)MB'", str(refused.value))[1])

    assert abs(least(True) - least(False) - of_two / 1e6) <= 1
    bounded = ucip_adapt.load(base=nano, max_memory=f"{least(True)}MB", self_ensemble=True)
    free = ucip_adapt.load(base=nano, self_ensemble=True)
    torch.testing.assert_close(bounded.upscale(seen), free.upscale(seen), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bfloat16"},
        {"max_memory": "1GB"},
        {"self_ensemble": True},
        {"self_ensemble": True, "max_memory": "1GB"},
        {"adapter": "auto"},
        {"adapter": "auto", "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_what_comes_out_is_an_ordinary_tensor(nano, options):
    """On every path: it may be changed in place, trained on, and asks for no graph itself."""
    model = ucip_adapt.load(base=nano, **options)
    for dtype in (torch.float32, torch.float64):
        for shape in ((2, 3, 9, 12), (3, 9, 12)):
            lq = torch.rand(shape, dtype=dtype, requires_grad=True)
            sr = model.upscale(lq)
            assert (sr.dtype, sr.requires_grad) == (dtype, False)
            sr.mul_(2).add_(1)
            weight = torch.ones(1, dtype=dtype, requires_grad=True)
            (sr * weight).sum().backward()
            torch.testing.assert_close(weight.grad, sr.sum()[None])


@pytest.mark.parametrize("options", [{}, {"max_memory": "1GB"}, {"adapter": "auto"}], ids=str)
def test_tensors_of_another_range_are_refused(nano, options):
    """They gave a white picture, and one value that is not finite was said to be the network's."""
    model = ucip_adapt.load(base=nano, **options)
    lq = torch.rand(2, 3, 9, 12)
    lq[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    for wrong, message in (
        (lq * 255, r"in \[0, 1\], these reach from 0 to 255; divide 8-bit levels by 255$"),
        ((lq * 255)[0].half(), r"from 0 to 255; divide"),
        (lq * 2 - 1, r"these reach from -1 to 1$"),
        (lq * 65535, r"these reach from 0 to 6.554e\+04$"),
        (lq.double() + 0.51, r"from 0.51 to 1.51;"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.upscale(wrong)
    for value in (torch.nan, torch.inf, -torch.inf):
        one = lq.clone()
        one[1, 2, 3, 4] = value
        with pytest.raises(NonFiniteError, match="the image holds values that are NaN or infinite"):
            model.upscale(one)
    # Overshoot of an earlier resampling is none of this.
    assert model.upscale(lq * 2 - 0.5).shape == (2, 3, 36, 48)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_memory": "1GB"}, {"self_ensemble": True}, {"adapter": "auto"}],
    ids=str,
)
def test_images_without_a_pixel_are_refused(nano, options):
    model = ucip_adapt.load(base=nano, **options)
    for shape in ((0, 3, 40, 30), (0, 3, 4, 4), (1, 3, 0, 5), (3, 40, 0)):
        with pytest.raises(ConfigError, match=re.escape(f"of shape {shape} holds no pixel")):
            model.upscale(torch.rand(shape))
    with pytest.raises(ConfigError, match="an image of 0 x 5 pixels holds none"):
        model.upscale(Image.new("RGB", (0, 5)))
    with pytest.raises(ConfigError, match=r"got \(0, 5, 3\)"):
        model.upscale(np.zeros((0, 5, 3), np.uint8))


def test_precision_is_named_or_torchs_own(nano):
    lq = torch.rand(1, 3, 9, 12)
    by_name = ucip_adapt.load(base=nano, dtype="bfloat16")
    for adapter in (None, "auto"):
        model = ucip_adapt.load(adapter, base=nano, dtype=torch.bfloat16)
        assert model.dtype == "bfloat16"
        assert torch.equal(model.upscale(lq), by_name.upscale(lq))
        assert ucip_adapt.load(adapter, base=nano, dtype=torch.float32).dtype == "float32"
        with pytest.raises(ConfigError, match="float16 needs a GPU"):
            ucip_adapt.load(adapter, base=nano, dtype=torch.float16)
        for wrong, told in ((torch.int8, "int8"), ("bf16", "bf16"), (None, "None"), (16, "16")):
            with pytest.raises(UnknownNameError, match=f"unknown dtype '{told}'.*bfloat16, float"):
                ucip_adapt.load(adapter, base=nano, dtype=wrong)
    assert ucip_adapt.interpolate("webp", "webp", 0.5, dtype=torch.bfloat16).dtype == "bfloat16"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, nano):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: asked.append(device) or self)
    there = ["cuda", "cuda:0", "cuda:1", "cpu", "cpu:0"]
    for device in there:
        ucip_adapt.load(base=nano, device=device)
    assert asked == there
    interpolate = partial(ucip_adapt.interpolate, "webp", "webp", 0.5)
    for load in (ucip_adapt.load, interpolate):
        with pytest.raises(
            ConfigError, match=r"'cuda:2' is not available here, but cuda:0, cuda:1$"
        ):
            load(device="cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for missing in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError, match=rf"device '{missing}' is not available here$"):
            ucip_adapt.load(device=missing)


def test_load_names_what_is_wrong(tmp_path):
    with pytest.raises(UcipError, match="unknown adapter 'wep'"):
        ucip_adapt.load("wep")
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        ucip_adapt.load(device="gpu")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        ucip_adapt.load(dtype="float16")
