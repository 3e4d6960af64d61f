"""Which samples belong to which optimizer step, as a function of the step alone."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from ucip_adapt.errors import ConfigError

__all__ = ["StepBatchSampler"]


class StepBatchSampler(Sampler[list[int]]):
    """Micro-batches of one process, numbered globally, so that a run can stop anywhere.

    Step ``s`` of a run uses the sample indices ``s * G`` to ``(s + 1) * G - 1``, where ``G =
    batch_size * num_processes * accumulation`` is the effective batch. Inside a step, micro-batch
    ``m`` of process ``r`` holds ``s * G + (m * num_processes + r) * batch_size + i``. Nothing is
    random here: the data set maps ``(seed, index)`` to an image, a crop and a flip. Hence a run is
    resumed by ``start_step`` alone, and one process with batch ``2 B`` sees the same samples as two
    processes with batch ``B``. Indices grow without bound; there are no epochs.

    Give it to ``DataLoader(dataset, batch_sampler=..., generator=torch.Generator())``, with worker
    processes or without, and do not hand that loader to ``accelerator.prepare``, which would split
    the batches a second time. The loader's own generator matters: without it every start draws a
    number from torch's global one, and a model with dropout no longer resumes exactly.

    Args:
        batch_size: Samples of one micro-batch on one process.
        num_processes: Processes of the run (``accelerator.num_processes``).
        process_index: This process, from 0 (``accelerator.process_index``).
        accumulation: Micro-batches of one optimizer step.
        start_step: First optimizer step, 0 for a fresh run, ``Checkpoints.resume(...)`` for a
            continued one.
        stop_step: The step before which the iteration ends (``max_train_steps``).

    Raises:
        ConfigError: If a size is below 1, or the process or the steps are out of order.

    Example:
        >>> list(StepBatchSampler(2, num_processes=2, process_index=0, stop_step=2))
        [[0, 1], [4, 5]]
        >>> list(StepBatchSampler(2, num_processes=2, process_index=1, stop_step=2))
        [[2, 3], [6, 7]]
        >>> list(StepBatchSampler(4, num_processes=1, process_index=0, stop_step=2))
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """

    def __init__(
        self,
        batch_size: int,
        *,
        num_processes: int,
        process_index: int,
        accumulation: int = 1,
        start_step: int = 0,
        stop_step: int,
    ) -> None:
        sizes = {
            "batch_size": batch_size,
            "num_processes": num_processes,
            "accumulation": accumulation,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 0 <= process_index < num_processes:
            raise ConfigError(
                f"process_index {process_index} is not one of {num_processes} processes"
            )
        if not 0 <= start_step <= stop_step:
            raise ConfigError(
                f"start_step {start_step} must lie between 0 and stop_step {stop_step}"
            )
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.process_index = process_index
        self.accumulation = accumulation
        self.start_step = start_step
        self.stop_step = stop_step

    @property
    def effective_batch(self) -> int:
        """Samples of one optimizer step over all processes (``G`` above)."""
        return self.batch_size * self.num_processes * self.accumulation

    def __len__(self) -> int:
        """Micro-batches that this process yields."""
        return (self.stop_step - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.stop_step):
            for micro in range(self.accumulation):
                part = micro * self.num_processes + self.process_index
                first = step * self.effective_batch + part * self.batch_size
                yield list(range(first, first + self.batch_size))
