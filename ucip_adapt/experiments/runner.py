"""Make missing cells, several at a time, for as long as there is time; stop without losing work."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ucip_adapt.atomic import write_atomically
from ucip_adapt.errors import CheckpointError, UcipError
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.commands import Stage, assemble, spec_of, stages_of
from ucip_adapt.experiments.ledger import Ledger, State, read_marker
from ucip_adapt.experiments.pictures import check_pictures, digests_of, sets_of
from ucip_adapt.training.lock import lock_folder
from ucip_adapt.training.results import write_results
from ucip_adapt.training.signals import StopRequest

__all__ = ["Report", "Runner", "command_of"]

_POLL_SECONDS = 0.2
_MEASURED = ("evaluate_on", "also_measure")
"""Fields of a cell that say what is measured; cells that differ in these alone share a training."""

_PATIENCE_SECONDS = 300.0
"""How long a recipe that was asked to stop may take for its step and its checkpoint."""

Outcome = Literal["finished", "failed", "stopped", "busy"]


@dataclass
class Report:
    """What became of the cells that were taken up.

    Attributes:
        finished: Ids of cells that are now in the ledger.
        failed: Messages by id.
        stopped: Ids of cells that were cut short and go on next time.
        busy: Ids of cells that another runner has.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def command_of(cell: Cell) -> str:
    """The command that makes a cell of the experiments.

    Args:
        cell: The cell.

    Example:
        >>> command_of(Cell("webp", "base", "b"))
        'python recipes/run_experiments.py --only b_webp_base_full --data DATA'
    """
    return f"python recipes/run_experiments.py --only {cell.id} --data DATA"


class _Claim:
    """Owner of the lock on a cell's folder: the lock ends with it."""


