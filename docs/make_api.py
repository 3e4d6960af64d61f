"""Write docs/api.md from the docstrings of everything in ``ucip_adapt.__all__``.

    python docs/make_api.py          # writes
    python docs/make_api.py --check  # fails if the page is stale

A public name without a docstring, or a function or class without an example, is an error. The page
is the same on every supported Python: signatures name types without their modules.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, ForwardRef

from pages import finish

import ucip_adapt

PAGE = Path(__file__).parent / "api.md"
WIDTH = 100

SECTIONS = {
    "ucip_adapt.upscaler": "Sharpen pictures",
    "ucip_adapt.models": "Networks",
    "ucip_adapt.tuning": "Adapters and tuning",
    "ucip_adapt.codecs": "Codecs",
    "ucip_adapt.data": "Images",
    "ucip_adapt.metrics": "Metrics",
    "ucip_adapt.evaluation": "Evaluation",
    "ucip_adapt.errors": "Errors",
}
"""Titles of the page's parts, by the module that offers the names, in the page's order."""

HEAD = """\
<!-- Made by docs/make_api.py from the docstrings; edit those and run it again. -->

# Public API

Everything here is an attribute of `ucip_adapt` and is loaded on first use: `import ucip_adapt`
imports neither PyTorch nor PEFT. The examples take the names of this page as imported, and besides
`numpy as np`, `torch`, `torch.nn as nn`, `tempfile` and `pathlib.Path`. Images are arrays
`H x W x 3` uint8 RGB outside of networks and tensors `(B, 3, H, W)` in [0, 1] inside; `lq` is a
compressed low-resolution image, `gt` its truth, four times as large.
"""

Parsed = tuple[list[str], dict[str, list[str]]]
"""A docstring: its prose, and the lines of each section."""

_STARS: Mapping[object, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_TITLES = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
_ENTRY = re.compile(r"(\*{0,2}[\w.]+): (.*)", re.DOTALL)


# -- signatures ----------------------------------------------------------------------------------


def annotation_text(annotation: object) -> str:
    """A type as one reads it: without modules and quotes, the same on every Python."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def _parameter_text(parameter: inspect.Parameter) -> str:
    text = f"{_STARS.get(parameter.kind, '')}{parameter.name}"
    typed = parameter.annotation is not inspect.Parameter.empty
    if typed:
        text += f": {annotation_text(parameter.annotation)}"
    if parameter.default is inspect.Parameter.empty:
        return text
    value = parameter.default
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return f"{text} = {shown}" if typed else f"{text}={shown}"


def signature_text(name: str, parameters: Sequence[inspect.Parameter], returns: object) -> str:
    """A call on one line, or on one line per parameter where it would be too long."""
    words = []
    starred = False
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        starred |= parameter.kind is inspect.Parameter.VAR_POSITIONAL
        words.append(_parameter_text(parameter))
    end = "" if returns is inspect.Signature.empty else f" -> {annotation_text(returns)}"
    line = f"{name}({', '.join(words)}){end}"
    if len(line) <= WIDTH - 4:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){end}"])


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "ucip_adapt"


def _constructor_text(name: str, cls: type) -> str:
    """How a class is called; only its name where another library's class decides that."""
    method = "__new__" if issubclass(cls, tuple) else "__init__"
    owner = next(parent for parent in cls.__mro__ if method in vars(parent))
    if not _is_ours(owner):
        return f"class {name}({', '.join(base.__name__ for base in cls.__bases__)})"
    _, *parameters = inspect.signature(vars(owner)[method]).parameters.values()
    if dataclasses.is_dataclass(cls):
        ours = {field for parent in cls.__mro__ if _is_ours(parent) for field in _fields(parent)}
        if any(parameter.name not in ours for parameter in parameters):
            # The other library's fields come first: ours can only be given by name.
            parameters = [
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for parameter in parameters
                if parameter.name in ours
            ]
    return signature_text(name, parameters, inspect.Signature.empty)


def _fields(cls: type) -> Mapping[str, object]:
    fields: Mapping[str, object] = vars(cls).get("__annotations__", {})
    return fields


