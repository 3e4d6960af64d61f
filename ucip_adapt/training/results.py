"""The schema of ``results.json``, which every recipe writes and every table is rendered from.

Top-level keys, in this order; only ``format_version`` and ``kind`` are always there:

=================== ==============================================================================
``format_version``  ``"1.0"``. A reader warns of unknown keys and refuses a newer major version.
``kind``            What the run was: ``"pretrain_base"``, ``"tune_prompts"``, ``"evaluate"``, ...
``command``         The command line, without paths of this machine (:func:`command_line`).
``config``          The resolved options.
``environment``     Versions, hardware, commit (:func:`environment`).
``seconds``         Wall-clock time: a number, or numbers by phase.
``peak_memory_mib`` Peak resident memory of the main process in MiB, or null.
``parameters``      Counts: total, trainable, bytes of the adapter; what base and codecs were.
``scores``          Scores by data set, quality and protocol, for base and adapter.
``files``           What else the run left: name and sha256 or size.
=================== ==============================================================================
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ucip_adapt.atomic import write_atomically
from ucip_adapt.config import to_dict
from ucip_adapt.errors import ConfigError, UcipError, unknown_name
from ucip_adapt.formats import check_format_version

if TYPE_CHECKING:
    import torch

__all__ = [
    "FORMAT_VERSION",
    "TOP_LEVEL_KEYS",
    "ResultsError",
    "command_line",
    "environment",
    "peak_memory_mib",
    "portable",
    "read_results",
    "run_record",
    "write_results",
]

_COMMAND = "command:"
_PATH_IN_COMMAND = re.compile(r"(?<=[\s=:'\"])/[^\s'\"]+")
_QUOTED_PATH = re.compile(r"(['\"])([^\s'\"/]*[=:])?(/.*?)\1")
_PATH_BEHIND_NAME = re.compile(r"([\w.@+-]+[=:])(/(?!/).*)", re.DOTALL)

FORMAT_VERSION = "1.0"
TOP_LEVEL_KEYS = (
    "format_version",
    "kind",
    "command",
    "config",
    "environment",
    "seconds",
    "peak_memory_mib",
    "parameters",
    "scores",
    "files",
)
_DISTRIBUTIONS = ("torch", "numpy", "pillow", "peft", "accelerate", "huggingface_hub", "ucip-adapt")


class ResultsError(UcipError):
    """A results file is missing, damaged, of another version's format, or cannot be written."""


def environment(device: str | torch.device | None = None) -> dict[str, Any]:
    """Where a number came from: versions, hardware and commit, but no host name and no path.

    Args:
        device: What was computed on; None takes the device of the run's Accelerator, and the CPU
            where none was made.

    Returns:
        ``versions`` (python and libraries; null where one is not installed), ``system``, ``cpu``,
        ``cpu_cores``, ``torch_threads``, ``gpu`` (name of the one computed on, or null),
        ``processes`` (of the run) and ``commit`` (of the checkout that the package is run from,
        with ``+dirty`` if tracked files were changed, else null).

    Example:
        >>> sorted(environment())
        ['commit', 'cpu', 'cpu_cores', 'gpu', 'processes', 'system', 'torch_threads', 'versions']
    """
    import torch  # here and not above: a table of results can be printed without it
    from torch import distributed

    several = distributed.is_available() and distributed.is_initialized()

    versions = {name: _version(name) for name in _DISTRIBUTIONS}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": _gpu(_device_of_the_run() if device is None else torch.device(device)),
        "processes": distributed.get_world_size() if several else 1,
        "commit": _commit(Path(__file__).resolve()),
    }


def _device_of_the_run() -> torch.device:
    import torch
    from accelerate.state import AcceleratorState, is_initialized

    if not is_initialized():
        return torch.device("cpu")
    device: torch.device = AcceleratorState().device
    return device