class Runner:
    """Starts recipes for the cells of a ledger.

    Args:
        ledger: The ledger.
        recipes: Folder of the recipes.
        folder: Folder that cells are made in, each in one of its name.
        data: Data root.
        jobs: Cells at the same time.
        command: What a cell's file says that it is made by.
        say: Takes each line about what happens.

    Example:
        >>> from ucip_adapt.experiments.groups import read_groups
        >>> text = 'groups.g = { codec = "webp", method = "base", base = "not-here" }'
        >>> ledger = Ledger(read_groups(text, "here"), Path("no/such/folder"))
        >>> Runner(ledger, Path("recipes"), Path("runs/cells")).run().finished
        []
    """

    def __init__(
        self,
        ledger: Ledger,
        recipes: Path,
        folder: Path,
        *,
        data: Path | None = None,
        jobs: int = 1,
        command: Callable[[Cell], str] = command_of,
        say: Callable[[str], None] = print,
    ) -> None:
        self.ledger = ledger
        self.recipes = recipes
        self.folder = folder
        self.data = data
        self.jobs = jobs
        self.command = command
        self.say = say
        self._stopping = threading.Event()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()

    def run(
        self,
        *,
        budget_seconds: float | None = None,
        only: tuple[str, ...] = (),
        groups: tuple[str, ...] = (),
    ) -> Report:
        """Make cells in the order of their priorities until none is ready or the time is up.

        SIGTERM, Ctrl-C and the end of the budget stop the recipes: a training leaves a checkpoint
        and goes on from it next time, an evaluation goes on with the piece it was at.

        Args:
            budget_seconds: Time for all of it; None has no end.
            only: Ids of cells; empty means all.
            groups: Names of groups; empty means all.

        Raises:
            UnknownNameError: If there is no such cell or group.
            ConfigError: If the data root holds other pictures than finished cells were made of.
            DataError: If a set of images is not there.
        """
        queue = self.ledger.queue(only=only, groups=groups)
        self._check_pictures(queue)
        end = None if budget_seconds is None else time.monotonic() + budget_seconds
        report = Report()
        self._stopping.clear()
        running: dict[Future[tuple[Outcome, str]], Cell] = {}
        with StopRequest() as stop, ThreadPoolExecutor(self.jobs) as pool:
            try:
                while True:
                    if stop.requested or (end is not None and time.monotonic() >= end):
                        self._stop("stopping" if stop.requested else "the time is up")
                    taken = {cell.id for cell in running.values()} | _seen(report)
                    while len(running) < self.jobs and not self._stopping.is_set():
                        cell = self._next(queue, taken)
                        if cell is None:
                            break
                        taken.add(cell.id)
                        state = self.ledger.state(cell)
                        running[pool.submit(self._make, cell, state)] = cell
                    if not running:
                        return report
                    done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._book(report, running.pop(future), *future.result())
            except BaseException:
                self._kill()  # impatient: the second Ctrl-C
                raise

    def _check_pictures(self, queue: list[Cell]) -> None:
        if self.data is None:
            return
        ready = [cell for cell in queue if self.ledger.state(cell).name != "finished"]
        found = digests_of(sets_of(ready, self.data), self.data)
        folders = {"--results_dir": self.ledger.folder, "--runs_dir": self.folder}
        check_pictures(found, folders, self.data)

    def _next(self, queue: list[Cell], taken: set[str]) -> Cell | None:
        for cell in queue:
            if cell.id not in taken and self.ledger.state(cell).name == "ready":
                return cell
        return None

    def _book(self, report: Report, cell: Cell, outcome: Outcome, text: str) -> None:
        if outcome == "failed":
            report.failed[cell.id] = text
        else:
            {"finished": report.finished, "stopped": report.stopped, "busy": report.busy}[
                outcome
            ].append(cell.id)
        self.say(f"{outcome:<9} {cell.id}{': ' if text else ''}{text}")

    # -- one cell, in a thread of its own ----------------------------------------------------------

    def _make(self, cell: Cell, state: State) -> tuple[Outcome, str]:
        folder = self.folder / cell.id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claim = _Claim()
            try:
                lock_folder(folder, claim)
            except CheckpointError:
                return "busy", "another runner makes it"
            if self.ledger.state(cell).name == "finished":
                return "finished", "by another runner"
            return self._make_claimed(cell, state, folder)
        except (UcipError, OSError, KeyError) as error:
            return "failed", f"{error} (folder {folder})"

    def _make_claimed(self, cell: Cell, state: State, folder: Path) -> tuple[Outcome, str]:
        base = self.ledger.base(cell.base) if cell.base is not None else None
        codec = self.ledger.codec_of(cell)
        marker = spec_of(cell, base, state.learning_rate, codec)
        if read_marker(folder / "cell.json") != marker:
            self._clear(folder)
            text = _json(marker)
            write_atomically(folder / "cell.json", text.encode())
        stages = stages_of(cell, base, state.learning_rate, folder, self.data, codec)
        rate = "" if state.learning_rate is None else f", rate {state.learning_rate:g}"
        self.say(f"makes     {cell.id}{rate}{'; ' if state.reason else ''}{state.reason}")
        started = time.monotonic()
        self._adopt(cell, marker, folder)
        for stage in stages:
            if stage.results.is_file():
                continue
            code = self._start(stage)
            if self._stopping.is_set() and not stage.results.is_file():
                return "stopped", f"in {stage.name}"
            if not stage.results.is_file():
                return "failed", f"{stage.name}: {_last_line(stage.log, code)}; see {stage.log}"
        record = assemble(
            cell,
            base,
            state.learning_rate,
            self.ledger.groups_of(cell),
            stages,
            command=self.command(cell),
            codec=codec,
        )
        self.ledger.folder.mkdir(parents=True, exist_ok=True)
        write_results(self.ledger.path(cell), record)
        shutil.rmtree(folder / "training" / "checkpoints", ignore_errors=True)
        gain = record["scores"].get("validation_gain_db")
        shown = "" if gain is None else f"{gain:+.3f} dB on the validation images, "
        return "finished", f"{shown}{time.monotonic() - started:.0f} s"

    def _adopt(self, cell: Cell, marker: dict[str, Any], folder: Path) -> None:
        """Take a copy of a finished training that is this cell's too, if there is one."""
        own = folder / "training"
        if own.exists() or not cell.trained:
            return
        wanted = _training_of(marker)
        for other in sorted(self.folder.iterdir()):
            if _training_of(read_marker(other / "cell.json") or {}) != wanted:
                continue
            if (other / "training" / "results.json").is_file():
                part = folder / "training.part"
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(
                    other / "training", part, ignore=shutil.ignore_patterns("checkpoints")
                )
                part.rename(own)
                self.say(f"takes     the training of {other.name}")
                return

    @staticmethod
    def _clear(folder: Path) -> None:
        """Forget what another base or another rate left; the lock stays."""
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()

    def _start(self, stage: Stage) -> int:
        """Run a recipe to its end, going on from its checkpoint; what it prints goes to its log."""
        script, *flags = stage.arguments
        # Not any file: the lock of a run that died before its first checkpoint is there, too.
        if any((stage.folder / "checkpoints").glob("step-*")):
            flags += ["--resume_from_checkpoint", "latest"]
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        with stage.log.open("ab") as log, self._guard:
            if self._stopping.is_set():
                return 0
            child = subprocess.Popen(  # noqa: S603 - own recipe
                [sys.executable, str(self.recipes / script), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": str(threads), **os.environ},
                # Ctrl-C goes to the whole group; the runner passes it on once, as SIGTERM.
                start_new_session=True,
            )
            self._children.add(child)
        try:
            return child.wait()
        finally:
            with self._guard:
                self._children.discard(child)

    # -- stopping ----------------------------------------------------------------------------------

    def _stop(self, why: str) -> None:
        with self._guard:
            if self._stopping.is_set():
                return
            self._stopping.set()
            children = list(self._children)
            for child in children:
                child.terminate()
        if children:
            self.say(f"{why}: waiting for {len(children)} recipes to leave their checkpoints")
            threading.Thread(target=self._lose_patience, args=(children,), daemon=True).start()

    @staticmethod
    def _lose_patience(children: list[subprocess.Popen[bytes]]) -> None:
        time.sleep(_PATIENCE_SECONDS)
        for child in children:
            child.kill()

    def _kill(self) -> None:
        with self._guard:
            self._stopping.set()
            for child in self._children:
                child.kill()


def _training_of(marker: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in marker.items() if name not in _MEASURED}


def _seen(report: Report) -> set[str]:
    return {*report.finished, *report.failed, *report.stopped, *report.busy}


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _last_line(log: Path, code: int) -> str:
    """What a recipe said last: its error, if it stopped with one."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        for line in errors[-1:] or list(_not_blank(lines))[-1:]:
            return line.removeprefix("error: ")
    return f"exit code {code}"


def _not_blank(lines: list[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())