# -- docstrings ----------------------------------------------------------------------------------


def parse(docstring: str) -> Parsed:
    """Split a Google-style docstring into prose and sections, whose indentation is removed."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    target = prose
    for line in inspect.cleandoc(docstring).splitlines():
        if line.endswith(":") and line[:-1] in _TITLES:
            target = sections.setdefault(line[:-1], [])
        elif line and not line[0].isspace():
            target = prose
            prose.append(line)
        else:
            target.append(line)
    cleaned = {
        title: textwrap.dedent("\n".join(lines)).strip("\n").splitlines()
        for title, lines in sections.items()
    }
    return prose, cleaned


def _inline(text: str) -> str:
    """Sphinx roles and literals to Markdown."""
    text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _fill(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        _inline(" ".join(text.split())),
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Prose, filled; a paragraph of hyphens is a list."""
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip()):
        if paragraph.startswith("- "):
            items = re.split(r"(?m)^- ", paragraph)[1:]
            yield "\n".join(_fill(item, "- ") for item in items)
        elif paragraph:
            yield _fill(paragraph)


def _entries(lines: Sequence[str]) -> Iterator[str]:
    """Items ``name: text``, whose further lines are indented."""
    for item in re.split(r"\n(?=\S)", "\n".join(lines)):
        match = _ENTRY.fullmatch(item)
        if match is None:
            raise ValueError(f"not of the form 'name: text': {item!r}")
        yield _fill(f"`{match[1]}`: {match[2]}", "- ")


def docstring_text(parsed: Parsed) -> Iterator[str]:
    """The Markdown blocks of a docstring."""
    prose, sections = parsed
    yield from _paragraphs(prose)
    for title, lines in sections.items():
        if title == "Example":
            yield "\n".join(["```pycon", *lines, "```"])
        elif title in ("Returns", "Yields"):
            first, *rest = _paragraphs(lines)
            yield _fill(f"**{title}:** {first}")
            yield from rest
        else:
            yield "\n".join([f"**{title}:**", "", *_entries(lines)])


# -- what is public ------------------------------------------------------------------------------


