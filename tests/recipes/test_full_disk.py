"""R3 for whole recipes: a disk that is full at the end, or in between, costs no earlier result."""

from __future__ import annotations

import pytest

from ucip_adapt.errors import CheckpointError
from ucip_adapt.hub.folders import PublishError
from ucip_adapt.models import UCIP
from ucip_adapt.training.checkpoint import CheckpointWarning
from ucip_adapt.training.results import read_results
from ucip_adapt.tuning import load_prompt_adapter

resource = pytest.importorskip("resource", reason="limits of POSIX systems")


@pytest.fixture
def full_disk():
    """``full_disk(n)`` lets no file grow beyond n bytes from here on; ``full_disk()`` ends it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(num_bytes=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if num_bytes is None else num_bytes, hard))

    yield limit
    limit()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.filterwarnings("ignore:the checkpoint of step 2 could not be written")
@pytest.mark.parametrize(
    ("name", "num_bytes"),
    # Below the size of the picture; above it and below that of the network.
    [("tune_prompts", 30_000), ("tune_full", 90_000), ("pretrain_base", 90_000)],
)
def test_r3_the_earlier_result_stays(run, full_disk, world, tmp_path, name, num_bytes):
    folder = tmp_path / "out"
    first = run(name, folder, seed=1, max_train_steps=2)
    before = files(folder)
    with pytest.raises(PublishError) as caught:
        run(name, folder, seed=2, max_train_steps=2, at={2: lambda _: full_disk(num_bytes)})
    full_disk()
    assert caught.match(r"cannot write the result to .*out: .*What was there before is unchanged")
    assert files(folder) == before
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"checkpoints"}
    assert read_results(folder / "results.json")["config"]["seed"] == 1
    if name == "tune_prompts":
        load_prompt_adapter(folder, UCIP.from_pretrained(world.bases["prompted"]))
    else:
        fingerprint = first.record["parameters"]["fingerprint"]
        assert UCIP.from_pretrained(folder).fingerprint == fingerprint


def test_r3_training_is_not_lost_with_checkpoints(run, full_disk, tmp_path):
    folder = tmp_path / "out"
    whole = run("tune_prompts", tmp_path / "whole")
    with pytest.raises(PublishError, match="go on with --resume_from_checkpoint latest"):
        run(
            "tune_prompts",
            folder,
            checkpointing_steps=1,
            at={3: lambda _: full_disk(30_000)},  # room for a checkpoint, none for the picture
        )
    full_disk()
    again = run("tune_prompts", folder, resume_from_checkpoint="latest")
    assert again.losses == []
    assert again.bytes() == whole.bytes()


def test_r3_a_checkpoint_that_cannot_be_written_stops_the_run(run, full_disk, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(CheckpointError) as caught:
        run("tune_prompts", folder, checkpointing_steps=1, at={2: lambda _: full_disk(4000)})
    full_disk()
    assert caught.match(r"the checkpoint of step 2 could not be written to .*step-00000002: ")
    assert caught.match(
        r"It needs about [\d,]+ bytes, [\d,]+ are free\. Earlier checkpoints are un"
    )
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-00000001"]
    run("tune_prompts", folder, resume_from_checkpoint="latest")


def test_r3_or_the_run_goes_on_if_asked_to(run, full_disk, tmp_path):
    folder = tmp_path / "out"
    with pytest.warns(CheckpointWarning, match=r"step 1 could not be written .*Training goes on"):
        done = run(
            "tune_prompts",
            folder,
            checkpointing_steps=1,
            checkpoint_errors="continue",
            at={1: lambda _: full_disk(4000), 2: lambda _: full_disk()},
        )
    assert (folder / "results.json").is_file()
    names = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert names == ["step-00000002", "step-00000003"]
    assert done.record["scores"]["skipped_steps"] == 0
