"""README: its tables are those of results/, its Python runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import make_tables
from pages import fill
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_tables_are_made_from_results():
    pages = [path.read_text(encoding="utf-8") for path in make_tables.PAGES]
    named = [name for page in pages for name in re.findall(r"<!-- table:(\w+) -->", page)]
    assert sorted(named) == sorted(make_tables.TABLES)
    assert make_tables.main(["--check"]) == 0


def test_a_stale_table_is_seen():
    start = README.index("<!-- table:base_slots -->")
    number = re.compile(r"\d+\.\d+").search(README, start)
    stale = README[: number.start()] + "99.99" + README[number.end() :]
    assert stale != README
    assert fill(stale, make_tables.TABLES) == README


def test_every_command_names_a_file_that_exists():
    scripts = set(
        re.findall(r"(?:python|launch|num_processes 1) ((?:recipes|docs)/\S+\.py)", README)
    )
    assert scripts
    assert [name for name in sorted(scripts) if not (ROOT / name).is_file()] == []


def test_own_codec_example_runs(tmp_path: Path):
    block = next(block for block in BLOCKS if "register_codec" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 14
    short = (
        'max_train_steps=2, lr_warmup_steps=0, max_train_samples=1, max_eval_images=1, codec="few'
    )
    code = block.replace('codec="few', short).replace("runs/fewbits", (tmp_path / "out").as_posix())
    environment = {**os.environ, "UCIP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert "fewbits at 3, 4" in done.stdout


def test_use_example_runs(tmp_path: Path):
    block = next(block for block in BLOCKS if "ucip_adapt.load(" in block)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block + "\nprint(tuple(sr.shape))"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "(3, 192, 256)"


def test_upscale_command_runs(tmp_path: Path):
    line = next(line for line in README.splitlines() if line.startswith("ucip-adapt upscale photo"))
    words = shlex.split(line, comments=True)[1:]
    Image.new("RGB", (20, 12), (90, 120, 30)).save(tmp_path / "photo.webp", quality=20)
    done = subprocess.run(
        [sys.executable, "-m", "ucip_adapt", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "adapter webp (WebP container" in done.stdout
    with Image.open(tmp_path / "photo_x4.png") as image:
        assert image.size == (80, 48)
