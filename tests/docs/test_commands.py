"""Every command and every Python block of the pages for users runs, in order, as it stands there.

A block behind ``<!-- not run: reason -->`` is only read; a long number is replaced by a short one
of :data:`SHORTER`, and nothing else is.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import loopback
import pytest

from ucip_adapt._argv import StrictParser
from ucip_adapt.cli import COMMANDS
from ucip_adapt.config import parse_config

ROOT = Path(__file__).parents[2]
PAGES = ("use_an_adapter", "adapt_your_codec", "publish")
"""Pages that tell a story: their blocks are run one after the other in one folder."""
READ_ONLY = ("file_formats", "exit_codes", "reliability")

MAY_STAY = 3
"""Blocks of all pages together that are not run."""

SHORTER = {
    "--max_train_steps 200": "--max_train_steps 2",
    "--max_eval_images 7": "--max_eval_images 1",
    "--qualities 8 16 32 64 --train": "--qualities 8 64 --train",
    "--qualities 8 16 32 64 --max": "--qualities 64 --max",
}

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    not_run: str | None = None

    def script(self) -> str:
        """As a piece of a shell script; Python is handed to the interpreter as it stands."""
        if self.kind == "bash":
            return self.text
        return f"python - <<'END OF THE BLOCK'\n{self.text}END OF THE BLOCK\n"


def blocks(page: str) -> list[Block]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = [Block(m["kind"], m["text"], m["why"]) for m in _BLOCK.finditer(text)]
    assert len(found) == text.count("```") // 2, f"{page}: a fence that is not understood"
    return [block for block in found if block.kind in {"bash", "python"}]


def commands(block: Block) -> list[list[str]]:
    """The words of every command of a bash block that is ours."""
    lines = block.text.replace("\\\n", " ").splitlines()
    pieces = [piece for line in lines for piece in re.split(r" (?:&&|\|\|?|;) ", line)]
    words = [shlex.split(re.sub(r" [12]?> \S+", "", piece), comments=True) for piece in pieces]
    return [
        line for line in words if line and (line[0] == "ucip-adapt" or "recipes/" in " ".join(line))
    ]


ALL = [(page, command) for page in PAGES for b in blocks(page) for command in commands(b)]


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: str(value)[:60])
def test_commands_exist_with_their_options(page: str, words: list[str]) -> None:
    """Without running them: the flags of each are those of today."""
    if words[0] == "ucip-adapt":
        if words[1] in {"--help", "--version"} or words[-1] == "--help":
            return
        module = importlib.import_module(COMMANDS[words[1]].module)
        parser = StrictParser(prog=words[1])
        module.add_arguments(parser)
        parser.parse_args(words[2:])
        return
    place = next(index for index, word in enumerate(words) if word.startswith("recipes/"))
    spec = importlib.util.spec_from_file_location("recipe", ROOT / words[place])
    recipe = importlib.util.module_from_spec(spec)
    sys.modules["recipe"] = recipe  # where dataclasses look up a class's annotations
    try:
        spec.loader.exec_module(recipe)
        options = parse_config(recipe.Options, words[place + 1 :])
    finally:
        del sys.modules["recipe"]
    assert dataclasses.is_dataclass(options)


def test_few_blocks_are_left_out_and_say_why() -> None:
    left = [(page, b.not_run) for page in (*PAGES, *READ_ONLY) for b in blocks(page) if b.not_run]
    assert len(left) <= MAY_STAY, left
    assert all(len(why) > 10 for _, why in left)
    assert [page for page in READ_ONLY if [b for b in blocks(page) if not b.not_run]] == []


def test_each_shorter_number_stands_in_a_page() -> None:
    texts = "".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)
    assert [long for long in SHORTER if long not in texts] == []


@pytest.fixture
def hub():
    server = loopback.LoopbackHub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, hub, tmp_path: Path) -> None:
    """In a folder that looks like the clone to its commands; the Hub is one on this machine."""
    for name in ("recipes", "docs", "adapters"):
        (tmp_path / name).symlink_to(ROOT / name)
    steps = [b.script() for b in blocks(page) if b.not_run is None]
    for long, short in SHORTER.items():
        steps = [step.replace(long, short) for step in steps]
    script = "\n".join(f"echo '== block {i}' >&2\n{step}" for i, step in enumerate(steps, start=1))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "UCIP_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