def _gpu(device: torch.device) -> str | None:
    """Its name. One that is only visible says nothing: ACCELERATE_USE_CPU=1 leaves it alone."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit(source: Path) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            [git, "-C", str(source.parent), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment inside somebody else's clone must not report that clone's commit: the source
    # itself has to be tracked.
    if ask("ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+dirty" if commit and changes else commit


def peak_memory_mib() -> float | None:
    """Highest resident memory of this process so far, in MiB; None where it cannot be asked for.

    Data workers are processes of their own and are not counted.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def portable(value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Replace absolute paths: relative under the working folder, ``.../name`` elsewhere.

    Also behind a name (``mine=/mnt/adapter``) and in what a codec is told (``folder:/mnt/decoded``,
    ``command:/opt/bin/encode {in} {out}``).

    Args:
        value: A string, a path, or dictionaries and sequences of them, to any depth.

    Returns:
        The same shape with strings for paths and lists for tuples.

    Example:
        >>> portable({"out": Path.cwd() / "runs" / "a", "data": "/mnt/images"})
        {'out': 'runs/a', 'data': '.../images'}
        >>> portable(["mine=/mnt/a", "command:/opt/encode -c=/opt/x.cfg {in} {out}", "webp"])
        ['mine=.../a', 'command:.../encode -c=.../x.cfg {in} {out}', 'webp']
    """
    if isinstance(value, Mapping):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    if not path.is_absolute():
        return path.as_posix() if isinstance(value, Path) else _portable_inside(value)
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return f".../{path.name}"


def _portable_inside(text: str) -> str:
    """Replace absolute paths that are a part of a text."""
    if text.startswith(_COMMAND):
        text = _QUOTED_PATH.sub(
            lambda match: f"{match[1]}{match[2] or ''}{portable(match[3])}{match[1]}", text
        )
        return _PATH_IN_COMMAND.sub(lambda match: str(portable(match[0])), text)
    match = _PATH_BEHIND_NAME.match(text)
    return f"{match[1]}{portable(match[2])}" if match else text


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as one would type it again, without paths of this machine.

    Args:
        argv: Script and arguments; ``sys.argv`` if None.

    Example:
        >>> command_line(["recipes/tune_prompts.py", "--codec=webp", "--data=/mnt/my images"])
        "python recipes/tune_prompts.py --codec=webp '--data=.../my images'"
    """
    words = []
    for word in sys.argv if argv is None else argv:
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(f"{flag}{equals}{portable(value)}")
    return f"python {shlex.join(words)}"


def run_record(
    kind: str,
    config: Any,  # noqa: ANN401 - any options dataclass
    *,
    seconds: Mapping[str, float],
    parameters: Mapping[str, Any],
    scores: Mapping[str, Any],
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put the results of a run together: what it did, where, and what came out.

    Args:
        kind: The recipe.
        config: Its resolved options, a dataclass instance.
        seconds: Seconds by phase.
        parameters: Counts.
        scores: Scores.
        files: Files left behind, with their sha256.
    """
    return {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "command": command_line(),
        "config": portable(to_dict(config)),
        "environment": environment(),
        "seconds": dict(seconds),
        "peak_memory_mib": peak_memory_mib(),
        "parameters": dict(parameters),
        "scores": dict(scores),
        "files": dict(files or {}),
    }


def write_results(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write a results file atomically.

    ``format_version`` is added, absolute paths go through :func:`portable`, and NaN or infinite
    numbers, which JSON has no place for, become null with a warning.

    Args:
        path: The file, usually ``results.json`` in the output folder.
        results: Values by the top-level keys of this module's table; ``kind`` is required.

    Raises:
        ConfigError: If a key is unknown, ``kind`` is missing, or a value is not JSON.
        ResultsError: If the file cannot be written; an old one is then untouched.
    """
    for key in results:
        if key not in TOP_LEVEL_KEYS:
            raise unknown_name("key of a results file", key, TOP_LEVEL_KEYS)
    if not results.get("kind"):
        raise ConfigError("a results file needs 'kind': what the run was, like 'tune_prompts'")
    whole = {**results, "format_version": FORMAT_VERSION}
    ordered = {key: _finite(portable(whole[key]), key) for key in TOP_LEVEL_KEYS if key in whole}
    try:
        text = json.dumps(ordered, indent=2, allow_nan=False)
    except TypeError as error:
        raise ConfigError(
            f"results for {Path(path).name} hold a value that is not JSON: {error}"
        ) from error
    try:
        write_atomically(Path(path), (text + "\n").encode())
    except OSError as error:
        raise ResultsError(f"cannot write the results {path}: {error.strerror or error}") from error


def _finite(value: Any, key: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
    if isinstance(value, dict):
        return {name: _finite(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        warnings.warn(f"{key} is {value}; written as null", stacklevel=3)
        return None
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON; make the results again")


def _finite_number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file.

    Args:
        path: The file.

    Returns:
        Its content; unknown keys are kept, with a warning.

    Raises:
        ResultsError: If the file is missing, not JSON (NaN and infinity are not, nor is 1e999),
            or of another major version.
    """
    path = Path(path)
    try:
        results = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite_number
        )
    except FileNotFoundError:
        raise ResultsError(f"there is no results file {path}") from None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} is not a readable results file: {error}") from error
    if not isinstance(results, dict):
        raise ResultsError(f"{path} is not a results file: it holds no JSON object")
    check_format_version(
        results.get("format_version"), FORMAT_VERSION, what=str(path), error=ResultsError
    )
    unknown = sorted(results.keys() - set(TOP_LEVEL_KEYS))
    if unknown:
        warnings.warn(
            f"{path} has keys unknown to this version: {', '.join(unknown)}", stacklevel=2
        )
    return results
