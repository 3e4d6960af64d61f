"""What docs/file_formats.md, exit_codes.md and reliability.md say is what the code does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from ucip_adapt.assets import shipped_bases
from ucip_adapt.cli import COMMANDS
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.results import TOP_LEVEL_KEYS
from ucip_adapt.tuning import DynamicPromptConfig
from ucip_adapt.tuning.targets import find_targets, tensor_table

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of the first table in a text, without its head."""
    below = text[text.index("\n|") + 1 :].splitlines()
    lines = itertools.takewhile(lambda line: line.startswith("|"), below)
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in row] for row in cells[2:]]


# -- file formats --------------------------------------------------------------------------------


CONFIGS = {
    "tiny": UCIPConfig.preset("tiny"),
    "odd": UCIPConfig.preset(
        "nano", embed_dim=36, prompt_dim=20, head_dim=12, num_prompts=5, num_layers=3
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_of_every_set_are_those_of_the_page(name: str) -> None:
    config = CONFIGS[name]
    table = rows(page("file_formats").split("### adapter_model.safetensors")[1])
    sizes = {"C": config.embed_dim, "P": config.prompt_dim, "D": config.num_prompts}

    def shape(text: str) -> tuple[int, ...]:
        """``C x (C + P)`` by the base's numbers."""
        return tuple(
            eval(factor.replace("/", "//"), {}, sizes)  # noqa: S307  # text of our own page
            for factor in text.split(" x ")
        )

    sets = ["basis", "dpm", "dpm+offset", "dpm+offset+spade"]
    for trainable_set in sets:
        allowed = sets[: sets.index(trainable_set) + 1]
        wanted = {row[1].strip("`"): shape(row[2]) for row in table if row[0] in allowed}
        adapter = DynamicPromptConfig(trainable_set=trainable_set)
        with torch.device("meta"):
            found = tensor_table(find_targets(UCIP(config), adapter), adapter)
        names = {key: re.sub(r"layers\.\d+", "layers.j", key.split(".", 2)[2]) for key in found}
        assert set(names.values()) == set(wanted)
        for key, size in found.items():
            assert wanted[names[key]] == tuple(size), key


def test_keys_of_an_adapters_configuration() -> None:
    table = rows(page("file_formats").split("### adapter_config.json")[1])
    named = {key for row in table for key in re.findall(r"`(\w+)`", row[0])}
    written = json.loads((ROOT / "adapters" / "webp" / "adapter_config.json").read_text())
    assert named == set(written)
    assert named <= {field.name for field in dataclasses.fields(DynamicPromptConfig)}


def test_keys_of_results_and_of_a_base() -> None:
    table = rows(page("file_formats").split("## results.json")[1])
    assert [row[0].strip("`") for row in table] == list(TOP_LEVEL_KEYS)
    folder = ROOT / "ucip_adapt" / "assets" / "bases" / shipped_bases()[0]
    written = set(json.loads((folder / "config.json").read_text()))
    fields = {field.name for field in dataclasses.fields(UCIPConfig)}
    assert fields <= written <= {"format_version", "architecture"} | fields


def test_versions_of_all_formats() -> None:
    found = {}
    for path in (ROOT / "ucip_adapt").rglob("*.py"):
        for version in re.findall(r'FORMAT_VERSION = "([\d.]+)"', path.read_text(encoding="utf-8")):
            found[path.relative_to(ROOT / "ucip_adapt").as_posix()] = version
    homes = {
        "`adapter_config.json`": "tuning/config.py",
        "`config.json`": "models/config.py",
        "`model.safetensors` (metadata)": "models/pretrained.py",
        "`results.json`": "training/results.py",
        "`suite.json`": "suites/records.py",
        "`.build/plan.json`": "suites/plan.py",
        "`checkpoints/*/manifest.json`": "training/manifest.py",
        "`tiny-*.safetensors` (metadata)": "codecs/learned/weights.py",
        "`detector.safetensors` (metadata)": "detection/pixels.py",
    }
    shown = {homes[row[0]]: row[1] for row in rows(page("file_formats"))}
    assert shown == found, "a format is new, or its version has changed: name it on the page"


# -- exit codes ----------------------------------------------------------------------------------


def _codes(path: Path) -> set[int]:
    """Exit codes of a module: constants called so, and numbers that functions of the CLI return."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            named = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if any(re.match(r"_?EXIT_", name) for name in named):
                found.add(node.value.value)
        if path.parent.name == "cli" and isinstance(node, ast.FunctionDef):
            returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
            constants = [part for value in returned if value for part in ast.walk(value)]
            if node.returns is not None and ast.unparse(node.returns) == "int":
                found |= {c.value for c in constants if type(getattr(c, "value", None)) is int}
    return found


def test_codes_of_the_page_are_those_of_the_code() -> None:
    modules = [*(ROOT / "ucip_adapt").rglob("*.py")]
    found = set().union(*map(_codes, modules)) | {0}
    shown = {int(row[0]): row[2] for row in rows(page("exit_codes"))}
    assert set(shown) == found
    by_command = rows(page("exit_codes").split("## By command")[1])
    named = {re.findall(r"`(\S+)", row[0])[0].strip("`"): row for row in by_command}
    assert set(named) <= set(COMMANDS)
    for command, entry in COMMANDS.items():
        spec = importlib.util.find_spec(entry.module)
        own = _codes(Path(spec.origin)) - {0, 2, 130, 141}
        if command == "upscale":
            own |= _codes(ROOT / "ucip_adapt" / "imaging" / "batch.py") - {0, 2, 130}
        cells = named.get(command, ["", "", ""])
        assert own == {code for code, cell in zip((1, 3), cells[1:], strict=True) if cell}, command


@pytest.mark.parametrize("code", [1, 3])
def test_recipes_with_a_code_of_their_own_are_named(code: int) -> None:
    found = {path.name for path in (ROOT / "recipes").glob("*.py") if code in _codes(path)}
    [row] = [row for row in rows(page("exit_codes")) if row[0] == str(code)]
    assert set(re.findall(r"`(\w+\.py)`", row[2])) == found


# -- reliability ---------------------------------------------------------------------------------


def test_every_promise_names_tests_that_exist() -> None:
    table = rows(page("reliability"))
    wanted = [f"R{number}" for number in range(1, 28)] + ["R27b", "R28", "R29"]
    assert [row[0] for row in table] == wanted
    for number, promise, tests in table:
        assert len(promise) > 20, number
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
        assert named, number
        for file, test in named:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in source, f"{number}: no {test} in {file}"


def is_slow(file: str, test: str) -> bool:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (found,) = [function for function in functions if function.name == test]
    return "pytest.mark.slow" in map(ast.unparse, found.decorator_list)


def test_promises_without_a_short_form_are_named() -> None:
    table = rows(page("reliability"))
    short = {
        number
        for number, _, tests in table
        for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
        if not test or not is_slow(file, test)
    }
    said = re.findall(r"that of (R\d+), which starts a launcher", page("reliability"))
    assert {row[0] for row in table} - short == set(said)


# -- links ---------------------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    """Files exist, and so do the headings behind a ``#``."""
    names = ["adapt_your_codec", "exit_codes", "file_formats", "publish", "use_an_adapter"]
    for name in names:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page(name)):
            path, _, anchor = target.partition("#")
            file = (ROOT / "docs" / path).resolve() if path else ROOT / "docs" / f"{name}.md"
            assert file.is_file(), (name, target)
            heads = re.findall(r"(?m)^#+ (.+)$", file.read_text(encoding="utf-8"))
            anchors = {
                re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads
            }
            assert not anchor or anchor in anchors, (name, target)