def constant_docstring(name: str, value: object, package: str) -> str:
    """The string below a constant's assignment, from the source of the module that holds it."""
    for module in [module for key, module in sys.modules.items() if key.startswith(package)]:
        if vars(module).get(name) is not value or not isinstance(module, ModuleType):
            continue
        body = ast.parse(inspect.getsource(module)).body
        for statement, following in itertools.pairwise(body):
            targets: list[Any] = getattr(statement, "targets", [getattr(statement, "target", None)])
            if (
                isinstance(statement, ast.Assign | ast.AnnAssign)
                and getattr(targets[0], "id", None) == name
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                return str(following.value.value)
    return ""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, those that it has from our other classes too."""
    seen: set[str] = set()
    for parent in filter(_is_ours, cls.__mro__):
        for name, member in vars(parent).items():
            kinds = (FunctionType, classmethod, staticmethod, property)
            if isinstance(member, kinds) and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member


def problems(name: str, value: object, package: str) -> list[str]:
    """What a public name lacks.

    Args:
        name: The name.
        value: What it stands for.
        package: Module that offers it.

    Returns:
        One sentence each; empty if nothing is missing.
    """
    if not callable(value):
        missing = not constant_docstring(name, value, package)
        return [f"{name} has no docstring below its assignment"] if missing else []
    if not _own_docstring(value):
        return [f"{name} has no docstring"]
    found = []
    if not any(
        line.startswith(">>> ") for line in parse(value.__doc__ or "")[1].get("Example", [])
    ):
        found.append(f"{name} has no example")
    if isinstance(value, type):
        for member, method in members(value):
            if not method.__doc__:
                found.append(f"{name}.{member} has no docstring")
    return found


def _own_docstring(value: object) -> bool:
    """Dataclasses and named tuples are given one that only repeats their signature."""
    text = getattr(value, "__doc__", None) or ""
    return bool(text.strip()) and not text.startswith(f"{getattr(value, '__name__', '')}(")


# -- the page ------------------------------------------------------------------------------------


def _member_blocks(owner: str, name: str, member: Any) -> Iterator[str]:  # noqa: ANN401
    yield f"#### `{owner}.{name}`"
    function: Any = member.fget if isinstance(member, property) else inspect.unwrap(member)
    signature = inspect.signature(function)
    if isinstance(member, property):
        code = f"{name}: {annotation_text(signature.return_annotation)}"
    else:
        skip = 0 if isinstance(member, staticmethod) else 1
        parameters = list(signature.parameters.values())[skip:]
        code = signature_text(name, parameters, signature.return_annotation)
    yield f"```python\n{code}\n```"
    yield from docstring_text(parse(member.__doc__))


def _class_blocks(name: str, cls: type) -> Iterator[str]:
    yield f"```python\n{_constructor_text(name, cls)}\n```"
    yield from docstring_text(parse(cls.__doc__ or ""))
    if issubclass(cls, Exception):
        module = vars(importlib.import_module(cls.__module__)).values()
        kinds = [kind for kind in module if isinstance(kind, type) and issubclass(kind, cls)]
        rows = [
            _fill(
                f"`{kind.__name__}({', '.join(base.__name__ for base in kind.__bases__)})`: "
                f"{parse(kind.__doc__ or '')[0][0]}",
                "- ",
            )
            for kind in kinds
            if kind is not cls
        ]
        yield "\n".join([f"Kinds, in `{cls.__module__}`:", "", *rows])
    for member, method in members(cls):
        yield from _member_blocks(name, member, method)


def blocks(name: str, value: object, package: str) -> Iterator[str]:
    """The Markdown blocks of one public name."""
    yield f"### `{name}`"
    if isinstance(value, type):
        yield from _class_blocks(name, value)
    elif callable(value):
        signature = inspect.signature(value)
        parameters = list(signature.parameters.values())
        code = signature_text(name, parameters, signature.return_annotation)
        yield f"```python\n{code}\n```"
        yield from docstring_text(parse(value.__doc__ or ""))
    else:
        yield from docstring_text(parse(constant_docstring(name, value, package)))
        if isinstance(value, Mapping):
            yield "\n".join(_fill(f"`{key!r}`: `{item!r}`", "- ") for key, item in value.items())


def public_names() -> dict[str, list[str]]:
    """Names by the module that offers them, in the order of the page.

    Raises:
        ValueError: If a name belongs to no part of the page.
    """
    places = ucip_adapt._EXPORTS
    names: dict[str, list[str]] = {module: [] for module in SECTIONS}
    for name in places:
        if places[name] not in SECTIONS:
            raise ValueError(f"{name}: docs/make_api.py has no title for {places[name]}")
        names[places[name]].append(name)
    left = set(ucip_adapt.__all__) - set(places) - {"__version__"}
    if left:
        raise ValueError(f"{', '.join(sorted(left))}: in __all__, but offered by no module")
    return names


def render() -> str:
    """The whole page.

    Raises:
        ValueError: If public names lack docstrings or examples; the message lists all of them.
    """
    names = public_names()
    values = {name: getattr(ucip_adapt, name) for group in names.values() for name in group}
    lacking = [
        problem
        for module, group in names.items()
        for name in group
        for problem in problems(name, values[name], module)
    ]
    if lacking:
        raise ValueError("the public API is not documented: " + "; ".join(lacking))
    contents = [
        _fill(
            f"[{SECTIONS[module]}](#{SECTIONS[module].lower().replace(' ', '-')}): "
            + ", ".join(f"[`{name}`](#{name.lower()})" for name in group),
            "- ",
        )
        for module, group in names.items()
    ]
    parts = [HEAD.rstrip("\n"), "\n".join(contents)]
    for module, group in names.items():
        parts.append(f"## {SECTIONS[module]}")
        parts.append(f"From `{module}`.")
        for name in group:
            parts.extend(blocks(name, values[name], module))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check the page."""
    return finish({PAGE: render()}, arguments, "python docs/make_api.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
