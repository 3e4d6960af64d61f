"""A person's way through the page, in headless Chromium."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import ucip_adapt
from ucip_adapt.data import bicubic_down4
from ucip_adapt.demo.session import samples
from ucip_adapt.metrics import get_protocol, score

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PATIENCE_MS = 600_000  # a busy machine is no failure

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(command, port, **options):
    """Run a server until it answers, and end it afterwards."""
    environment = dict(os.environ, GRADIO_SERVER_PORT=str(port), **options.pop("env", {}))
    server = subprocess.Popen(
        [sys.executable, *command], text=True, stdout=-1, stderr=-2, env=environment, **options
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while True:
            assert server.poll() is None, server.stdout.read()
            assert time.monotonic() < deadline
            try:
                with urllib.request.urlopen(address, timeout=30):
                    break
            except OSError:
                time.sleep(0.5)
        yield address, server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=180)
        sys.stdout.write(output)


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="needs gradio: the extra `demo`")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("needs Chromium, and there is none on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    port = free_port()
    temporary = tmp_path_factory.mktemp("tmp")
    command = ["-m", "ucip_adapt", "demo", "--port", str(port), "--max-pixels", "30000"]
    with served(command, port, env={"TMPDIR": str(temporary)}) as (address, server):
        yield address
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=180) == 0
    assert not list(temporary.glob("ucip-demo-*"))  # nor anything that was uploaded


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#restore")
    yield page
    context.close()
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []


def scores(page):
    rows = page.query_selector_all("table#scores tbody tr")
    cells = [[cell.inner_text() for cell in row.query_selector_all("td")] for row in rows]
    return {name: (float(psnr_db), float(ssim)) for name, psnr_db, _, ssim in cells}


def choose(page, box, option):
    page.click(f"#{box} input")
    page.fill(f"#{box} input", option)
    page.keyboard.press("Enter")


def test_a_sample_damaged_by_webp_20(page, tmp_path):
    names = list(samples())
    page.click(f"#samples button >> nth={names.index('sumac')}")
    page.wait_for_selector("#line >> text=sumac.webp: 576 x 576 pixels")
    page.click("#restore")
    page.wait_for_selector("table#scores")

    with Image.open(samples()["sumac"]) as image:
        gt = np.asarray(image.convert("RGB"))
    coded = ucip_adapt.get_codec("webp").roundtrip(bicubic_down4(gt), 20)
    model = ucip_adapt.load("webp")
    restored = model.upscale(coded.pixels)
    expected = {
        "bicubic x4": ucip_adapt.bicubic_up4(coded.pixels),
        "base, no adapter": ucip_adapt.load(None, base=model.base).upscale(coded.pixels),
        "base + adapter webp": restored,
    }
    found = scores(page)
    assert list(found) == list(expected)
    for method, pixels in expected.items():
        truth = score(pixels, gt, get_protocol("y-c4"))
        assert found[method] == (round(truth.psnr_db, 2), round(truth.ssim, 4)), method
    facts = page.inner_text("table#facts")
    assert "144 x 144 to 576 x 576 pixels" in facts
    assert f"{coded.num_bytes:,} bytes, {coded.bpp:.2f} bits per pixel" in facts
    assert re.search(r"adapter\s+webp: compressed here by webp, quality 20", facts)

    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "sumac_x4.png"
    waiting.value.save_as(tmp_path / "sumac.png")
    with Image.open(tmp_path / "sumac.png") as image:
        np.testing.assert_array_equal(np.asarray(image), restored)

    assert page.query_selector("#compare").inner_text().startswith("bicubic x4 | restored")
    page.click("#left >> text=original")
    page.wait_for_selector("#compare >> text=original | restored")
    page.click("#left >> text=bicubic")
    page.wait_for_selector("#compare >> text=bicubic x4 | restored")
    for width, height in ((1180, 860), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        picture = tmp_path / f"{width}.png"
        page.screenshot(path=picture, full_page=True)
        with Image.open(picture) as image:
            assert len(image.convert("RGB").getcolors(2**24)) > 1000  # pictures are on it
    if target := os.environ.get("UCIP_SCREENSHOT"):
        with Image.open(tmp_path / "1180.png") as image:  # less the time, which is of one machine
            image.convert("RGB").crop((80, 0, 1100, 960)).save(target, quality=70)


def test_a_file_as_it_is_and_what_the_page_refuses(page, tmp_path):
    with Image.open(samples()["girl"]) as image:
        small = image.convert("RGB").resize((150, 110))
    small.save(tmp_path / "small.jpg", quality=30)
    small.resize((300, 200)).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    toast = "[data-testid=toast-body]"

    page.set_input_files("#upload input[type=file]", tmp_path / "broken.png")
    page.wait_for_selector(f"{toast} >> text=no picture format")
    page.click("[data-testid=toast-close]")
    page.click("#upload button[aria-label^=Clear]")
    page.wait_for_selector("#line >> text=dog.webp")
    page.set_input_files("#upload input[type=file]", tmp_path / "large.png")
    page.wait_for_selector("#line >> text=large.png: 300 x 200 pixels")
    page.click("text=Use it as it is")
    page.wait_for_selector("#codec", state="hidden")
    page.click("#restore")
    page.wait_for_selector(f"{toast} >> text=300 x 200 pixels are more than the 30,000")
    page.click("[data-testid=toast-close]")
    page.click("text=take the middle")
    choose(page, "adapter", "<img src=x onerror=window.evil=1>")
    page.click("#restore")
    page.wait_for_selector(f"{toast} >> text=unknown adapter '<img src=x")
    assert page.evaluate("window.evil") is None
    page.click("[data-testid=toast-close]")
    choose(page, "adapter", "none")
    page.click("#restore")
    page.wait_for_selector("#facts >> text=the middle")
    assert "No scores" in page.inner_text("#scores-box")


def test_a_space_starts_by_itself(browser, tmp_path):
    folder = tmp_path / "space"
    command = [sys.executable, "-m", "ucip_adapt", "demo", "--export-space", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import runpy, sys, threading, gradio as gr; sys.path.insert(0, '.')\n"
        "import ucip_adapt; print(ucip_adapt.__file__, flush=True)\n"
        "runpy.run_path('app.py', run_name='__main__')"
    )
    port = free_port()
    with served(["-c", code], port, cwd=folder) as (address, server):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#restore", timeout=PATIENCE_MS)
        page.close()
        server.send_signal(signal.SIGTERM)
        assert server.stdout.readline().startswith(str(folder))
