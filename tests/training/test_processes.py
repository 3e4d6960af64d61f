"""R1, R2, R12: kills, polite stops, and the same schedule however a run is split."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate import debug_launcher

from ucip_adapt.training.schedule import learning_rate_at

HERE = Path(__file__).parent


@pytest.mark.parametrize("trials", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_r1_sigkill_in_a_loop_of_saves(tmp_path, trials):
    command = [sys.executable, HERE / "kill_loop.py", str(trials), tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert len(results) == trials
    for before, after in zip([None, *results], results, strict=False):
        assert after["killed"], after
        published = [int(name[5:]) for name in after["found"]]
        # Killed between renaming and deleting there are two, between renaming and printing one
        # more.
        assert max(published) in (after["last"], after["last"] + 1)
        assert len(published) in (1, 2)
        if before is not None:
            newest = max(int(name[5:]) for name in before["found"])
            assert after["first"] == newest + 1, "the resumed step is the last published one"
            assert not set(before["leftovers"]) & set(after["leftovers"])
    if trials >= 20:
        assert any(r["leftovers"] for r in results), "no kill hit a save: the test shows nothing"


def wait_for_line(job, word):
    for line in job.process.stdout:
        if word in line:
            return
    pytest.fail(f"ended without {word!r}: {job.process.stderr.read()[-3000:]}")


def stop_and_check(job, root, send):
    """Signal a run that goes on for ever; it must leave a newer checkpoint and no process."""
    wait_for_line(job, "published 5")
    before = time.monotonic()
    send(job)
    _, _, err = job.wait(timeout=60)
    seconds = time.monotonic() - before
    assert job.members() == []
    newest = max(int(p.name[5:]) for p in root.glob("step-*"))
    assert newest > 5, err[-3000:]
    assert not list(root.glob(".tmp-*"))
    # Ten seconds of a machine that has nothing else to do.
    limit = 10 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert seconds < limit, f"took {seconds:.1f} s, allowed are {limit:.1f}"
    return newest, err


FOREVER = (
    "--steps=1000000",
    "--save_every=5",
    "--stop_after=1000000",
    "--total_limit=9",
    "--sleep=0.02",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_r2_one_process_with_data_workers(toy, train, launch, tmp_path, number):
    """The signal goes to the whole process group, as from a terminal or `timeout`."""
    root = tmp_path / "run"
    job = launch(toy.__file__, f"--root={root}", *FOREVER, "--workers=2", "--save_every=5")
    newest, err = stop_and_check(job, root, lambda j: os.killpg(j.process.pid, number))
    assert job.process.returncode == 0, err[-3000:]
    assert (
        train(resume="latest", steps=10**6, stop_after=newest + 1, total_limit=9, sleep=0.02)[
            "start"
        ]
        == newest
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_r2_two_processes_through_the_launcher(toy, train_two, launch, tmp_path, number):
    root = tmp_path / "run"
    job = launch(toy.__file__, f"--root={root}", *FOREVER, processes=2)
    newest, _ = stop_and_check(job, root, lambda j: j.process.send_signal(number))
    resumed = train_two(resume="latest", steps=newest + 3)
    assert [r["start"] for r in resumed] == [newest] * 2


@pytest.mark.slow
def test_r2_signal_that_reaches_one_of_two_processes(toy, launch, tmp_path):
    root = tmp_path / "run"
    job = launch(toy.__file__, f"--root={root}", *FOREVER, processes=2)

    def tell_one(job):
        workers = [n for n in job.members() if n != job.process.pid]
        os.kill(max(workers), signal.SIGTERM)

    _, err = stop_and_check(job, root, tell_one)
    assert job.process.returncode == 0, err[-3000:]


def expected_rates():
    return [
        learning_rate_at(s, schedule="cosine", learning_rate=0.01, warmup_steps=4, max_steps=20)
        for s in range(20)
    ]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_r12_rates_on_one_process(train, accumulation):
    assert train(accumulation=accumulation)["rates"] == expected_rates()


def test_r12_rates_on_two_forked_processes(toy, tmp_path):
    """Also the short form of everything collective: both processes end with the same weights."""
    report = tmp_path / "report"
    options = toy.Options(
        root=str(tmp_path / "run"), accumulation=4, save_every=10, report=str(report)
    )
    debug_launcher(toy.run, (options,), num_processes=2)
    reports = [json.loads(Path(f"{report}-{rank}.json").read_text()) for rank in range(2)]
    assert [(r["processes"], r["backend"]) for r in reports] == [(2, "gloo")] * 2
    assert [r["rates"] for r in reports] == [expected_rates()] * 2
    assert reports[0]["weights"] == reports[1]["weights"]
    assert sorted(reports[0]["samples"] + reports[1]["samples"]) == list(range(20 * 2 * 2 * 4))
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == [
        "step-00000010",
        "step-00000020",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
def test_r12_rates_on_two_launched_processes(train_two, accumulation):
    assert [r["rates"] for r in train_two(accumulation=accumulation)] == [expected_rates()] * 2
