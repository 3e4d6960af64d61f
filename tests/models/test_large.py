"""The entry for large images: plans, memory, temporary files, tiles, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from ucip_adapt import UCIP, UCIPConfig, add_prompt_adapter, load_eval_set
from ucip_adapt.errors import ConfigError
from ucip_adapt.metrics import to_uint8
from ucip_adapt.models import (
    MemoryLimitError,
    TemporaryFileError,
    plan_large,
    upscale_large,
    upscale_rows,
)
from ucip_adapt.models.bounded.plan import parse_memory

NANO = UCIPConfig.preset("nano")


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("mode", ["auto", "whole", "exact"])
@pytest.mark.parametrize("size", [(20, 33), (1, 30), (30, 2), (3, 5), (1, 1)])
def test_arrays_and_tensors_come_out_as_upscale_gives_them(lively, mode, size):
    network = lively("nano")
    image = noise(*size)
    expected = network.upscale(tensor(image), window=None)
    found = upscale_large(network, tensor(image), mode=mode)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5
    levels = upscale_large(network, image, mode=mode)
    assert levels.dtype == np.uint8
    # A value that lies on the edge between two levels may fall to either side.
    assert np.abs(levels.astype(int) - to_uint8(expected)[0]).max() <= 1
    assert np.mean(levels != to_uint8(expected)[0]) < 0.01


@pytest.mark.parametrize("height", [1, 2, 3])
def test_strips_of_low_images_end_with_the_image(lively, height):
    """Little memory: the head takes several strips, the last of padded rows alone."""
    network, image = lively("nano"), noise(height, 300)
    expected = to_uint8(network.upscale(tensor(image), window=None))[0]
    for memory, rows in (("68MB", 1), ("72MB", 4), ("76MB", 7)):
        plan = plan_large(network.config, 8, 300, mode="exact", max_memory=memory)
        assert plan.tail_rows == rows
        strips = list(upscale_rows(network, image, mode="exact", max_memory=memory))
        assert np.concatenate(strips).shape == expected.shape
        assert np.abs(np.concatenate(strips).astype(int) - expected).max() <= 1


def test_a_tile_of_no_pixels_is_an_error(lively):
    for tile in (0, -5):
        with pytest.raises(ConfigError, match=f"tile={tile}: need more than"):
            upscale_large(lively("nano"), noise(9, 9), tile=tile)


def test_strips_leave_the_callers_autocast_as_it_is(lively):
    network, image = lively("nano"), noise(40, 60)
    expected = upscale_large(network, image, mode="exact")
    with torch.autocast("cpu", torch.bfloat16):
        rows = upscale_rows(network, image, mode="exact")
        first = next(rows)
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    assert np.array_equal(np.concatenate([first, *rows]), expected)  # computed in float32
    with torch.autocast("cpu", torch.bfloat16):
        rows = upscale_rows(network, image, mode="exact")
        next(rows)
    rows.close()
    assert not torch.is_autocast_enabled("cpu")


def test_images_of_a_batch_have_statistics_of_their_own(lively):
    network = lively("nano")
    lq = torch.rand(3, 3, 9, 10)
    shares = []
    found = upscale_large(network, lq, mode="exact", progress=shares.append)
    assert (found - network.upscale(lq, window=None)).abs().max() <= 1e-5
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_result_goes_where_it_is_told_to(lively, tmp_path):
    network = lively("nano")
    image = noise(20, 30)
    out = np.memmap(tmp_path / "out.raw", np.uint8, "w+", shape=(80, 120, 3))
    assert upscale_large(network, image, mode="exact", out=out) is out
    assert np.array_equal(out, upscale_large(network, image, mode="exact"))
    assert np.array_equal(out, np.concatenate(list(upscale_rows(network, image, mode="exact"))))
    with pytest.raises(ConfigError, match=r"out must be \(80, 120, 3\) uint8"):
        upscale_large(network, image, out=out[1:])


def test_peft_models_and_configured_windows(lively):
    network = lively("nano", window=16)
    image = noise(20, 40)
    expected = network.upscale(tensor(image))
    model = add_prompt_adapter(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the base asks for is not called approximate
        found = upscale_large(model, tensor(image))
    assert (found - expected).abs().max() <= 1e-5
    whole = upscale_large(model, tensor(image), mode="exact")
    assert (found - whole).abs().max() > 1e-3


# -- plans ----------------------------------------------------------------------------------------


def test_auto_takes_the_image_whole_as_long_as_it_fits():
    config = UCIPConfig.preset("tiny")
    assert plan_large(config, 300, 400, max_memory="4GB").mode == "whole"
    plan = plan_large(config, 3000, 4000, max_memory="4GB")
    assert plan.mode == "exact"
    assert plan.file_bytes == 0 or plan.memory_map_bytes < plan.map_bytes
    assert plan.peak_bytes <= 4e9
    assert "exactly the whole image" in plan.describe()


def test_one_tile_is_the_whole_image():
    plan = plan_large(NANO, 60, 100, mode="tiles", tile=100)
    assert (plan.mode, plan.exact) == ("whole", True)
    plan = plan_large(NANO, 60, 101, mode="tiles", tile=100)
    assert (plan.mode, plan.exact) == ("tiles", False)


@pytest.mark.parametrize("preset", ["tiny", "small", "full"])
@pytest.mark.parametrize("size", [(3000, 4000), (64, 20000), (20000, 64)])
def test_an_exact_plan_keeps_the_limit_for_every_shape(preset, size):
    config = UCIPConfig.preset(preset)
    for limit in ("4GB", "1500MB"):
        plan = plan_large(config, *size, max_memory=limit, mode="exact")
        assert plan.peak_bytes <= parse_memory(limit)
        assert min(plan.rows, plan.columns, plan.tail_rows) >= 1


def test_too_little_memory_is_an_error_that_names_the_least_that_works(lively):
    network = lively("nano")
    image = noise(600, 40)
    with pytest.raises(MemoryLimitError, match=r"give max_memory='\d+MB' or more") as raised:
        upscale_large(network, image, mode="exact", max_memory="1MB")
    least = str(raised.value).partition("max_memory='")[2].partition("'")[0]
    found = upscale_large(network, image, mode="exact", max_memory=least)
    assert np.abs(found.astype(int) - upscale_large(network, image, mode="whole")).max() <= 1
    below = f"{int(least.removesuffix('MB')) - 1}MB"
    with pytest.raises(MemoryLimitError, match="give max_memory"):
        upscale_large(network, image, mode="exact", max_memory=below)
    with pytest.raises(MemoryLimitError, match="mode 'exact' gives the same in less"):
        upscale_large(network, image, mode="whole", max_memory="20MB")
    with pytest.raises(MemoryLimitError, match="tiles of 200 pixels"):
        upscale_large(network, image, mode="tiles", tile=200, max_memory="20MB")
    with pytest.raises(MemoryLimitError, match="output included"):
        upscale_large(network, image, max_memory="10KB")


def test_a_small_picture_needs_little_and_little_memory_takes_fewer_windows_at_once():
    config = UCIPConfig.preset("tiny", window=48)
    one, many = plan_large(config, 12, 14), plan_large(config, 100, 120)
    assert one.batch == 1
    assert one.peak_bytes < 80e6
    assert many.batch == 8  # 20,000 pixels
    fewer = plan_large(config, 100, 120, max_memory=many.peak_bytes - 1)
    assert 1 <= fewer.batch < many.batch
    assert fewer.peak_bytes < many.peak_bytes
    with pytest.raises(MemoryLimitError) as raised:
        plan_large(config, 100, 120, max_memory="70MB")
    least = str(raised.value).partition("max_memory='")[2].partition("'")[0]
    assert plan_large(config, 100, 120, max_memory=least).batch == 1


def test_windows_by_ones_are_those_by_eights(lively):
    network = lively("nano", window=24)
    image = torch.rand(1, 3, 50, 60)
    plan = plan_large(network.config, 50, 60)
    assert plan.batch > 1
    sizes = []
    network.embed.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = upscale_large(network, image)
    assert max(sizes) == plan.batch
    sizes.clear()
    least = plan_large(network.config, 50, 60, max_memory=plan.peak_bytes - 1)
    small = upscale_large(network, image, max_memory=plan.peak_bytes - 1 + whole.nbytes)
    assert max(sizes) == least.batch < plan.batch
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)


def test_sizes_of_memory():
    assert parse_memory(" 4 gb") == 4 * 10**9
    assert parse_memory("1.5GiB") == 3 * 2**29
    for wrong in ("", "4 parsecs", "-1GB", "0", "GB", "1e9", 400 * "9"):
        with pytest.raises(ConfigError, match="give a size such as '4GB'"):
            parse_memory(wrong)


def test_refuses_what_is_no_image_and_no_network():
    network = UCIP(NANO)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ConfigError, match="image must be H x W x 3 uint8"):
            upscale_large(network, wrong)
    with pytest.raises(ConfigError, match="a UCIP network is needed, not a Identity"):
        upscale_large(torch.nn.Identity(), noise(8, 8))
    with pytest.raises(ConfigError, match=r"unknown mode 'exakt'; did you mean 'exact'\?"):
        upscale_large(network, noise(8, 8), mode="exakt")
    with pytest.raises(ConfigError, match=r"float32 or float64, not torch\.bfloat16"):
        upscale_large(network.bfloat16(), noise(8, 8), mode="exact")


# -- temporary files ------------------------------------------------------------------------------


def open_files():
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0


class Stop(BaseException):
    """What Ctrl-C is like, at a place of our choice."""


@pytest.mark.parametrize("moment", [0.05, 0.5, 0.95])
def test_temporary_files_vanish_however_it_ends(lively, tmp_path, moment):
    network = lively("nano")
    before = open_files()
    seen = []

    def stop(share):
        seen.append(open_files())
        if share >= moment:
            raise Stop

    # The memory asked for holds the strips but none of the maps.
    image = noise(300, 40)
    least = plan_large(NANO, 300, 40, mode="exact", max_memory="9GB")
    limit = least.peak_bytes - least.map_bytes
    with pytest.raises(Stop):
        for _ in upscale_rows(
            network, image, mode="exact", max_memory=limit, temp_dir=tmp_path, progress=stop
        ):
            pass
    assert max(seen) >= before + 5 or not before
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


def test_rows_that_nobody_fetches_leave_no_file(lively, tmp_path):
    before = open_files()
    rows = upscale_rows(
        lively("nano"), noise(300, 40), mode="exact", max_memory="75MB", temp_dir=tmp_path
    )
    next(rows)
    rows.close()
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(lively, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for wrong in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(TemporaryFileError, match=r"cannot make a temporary file .* temp_dir"):
            upscale_large(
                lively("nano"), noise(300, 40), mode="exact", max_memory="75MB", temp_dir=wrong
            )


def test_a_full_disk(lively, tmp_path):
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TemporaryFileError, match=r"no room for a feature map of [\d,]+ bytes"):
            upscale_large(
                lively("nano"), noise(300, 40), mode="exact", max_memory="75MB", temp_dir=tmp_path
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_files() == before


# -- tiles ----------------------------------------------------------------------------------------


def seam_ratio(sr, whole, starts, side):
    """Mean step between columns where tiles begin and end over that elsewhere.

    The picture's own edges lie where they lie: both are taken relative to those of the whole image.
    """
    edges = sorted({4 * s for s in starts if s} | {4 * (s + side) for s in starts[:-1]})
    steps = [(x.diff(dim=3)).abs().mean(dim=(0, 1, 2)) for x in (sr, whole)]
    on = torch.zeros(sr.shape[3] - 1, dtype=torch.bool)
    on[[edge - 1 for edge in edges]] = True
    ours, wholes = ((step[on].mean() / step[~on].mean()).item() for step in steps)
    return ours / wholes


def test_tiles_leave_no_seams_and_say_that_they_are_approximate():
    network = UCIP.from_pretrained("ucip-tiny-v1")
    ratios, hard_cuts = [], []
    for item in load_eval_set("GB82-val", limit=2).images:
        lq = tensor(item.lr[:64, :112])
        with pytest.warns(UserWarning, match="tiles of 64 pixels, 32 of them shared: approximate"):
            sr = upscale_large(network, lq, mode="tiles", tile=64)
        whole = upscale_large(network, lq, mode="whole")
        with torch.no_grad():
            cut = torch.cat([network(part) for part in lq.split(28, dim=3)], dim=3).clamp(0, 1)
        ratios.append(seam_ratio(sr, whole, [0, 32, 48], 64))
        hard_cuts.append(seam_ratio(cut, whole, [0, 28, 56, 84], 28))
        assert (sr - whole).abs().max() > 1e-3
    assert max(ratios) <= 1.05
    assert max(hard_cuts) > 1.05  # the measure sees seams where there are some


# -- memory ---------------------------------------------------------------------------------------

MEASURE = """
import json, sys, numpy as np, torch
from pathlib import Path
torch.set_num_threads(1)
from ucip_adapt.models import UCIP, UCIPConfig, plan_large, upscale_rows
preset, height, width, mode, limit = json.loads(sys.argv[1])
model = UCIP(UCIPConfig.preset(preset)).eval()
list(upscale_rows(model, np.zeros((32, 32, 3), np.uint8), mode=mode))
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
for _ in upscale_rows(model, np.zeros((height, width, 3), np.uint8), mode=mode, max_memory=limit):
    pass
plan = plan_large(model.config, height, width, mode=mode, max_memory=limit)
print(json.dumps([status("VmHWM") - before, plan.peak_bytes, plan.file_bytes]))
"""


def measured(*point):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(point)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    "point",
    [
        ("tiny", 300, 400, "whole", "9GB"),
        ("tiny", 200, 1200, "whole", "9GB"),
        ("full", 150, 200, "whole", "9GB"),
        ("tiny", 300, 400, "exact", "9GB"),
        ("tiny", 300, 400, "exact", "150MB"),
        ("full", 100, 150, "exact", "200MB"),
    ],
    ids=str,
)
def test_the_estimated_peak_holds_and_is_at_most_twice_the_measured(point):
    found, planned, _ = measured(*point)
    assert found <= planned <= 2 * found + 64e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_memory_stays_flat_as_the_image_grows():
    small, *_ = measured("nano", 256, 256, "exact", "120MB")
    large, planned, files = measured("nano", 1024, 256, "exact", "120MB")
    assert files > 60e6
    assert large <= planned <= 120e6
    assert large <= small + 40e6
