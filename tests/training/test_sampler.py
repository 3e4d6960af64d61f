"""StepBatchSampler against a slow count of what every process should see."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ucip_adapt.errors import ConfigError
from ucip_adapt.training.sampler import StepBatchSampler


class Indices(Dataset):
    """Returns its index; at module level, so that spawned workers can import it."""

    def __getitem__(self, index):
        return index


def per_step(batch_size, processes, accumulation, steps):
    """Sets of samples per optimizer step, over all processes."""
    samplers = [
        StepBatchSampler(
            batch_size,
            num_processes=processes,
            process_index=r,
            accumulation=accumulation,
            stop_step=steps,
        )
        for r in range(processes)
    ]
    batches = [list(s) for s in samplers]
    assert [len(b) for b in batches] == [len(s) for s in samplers]
    return [
        [
            i
            for b in batches
            for micro in b[s * accumulation : (s + 1) * accumulation]
            for i in micro
        ]
        for s in range(steps)
    ]


@pytest.mark.parametrize(
    ("batch", "processes", "accumulation"), [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (1, 2, 4)]
)
def test_step_holds_the_same_samples_however_it_is_split(batch, processes, accumulation):
    steps = per_step(batch, processes, accumulation, 3)
    assert [sorted(s) for s in steps] == [list(range(8 * s, 8 * s + 8)) for s in range(3)]


def test_two_processes_order_inside_a_step():
    rank1 = StepBatchSampler(2, num_processes=2, process_index=1, accumulation=2, stop_step=2)
    assert list(rank1) == [[2, 3], [6, 7], [10, 11], [14, 15]]
    assert rank1.effective_batch == 8


def test_continued_sampler_is_the_tail_of_the_whole():
    def batches(start):
        return list(
            StepBatchSampler(
                3, num_processes=2, process_index=1, accumulation=2, start_step=start, stop_step=9
            )
        )

    assert batches(4) == batches(0)[8:]
    assert batches(9) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_keeps_the_order(workers):
    sampler = StepBatchSampler(2, num_processes=1, process_index=0, stop_step=5)
    loader = DataLoader(Indices(), batch_sampler=sampler, num_workers=workers)
    assert len(loader) == 5
    assert torch.cat(list(loader)).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"accumulation": 0}, "accumulation must be at least 1"),
        ({"process_index": 2}, "process_index 2 is not one of 2"),
        ({"start_step": 5}, "start_step 5 must lie between 0 and stop_step 4"),
    ],
)
def test_wrong_values_are_named(change, message):
    good = {"batch_size": 1, "num_processes": 2, "process_index": 0, "stop_step": 4}
    with pytest.raises(ConfigError, match=message):
        StepBatchSampler(**{**good, **change})
