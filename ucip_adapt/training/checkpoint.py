"""Checkpoints that are complete or absent, and resume exactly.

``Accelerator.save_state`` writes into the final folder: a kill in the middle leaves a newest
checkpoint that cannot be loaded. Here everything goes into ``.tmp-<step>-<pid>``, is synced and
described by a manifest with checksums, and is then renamed to ``step-00000123``; older ones go
afterwards.

Accelerate reads objects registered with it by an unrestricted unpickler. They are therefore written
and read here, so that nothing in a checkpoint can run code: tensors by safetensors, the rest
through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import load
from safetensors import SafetensorError
from torch import Tensor, nn

from ucip_adapt.atomic import sync_directory
from ucip_adapt.errors import CheckpointError, ConfigError, NonFiniteError, unknown_name
from ucip_adapt.training.collective import ask_main, attempt, first_message
from ucip_adapt.training.guard import check_finite
from ucip_adapt.training.lock import lock_folder
from ucip_adapt.training.manifest import Manifest, read_manifest, verify, write_manifest
from ucip_adapt.training.model_state import load_weights, save_weights, weights_to_save

__all__ = ["CheckpointWarning", "Checkpoints", "OnWriteError"]

OnWriteError = Literal["continue", "stop"]
_SET_ASIDE = ".tmp-old-"  # before the name of a checkpoint whose place is being taken
# torch.save reports a full disk as RuntimeError, safetensors by an error of its own.
_READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError)
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError, CheckpointError)


class CheckpointWarning(UserWarning):
    """Something about a checkpoint that does not stop the run but should be read."""


class Checkpoints:
    """Saves and resumes one run: weights, optimizers, random states, registered objects.

    All methods are collective: every process calls them, the main process writes what is shared.
    Objects with ``state_dict`` and ``load_state_dict`` take part once registered by
    ``accelerator.register_for_checkpointing(ema)``; their state may hold tensors, numbers, strings,
    lists and dictionaries. Data order and learning rate are functions of the step and need no
    state.

    One run at a time may write to ``root`` (an advisory lock that ends with this object or its
    process), and all processes have to see it, so on several nodes it lies on a shared file system.
    Leftovers ``.tmp-*`` of dead runs are removed here.

    Args:
        accelerator: The run's accelerator.
        root: Folder of the checkpoints; made if need be.
        total_limit: How many to keep, at least 1; None keeps all. Old ones go only after a new one
            is published, so there is room for one more than that while saving.
        run_config: All options of the run, kept in the manifest. ``train_batch_size`` in it
            (samples per process) gives the effective batch, with the accelerator's processes and
            accumulation steps.
        critical_keys: Options that a continued run must share (codec, trainable set, learning rate,
            ...).
        measured_keys: What else it must share, as far as the checkpoint has it: earlier versions
            did not record everything.
        on_write_error: What to do when a checkpoint cannot be written: ``"stop"`` raises,
            ``"continue"`` warns and training goes on. Earlier checkpoints stay loadable either way.
        save_trainable_only: Leave frozen parameters and buffers out of the checkpoint; a PEFT model
            also leaves its loadable adapter folder (see :func:`~.model_state.save_weights`).

    Raises:
        CheckpointError: If another run writes to ``root`` or the folder cannot be made.
        ConfigError: If an option is out of range or a critical key is not in ``run_config``.

    Example:
        >>> import tempfile
        >>> accelerator = Accelerator(cpu=True)
        >>> model = accelerator.prepare(nn.Linear(2, 1))
        >>> checkpoints = Checkpoints(
        ...     accelerator,
        ...     tempfile.mkdtemp(),
        ...     total_limit=2,
        ...     run_config={"seed": 0},
        ...     critical_keys=["seed"],
        ... )
        >>> checkpoints.save(10).name
        'step-00000010'
        >>> checkpoints.resume("latest")
        10
    """

    def __init__(
        self,
        accelerator: Accelerator,
        root: str | Path,
        *,
        total_limit: int | None,
        run_config: Mapping[str, Any],
        critical_keys: Sequence[str],
        measured_keys: Sequence[str] = (),
        on_write_error: OnWriteError = "stop",
        save_trainable_only: bool = False,
    ) -> None:
        if total_limit is not None and total_limit < 1:
            raise ConfigError(
                f"the number of checkpoints to keep must be at least 1, got {total_limit}"
            )
        if on_write_error not in get_args(OnWriteError):
            raise unknown_name("value of on_write_error", on_write_error, get_args(OnWriteError))
        for key in (*critical_keys, *measured_keys):
            if key not in run_config:
                raise unknown_name("critical key", key, run_config)
        if accelerator.project_configuration.automatic_checkpoint_naming:
            raise ConfigError("automatic_checkpoint_naming and Checkpoints exclude each other")
        self._accelerator = accelerator
        self._total_limit = total_limit
        # As it will come back from the manifest: tuples become lists, paths become strings.
        self._run_config: dict[str, Any] = json.loads(json.dumps(dict(run_config), default=str))
        self._critical_keys = list(critical_keys)
        self._measured_keys = list(measured_keys)
        self._on_write_error = on_write_error
        self._trainable_only = save_trainable_only
        self._step_on_disk: int | None = None
        self.root = Path(root)
        problem = attempt(accelerator, self._open_root, errors=_WRITE_ERRORS, main_only=True)
        if problem:
            raise CheckpointError(problem)

    @property
    def effective_batch(self) -> int | None:
        """Samples of one optimizer step over all processes; None without ``train_batch_size``."""
        batch = self._run_config.get("train_batch_size")
        if not isinstance(batch, int):
            return None
        accelerator = self._accelerator
        return batch * int(accelerator.num_processes) * int(accelerator.gradient_accumulation_steps)

    def save(self, step: int) -> Path | None:
        """Publish a checkpoint.

        Args:
            step: Optimizer steps done so far; :meth:`resume` will return it.

        Returns:
            The published folder, or None if writing failed and ``on_write_error`` is
            ``"continue"``.

        Raises:
            NonFiniteError: If a weight, an optimizer state or a registered object holds NaN or
                infinity. Such a state is never published, and since going on would train nothing,
                this always raises, whatever ``on_write_error`` says. Earlier checkpoints are
                untouched.
            CheckpointError: If writing failed and ``on_write_error`` is ``"stop"``; the message
                names the path, the reason and the bytes needed.
        """
        accelerator = self._accelerator
        self._refuse_non_finite(step)
        target = self.root / f"step-{step:08d}"
        if ask_main(accelerator, lambda: step == self._step_on_disk and _is_good(target)):
            return target  # nothing has changed since: a stop right after a periodic save
        folder = self.root / ask_main(accelerator, lambda: f".tmp-{step:08d}-{os.getpid()}")

        def publish() -> None:
            self._publish(folder, target, step)

        try:
            problem = (
                attempt(accelerator, folder.mkdir, errors=_WRITE_ERRORS, main_only=True)
                or attempt(accelerator, lambda: self._write_state(folder), errors=_WRITE_ERRORS)
                or attempt(accelerator, publish, errors=_WRITE_ERRORS, main_only=True)
            )
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
        if problem:
            self._write_failed(step, target, problem)
            return None
        self._step_on_disk = step
        return target

    def resume(
        self, which: str | Path, *, force: bool = False, allow_world_change: bool = False
    ) -> int:
        """Restore a checkpoint into the prepared models, optimizers and registered objects.

        Args:
            which: ``"latest"`` for the newest in ``root`` that is intact (a damaged newer one is
                named in a warning and passed over), or the path of a checkpoint folder.
            force: Accept changed critical options; the differences are named in a warning.
            allow_world_change: Accept another number of processes; old and new effective batch are
                named in a warning. Nothing is rescaled. Steps are counted in the new batch from
                here on, and processes that are new start from their own random state.

        Returns:
            The optimizer steps done, which is the number of the next step.

        Raises:
            CheckpointError: If there is none, none is intact, it belongs to another run (the
                message lists the differing options with old and new values), to another number of
                processes, or does not fit the model.
        """
        folder = Path(ask_main(self._accelerator, lambda: str(self._choose(which))))
        manifest = read_manifest(folder)
        same_options = self._compare_options(folder, manifest, force)
        same_world = self._compare_world(folder, manifest, allow_world_change)
        self._read_state(folder, manifest)
        inside = folder.resolve().parent == self.root.resolve()
        self._step_on_disk = manifest.step if inside and same_options and same_world else None
        self._accelerator.wait_for_everyone()
        return manifest.step

    # -- writing
    # ---------------------------------------------------------------------------------------

    def _open_root(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        lock_folder(self.root, self)
        for leftover in self.root.glob(".tmp-*"):  # ours alone: whoever wrote it has lost the lock
            target = self.root / leftover.name.removeprefix(_SET_ASIDE)
            if leftover.name.startswith(_SET_ASIDE) and not target.exists() and _is_good(leftover):
                os.replace(leftover, target)  # killed while its successor was taking its place
            else:
                shutil.rmtree(leftover)

    def _refuse_non_finite(self, step: int) -> None:
        tensors = [named for model in self._models() for named in self._weights(model)]
        tensors += _tensors_in([o.state_dict() for o in self._accelerator._optimizers], "optimizer")
        tensors += _tensors_in(
            [o.state_dict() for o in self._accelerator._custom_objects], "object"
        )
        message = None
        try:
            check_finite(tensors, what=f"step {step} is not saved: weights or states")
        except NonFiniteError as error:
            message = str(error)
        message = first_message(self._accelerator, message)
        if message:
            raise NonFiniteError(f"{message}. Earlier checkpoints in {self.root} are untouched.")

    def _write_state(self, folder: Path) -> None:
        accelerator = self._accelerator
        if not folder.is_dir():
            raise CheckpointError(f"{self.root} must lie on a file system that all processes see")

        def write_models(models: list[nn.Module], weights: list[Any], _: str) -> None:
            weights.clear()  # so that Accelerate does not write them, with frozen ones and prefixes
            if accelerator.is_main_process:
                for index, model in enumerate(self._models()):
                    save_weights(model, folder, index=index, trainable_only=self._trainable_only)

        with (
            _objects_aside(accelerator) as objects,
            _hook(accelerator.register_save_state_pre_hook, write_models),
        ):
            accelerator.save_state(str(folder))
        if accelerator.is_main_process:
            for index, item in enumerate(objects):
                path = folder / f"object-{index}.pt"
                torch.save(item.state_dict(), path)
                _read_object(path, type(item).__name__)  # better found now than when it is needed

    def _publish(self, folder: Path, target: Path, step: int) -> None:
        published = self._published()
        write_manifest(
            folder,
            step=step,
            sequence=1 + max((_sequence(path) or 0 for path in published), default=0),
            world_size=int(self._accelerator.num_processes),
            effective_batch=self.effective_batch,
            objects=[type(item).__name__ for item in self._accelerator._custom_objects],
            run_config=self._run_config,
        )
        aside = self.root / f"{_SET_ASIDE}{target.name}"
        if target.exists():  # damaged, or of a run that was continued from an earlier step
            os.replace(target, aside)
        os.replace(folder, target)
        sync_directory(self.root)
        shutil.rmtree(aside, ignore_errors=True)
        self._delete_old()

    def _delete_old(self) -> None:
        readable = [path for path in self._published() if _sequence(path) is not None]
        for path in readable[self._total_limit :] if self._total_limit else ():
            # Renamed first: a kill in the middle of a deletion must not leave half a checkpoint.
            doomed = self.root / f".tmp-del-{path.name}"
            try:
                os.replace(path, doomed)
                shutil.rmtree(doomed)
            except OSError as error:  # the new one stands, so this is no reason to stop
                self._warn(f"the old checkpoint {path} could not be deleted: {error}")

    def _write_failed(self, step: int, target: Path, problem: str) -> None:
        if self._accelerator.is_main_process:
            free = f", {shutil.disk_usage(self.root).free:,} are free"
        else:
            free = ""
        needed = sum(t.nbytes for m in self._models() for _, t in self._weights(m))
        for item in (*self._accelerator._optimizers, *self._accelerator._custom_objects):
            needed += sum(t.nbytes for _, t in _tensors_in(item.state_dict(), ""))
        message = (
            f"the checkpoint of step {step} could not be written to {target}: {problem}. It "
            f"needs about {needed:,} bytes{free}. Earlier checkpoints are untouched."
        )
        if self._on_write_error == "stop":
            raise CheckpointError(message)
        self._warn(f"{message} Training goes on.")

    # -- reading
    # ---------------------------------------------------------------------------------------

    def _choose(self, which: str | Path) -> Path:
        if str(which) != "latest":
            if not Path(which).is_dir():
                known = ", ".join(str(path) for path in self._published()) or "none"
                raise CheckpointError(
                    f"there is no checkpoint {which}; known in {self.root}: {known}"
                )
            verify(Path(which))
            return Path(which)
        problems: list[str] = []
        for folder in self._published():
            try:
                verify(folder)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                self._warn(f"{problem}; going back to {folder.name}")
            return folder
        if problems:
            listed = "".join(f"\n- {problem}" for problem in problems)
            raise CheckpointError(f"no checkpoint in {self.root} is intact:{listed}")
        raise CheckpointError(
            f"there is no checkpoint in {self.root} to resume from; start without resuming, or "
            "give the path of a checkpoint"
        )

    def _compare_options(self, folder: Path, manifest: Manifest, force: bool) -> bool:
        def shown(config: Mapping[str, Any], key: str) -> str:
            return json.dumps(config[key]) if key in config else "absent"

        old, new = manifest.run_config, self._run_config
        measured = (key for key in self._measured_keys if old.get(key) is not None)
        differing = [
            f"{key}: {shown(old, key)} in the checkpoint, {shown(new, key)} now"
            for key in (*self._critical_keys, *measured)
            # An option younger than the checkpoint was what None says: not used.
            if json.dumps(old.get(key)) != json.dumps(new.get(key))
        ]
        if differing and not force:
            raise CheckpointError(
                f"{folder} belongs to a run with other options ({'; '.join(differing)}). Start "
                "with the same ones, or accept the change by --force."
            )
        if differing:
            self._warn(f"resuming {folder} with changed options: {'; '.join(differing)}")
        return not differing

    def _compare_world(self, folder: Path, manifest: Manifest, allowed: bool) -> bool:
        processes = int(self._accelerator.num_processes)
        if manifest.world_size == processes:
            return True
        change = (
            f"{folder} was written by {_count(manifest.world_size)} (effective batch "
            f"{manifest.effective_batch or 'unknown'}), this run has {_count(processes)} "
            f"(effective batch {self.effective_batch or 'unknown'})"
        )
        if not allowed:
            raise CheckpointError(
                f"{change}. Start as many processes, or accept the change by --allow_world_change."
            )
        self._warn(f"{change}. Steps count the new batch; the learning rate is not rescaled.")
        return False

    def _read_state(self, folder: Path, manifest: Manifest) -> None:
        accelerator = self._accelerator

        def read_models(models: list[nn.Module], _: str) -> None:
            models.clear()  # so that Accelerate does not look for files of its own
            for index, model in enumerate(self._models()):
                load_weights(model, folder, index=index, trainable_only=self._trainable_only)

        with _objects_aside(accelerator) as objects:
            names = [type(item).__name__ for item in objects]
            # Earlier versions registered fewer; what they did not, starts empty.
            count = len(manifest.objects)
            added = all(getattr(item, "may_be_missing", False) for item in objects[count:])
            if names[:count] != manifest.objects or not added:
                raise CheckpointError(
                    f"{folder} holds the states of {manifest.objects}, this run registers {names}"
                )
            states = [
                _read_object(folder / f"object-{i}.pt", n) for i, n in enumerate(names[:count])
            ]
            try:
                random_state = self._random_state(folder)
                with _hook(accelerator.register_load_state_pre_hook, read_models):
                    accelerator.load_state(str(folder))
            except _READ_ERRORS as error:
                raise CheckpointError(
                    f"{folder} is intact but does not fit this run: {error}"
                ) from error
            for item, state in zip(objects[:count], states, strict=True):
                item.load_state_dict(state)
        # Accelerate only logs when it cannot restore it, and exact resume would be lost unnoticed.
        if random_state is not None and not torch.equal(random_state, torch.get_rng_state()):
            raise CheckpointError(f"the random state in {folder} could not be restored")

    def _random_state(self, folder: Path) -> Tensor | None:
        """Torch's saved state on this process; None for a process that was not there before."""
        path = folder / f"random_states_{self._accelerator.process_index}.pkl"
        state: Tensor | None = load(path)["torch_manual_seed"] if path.is_file() else None
        return state

    # -- helpers
    # ---------------------------------------------------------------------------------------

    def _published(self) -> list[Path]:
        """Published folders, newest first; those whose manifest cannot be read count as newest."""
        found = [path for path in self.root.glob("step-*") if path.is_dir()]
        order = {path: (s is None, s or 0, path.name) for path in found for s in [_sequence(path)]}
        return sorted(found, key=order.__getitem__, reverse=True)

    def _models(self) -> list[nn.Module]:
        models = self._accelerator._models
        return [self._accelerator.unwrap_model(m, keep_torch_compile=False) for m in models]

    def _weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        return weights_to_save(model, trainable_only=self._trainable_only)

    def _warn(self, message: str) -> None:
        if self._accelerator.is_main_process:
            warnings.warn(message, CheckpointWarning, stacklevel=4)


def _count(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def _is_good(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _sequence(folder: Path) -> int | None:
    try:
        return read_manifest(folder).sequence
    except CheckpointError:
        return None


def _tensors_in(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors_in(item, f"{name}.{index}")


def _read_object(path: Path, name: str) -> Any:  # noqa: ANN401 - whatever the object's state is
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the state of {name} holds more than tensors, numbers, strings, lists and "
            "dictionaries, and would not be restored"
        ) from error


@contextmanager
def _objects_aside(accelerator: Accelerator) -> Iterator[list[Any]]:
    """The registered objects, hidden from Accelerate meanwhile."""
    objects: list[Any] = accelerator._custom_objects
    accelerator._custom_objects = []
    try:
        yield objects
    finally:
        accelerator._custom_objects = objects


@contextmanager
def _hook(register: Callable[[Any], Any], hook: Callable[..., None]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()
