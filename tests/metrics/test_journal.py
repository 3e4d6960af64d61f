"""Kept scores: the same numbers come back, for the same pixels and context and for no others."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.errors import DataError
from ucip_adapt.metrics import ScoreJournal

CONTEXT = {"weights": "a", "protocols": ["y-c4"]}
GT = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
LQ = np.ascontiguousarray(GT[::4, ::4])
SCORES = {"bicubic": {"y-c4": (math.inf, 1.0)}, "base": {"y-c4": (31.123456789012345, 1 / 3)}}


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    ScoreJournal(tmp_path, CONTEXT).add(GT, LQ, SCORES)
    journal = ScoreJournal(tmp_path, dict(reversed(CONTEXT.items())))
    assert (len(journal), journal.found) == (1, 0)
    assert journal.find(GT, LQ) == SCORES
    assert journal.found == 1


def test_one_level_makes_another_image(tmp_path: Path) -> None:
    ScoreJournal(tmp_path, CONTEXT).add(GT, LQ, SCORES)
    journal = ScoreJournal(tmp_path, CONTEXT)
    one_level = np.zeros_like(GT)
    one_level[4, 8, 1] = 1
    assert journal.find(GT ^ one_level, LQ) is None
    assert journal.find(GT, LQ ^ one_level[::4, ::4]) is None
    assert journal.find(GT.reshape(24, 32, 3), LQ) is None
    assert not ScoreJournal(tmp_path, {**CONTEXT, "weights": "b"})


def test_processes_write_apart_and_find_everything(tmp_path: Path) -> None:
    other = 255 - GT
    ScoreJournal(tmp_path, CONTEXT, rank=0).add(GT, LQ, SCORES)
    ScoreJournal(tmp_path, CONTEXT, rank=11).add(other, LQ, {"base": {"y-c4": (20.0, 0.5)}})
    ScoreJournal(tmp_path, {"weights": "b"}).add(GT, LQ, SCORES)
    (tmp_path / "scores-of-mine-0.jsonl").write_bytes(b"\xff")
    assert len(files := os.listdir(tmp_path)) == 4
    journal = ScoreJournal(tmp_path, CONTEXT)
    assert journal.find(GT, LQ) == SCORES
    assert journal.find(other, LQ) == {"base": {"y-c4": (20.0, 0.5)}}
    journal.discard()
    assert len(left := os.listdir(tmp_path)) == 2, "those of others stay"
    assert set(left) < set(files)
    assert ScoreJournal(tmp_path, {"weights": "b"}).find(GT, LQ) == SCORES


@pytest.mark.parametrize("rest", ['["abc", "de', "12", "{}", "null", '["a"]', "\0\0\0"])
def test_what_a_killed_process_left_of_a_line_costs_that_line_alone(
    tmp_path: Path, rest: str
) -> None:
    other = 255 - GT
    journal = ScoreJournal(tmp_path, CONTEXT)
    journal.add(GT, LQ, SCORES)
    with next(tmp_path.iterdir()).open("a") as file:
        file.write(f"\n{rest}")
    later = ScoreJournal(tmp_path, CONTEXT)
    assert len(later) == 1
    later.add(other, LQ, SCORES)
    assert len(ScoreJournal(tmp_path, CONTEXT)) == 2


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ScoreJournal(tmp_path, CONTEXT).add(GT, LQ, SCORES)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=f"cannot read .*{path.name}: "):
        ScoreJournal(tmp_path, CONTEXT)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"cannot read .*{path.name}: "):
        ScoreJournal(tmp_path, CONTEXT)
    with pytest.raises(DataError, match="cannot keep scores in "):
        ScoreJournal(tmp_path / "missing", CONTEXT).add(GT, LQ, SCORES)
