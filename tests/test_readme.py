"""README: its tables are those of results/, its Python runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def _make_tables():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_made_from_results():
    module = _make_tables()
    assert set(re.findall(r"<!-- table:(\w+) -->", README)) == set(module.TABLES)
    assert module.fill(README) == README, "run python docs/make_tables.py"


def test_a_stale_table_is_seen():
    module = _make_tables()
    number = re.search(r"\| Set5 \| 10 \| (\d+\.\d+)", README)
    stale = README[: number.start(1)] + "99.99" + README[number.end(1) :]
    assert module.fill(stale) == README


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


@pytest.mark.slow
def test_use_example_runs(tmp_path: Path):
    block = next(block for block in BLOCKS if "load_prompt_adapter" in block)
    own = next(block for block in BLOCKS if "register_codec" in block)
    short = (
        'max_train_steps=1, lr_warmup_steps=0, max_train_samples=1, max_eval_images=1, codec="few'
    )
    folder = (tmp_path / "out").as_posix()
    code = own.replace('codec="few', short).replace("runs/fewbits", folder)
    code += block.replace("runs/latest", folder) + "\nprint(tuple(sr.shape))"
    environment = {**os.environ, "UCIP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "(1, 3, 192, 256)"
