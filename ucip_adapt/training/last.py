"""Between the last step and the result: what was trained is in a checkpoint meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from ucip_adapt.errors import CheckpointError, NonFiniteError
from ucip_adapt.training.checkpoint import Checkpoints, CheckpointWarning

__all__ = ["weights_kept"]


@contextmanager
def weights_kept(accelerator: Accelerator, checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """Save the last step before what was trained is measured: hours hang on those minutes.

    Whatever ends the block, the same command with ``--resume_from_checkpoint latest`` measures the
    weights without training again. A checkpoint that cannot be written is only a warning, since the
    result is about to be; one with values that are not finite is none, and the recipe's own check
    says so. Collective: all processes enter it.

    Args:
        accelerator: The run's accelerator.
        checkpoints: Its checkpoints.
        step: Optimizer steps done.

    Raises:
        KeyboardInterrupt: After Ctrl-C in the block; its text says where the weights are. Of any
            other exception a note does, which :func:`.run_recipe` and tracebacks print.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> accelerator = Accelerator(cpu=True)
        >>> model = accelerator.prepare(nn.Linear(2, 1))
        >>> root = tempfile.mkdtemp()
        >>> checkpoints = Checkpoints(
        ...     accelerator, root, total_limit=1, run_config={}, critical_keys=[]
        ... )
        >>> with weights_kept(accelerator, checkpoints, 10):
        ...     print([path.name for path in Path(root).glob("step-*")])
        ['step-00000010']
    """
    folder = _save(accelerator, checkpoints, step)
    where = (
        f"the training had ended, its last step is in {folder}; the same command with "
        "--resume_from_checkpoint latest goes on from there to the result"
    )
    try:
        yield
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise KeyboardInterrupt(where) from None
    except Exception as error:
        if folder is not None:
            error.add_note(where)
        raise


def _save(accelerator: Accelerator, checkpoints: Checkpoints, step: int) -> Path | None:
    try:
        return checkpoints.save(step)
    except NonFiniteError:
        return None
    except CheckpointError as error:
        if accelerator.is_main_process:
            text = f"{error} The run goes on to its result without it."
            warnings.warn(text, CheckpointWarning, stacklevel=4)
        return None
