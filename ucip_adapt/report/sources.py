"""The JSON files of a results folder, each with its number in the page and its provenance."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucip_adapt.errors import DataError, UcipError

__all__ = ["EXPECTED", "PAPER", "Problem", "Source", "read_sources"]

PAPER = "paper.json"
"""The paper's own numbers, which are no run of ours and have another form."""

EXPECTED = (
    UcipError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
)
"""What a file of another form than its kind's may raise: it is then named, not shown."""

_BESIDE = ("adapter_config.json", "config.json", "cell.json", "manifest.json")
"""What recipes leave beside a run's results: configurations, and what a checkpoint holds."""

_LARGEST_FILE = 20_000_000


@dataclass(frozen=True, eq=False)
class Source:
    """One file that numbers of the page come from.

    Attributes:
        number: Its number in the page, from 1.
        name: Path relative to the results folder, with forward slashes.
        record: What it holds.
        sha256: Of the file.
    """

    number: int
    name: str
    record: Mapping[str, Any]
    sha256: str

    @property
    def kind(self) -> str:
        """What the run was."""
        return "paper" if self.name == PAPER else str(self.record.get("kind"))

    @property
    def scores(self) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """What it measured; older files have it at the top."""
        return self.record.get("scores", self.record)

    @property
    def command(self) -> str:
        """The command that made it."""
        text = self.record.get("source") if self.kind == "paper" else self.record.get("command")
        return str(text or "not recorded")

    @property
    def commit(self) -> str:
        """The commit that it was made at, shortened."""
        whole = str(self._environment.get("commit") or "")
        plain, plus, dirty = whole.partition("+")
        return f"{plain[:12]}{plus}{dirty}" if whole else "not recorded"

    @property
    def hardware(self) -> str:
        """Where it ran."""
        about = self._environment
        device = about.get("gpu") or about.get("cpu")
        if not device:
            return "not recorded"
        parts = [str(device)]
        for key, unit in (("cpu_cores", "cores"), ("torch_threads", "threads")):
            if about.get(key) and not (about.get("gpu") and key == "cpu_cores"):
                parts.append(f"{about[key]} {unit}")
        return ", ".join(parts)

    @functools.cached_property
    def hover(self) -> str:
        """Provenance in one line."""
        if self.kind == "paper":
            return f"{self.name}: {self.command}"
        return f"{self.name}: {self.command}; commit {self.commit}; {self.hardware}"

    @property
    def _environment(self) -> Mapping[str, Any]:
        found = self.record.get("environment")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Problem:
    """A file, or a part of the page, that could not be shown.

    Attributes:
        name: The file, or the part.
        reason: Why.
    """

    name: str
    reason: str


def read_sources(folder: Path) -> tuple[list[Source], list[Problem]]:
    """Read every JSON file under a folder, but those that recipes leave beside results.

    Args:
        folder: Such as ``results``.

    Returns:
        What could be read, in the order of names, and what could not.

    Raises:
        DataError: If there is no such folder, or no results file in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.json").write_text("[1, 2")
        ...     read_sources(Path(folder))[1][0].name
        'a.json'
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: name the one that holds the results")
    # A broken link is a result that is missed; reading it says so.
    paths = sorted(path for path in folder.rglob("*.json") if path.is_symlink() or path.is_file())
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in paths:
        if path.name in _BESIDE and _has_no_kind(path):
            continue
        name = path.relative_to(folder).as_posix()
        try:
            record = _read(path)
        except (UcipError, OSError, ValueError, RecursionError) as error:
            reason = str(error).replace(f"{path}", name) or type(error).__name__
            problems.append(Problem(name, reason))
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sources.append(Source(len(sources) + 1, name, record, digest))
    if not sources and not problems:
        raise DataError(
            f"there is no results file under {folder}: results are made by the recipes, by "
            "benchmarks/*.py and by recipes/run_experiments.py"
        )
    return sources, problems


def _has_no_kind(path: Path) -> bool:
    """Whether a file is sound and no result; what is damaged is to be named."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "kind" not in record


def _read(path: Path) -> Mapping[str, Any]:
    from ucip_adapt.training.results import read_results

    if path.stat().st_size > _LARGEST_FILE:
        raise DataError(f"{path} is larger than {_LARGEST_FILE:,} bytes")
    if path.name == PAPER:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise DataError(f"{path} holds no JSON object")
        return record
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that only some benchmarks have
        return read_results(path)
