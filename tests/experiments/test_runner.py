"""The runner with recipes that only pretend: order, stopping, going on, failing, two at once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ucip_adapt.config import run_recipe
from ucip_adapt.experiments import runner
from ucip_adapt.experiments.runner import Runner
from ucip_adapt.training.results import read_results

ROOT = Path(__file__).resolve().parents[2]

# Stands for every recipe. It understands no option; the file `script.json` beside it says what is
# to happen: {"<word in its output folder>": {"gain": .., "fail": .., "slow": ..}}. A slow training
# stops at SIGTERM with a checkpoint and is done when it is started again from there.
FAKE = """
import json, pathlib, signal, sys, time
argv, here = sys.argv, pathlib.Path(__file__).parent
out = pathlib.Path(argv[argv.index("--output_dir") + 1])
told = {}
for word, values in json.loads((here / "script.json").read_text()).items():
    told |= values if word in str(out) else {}
def note(what):
    with open(here / "calls.jsonl", "a") as file:
        file.write(json.dumps([what, str(out), time.monotonic(), argv[1:]]) + "\\n")
note("start")
out.mkdir(parents=True, exist_ok=True)
if told.get("fail"):
    print("error:", told["fail"])
    sys.exit(2)
resumed = "--resume_from_checkpoint" in argv
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
(here / "ready").touch()
for _ in range(0 if resumed else told.get("slow", 0)):
    time.sleep(0.05)
    if stop:
        if out.name == "training":
            (out / "checkpoints" / "step-000002").mkdir(parents=True)
        sys.exit(0)
def flag(name):
    return argv[argv.index(name) + 1]
def rows(methods, codec, datasets):
    return [{"method": m, "dataset": d, "codec": codec, "quality": 10, "protocol": "y-c4",
             "psnr_db": 20.0 + (m not in ("base", "bicubic")) * told.get("gain", 0.25),
             "ssim": 0.5, "images": 1, "source": "", "names": ["x"]}
            for m in methods for d in datasets]
if out.name == "training":
    (out / "adapter_model.safetensors").write_bytes(str(out).encode())
    scored = rows(["bicubic", "base", "adapter"], flag("--codec"), ["GB82-val"])
else:
    sets = argv[argv.index("--evaluate_on") + 1:argv.index("--metric_protocols")]
    one = "tuned" if "--skip_base" in argv else flag("--baselines")
    scored = rows([one], flag("--codec"), sets)
record = {"format_version": "1.0", "kind": "fake", "environment": {"system": "test"},
          "seconds": {"training": 3.0, "evaluation": 2.0}, "peak_memory_mib": 100.0,
          "parameters": {"trained": 7, "total": 1000,
                         "base_fingerprint": told.get("base", "a" * 64)},
          "scores": {"rows": scored}}
(out / "results.json").write_text(json.dumps(record))
note("end")
"""

TEXT = """
[defaults]
base = "tiny"
codec = "webp"

[groups.table]
priority = 20
evaluate_on = "short"
also_measure = ["jpeg"]
matrix = [{ method = ["bicubic", "base", "dpm"] }]

[groups.rates]
priority = 10
evaluate_on = "validation"
method = "dpm"
max_train_steps = 100
learning_rate = [1e-2, 3e-2]
"""
LOW = "tiny_webp_dpm_validation_rate-0.01_100-steps_seed0"
HIGH = "tiny_webp_dpm_validation_rate-0.03_100-steps_seed0"
DPM = "tiny_webp_dpm_short_also-jpeg_seed0"
BASE = "tiny_webp_base_short_also-jpeg"
BICUBIC = "webp_bicubic_short_also-jpeg"


class Stage:
    """Fake recipes, a ledger of five cells, and what happened."""

    def __init__(self, folder: Path, ledger_of) -> None:
        self.recipes = folder / "recipes"
        self.recipes.mkdir()
        for name in ("tune_prompts.py", "evaluate.py"):
            (self.recipes / name).write_text(FAKE)
        self.runs = folder / "runs"
        self.ledger = ledger_of(TEXT, folder / "cells")
        self.lines: list[str] = []
        self.script()

    def script(self, **words: dict) -> None:
        (self.recipes / "script.json").write_text(json.dumps(words))

    def runner(self, **options) -> Runner:
        return Runner(self.ledger, self.recipes, self.runs, say=self.lines.append, **options)

    def calls(self, what: str = "start") -> list[tuple[str, float, list[str]]]:
        file = self.recipes / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        read = [json.loads(line) for line in lines]
        return [(str(Path(out).relative_to(self.runs)), at, argv) for kind, out, at, argv in read
                if kind == what]  # fmt: skip

    def made(self) -> list[str]:
        return [place for place, _, _ in self.calls()]

    def cells(self) -> set[str]:
        return {path.name.removesuffix(".json") for path in self.ledger.folder.glob("*")}

    def when_ready(self, action) -> threading.Thread:
        """Do something as soon as a recipe runs."""

        def watch() -> None:
            while not (self.recipes / "ready").exists():
                time.sleep(0.01)
            action()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


@pytest.fixture
def stage(tmp_path, ledger_of) -> Stage:
    return Stage(tmp_path, ledger_of)


def test_all_cells_are_made_once_and_in_order(stage) -> None:
    stage.script(**{"rate-0.01": {"gain": 0.125}, "rate-0.03": {"gain": 0.5}})
    report = stage.runner().run()
    assert report.finished == [LOW, HIGH, BICUBIC, BASE, DPM]
    assert stage.made() == [
        f"{LOW}/training",
        f"{HIGH}/training",
        *(
            f"{cell}/{part}"
            for cell in (BICUBIC, BASE, DPM)
            for part in (
                *(("training",) if cell == DPM else ()),
                *("evaluation-webp-1", "evaluation-webp-2", "evaluation-jpeg-1"),
            )
        ),
    ]
    again = stage.runner().run()
    assert (again.finished, again.failed, len(stage.made())) == ([], {}, 12)
    (stage.ledger.path(stage.ledger.cells()[BASE])).unlink()
    assert stage.runner().run().finished == [BASE]
    assert len(stage.made()) == 12, "its parts are still there"


def test_what_a_finished_cell_holds(stage) -> None:
    stage.script(**{"rate-0.01": {"gain": 0.5}, "rate-0.03": {"gain": 0.125}})
    stage.runner().run()
    record = read_results(stage.ledger.folder / f"{DPM}.json")
    assert record["kind"] == "cell"
    assert record["command"] == f"python recipes/run_experiments.py --only {DPM} --data DATA"
    assert record["seconds"] == {"training": 3.0, "evaluation": 2.0 * 4}
    assert record["parameters"] == {
        "trained": 7,
        "total": 1000,
        "bytes": len(str(stage.runs / DPM / "training")),
        "base_fingerprint": "a" * 64,
    }
    content = str(stage.runs / DPM / "training").encode()
    assert record["files"]["adapter_model.safetensors"] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert record["scores"]["validation_gain_db"] == 0.25
    assert [(row["method"], row["codec"], row["dataset"]) for row in record["scores"]["rows"]] == [
        *(("tuned", "webp", name) for name in ("Set5", "Set14", "BSD100/every4")),
        ("tuned", "webp", "Urban100/subset25"),
        *(("tuned", "jpeg", name) for name in ("Set5", "Set14")),
    ]
    expected = {
        "cell": DPM,
        "groups": ["table"],
        "base": "tiny",
        "base_kind": "prompted",
        "codec": "webp",
        "qualities": [10],
        "method": "dpm",
        "protocol": "iv",
        "trainable": "dpm",
        "trainable_blocks": "all",
        "peft_method": "prompts",
        "learning_rate": 0.01,
        "seed": 0,
        "train_data": "CID22+embedded",
        "evaluate_on": "short",
        "also_measure": ["jpeg"],
    }
    assert {key: record["config"][key] for key in expected} == expected
    told = next(argv for place, _, argv in stage.calls() if place == f"{DPM}/training")
    assert told[told.index("--learning_rate") + 1] == "0.01", "the better of the two tried"
    base = read_results(stage.ledger.folder / f"{BASE}.json")
    assert {row["method"] for row in base["scores"]["rows"]} == {"base"}
    assert (base["config"]["protocol"], base["config"]["learning_rate"]) == ("i", None)
    assert base["parameters"] | {"total": 0} == {
        "trained": 0,
        "total": 0,
        "bytes": 0,
        "base_fingerprint": "a" * 64,
    }
    trial = read_results(stage.ledger.folder / f"{LOW}.json")
    assert trial["scores"]["validation_gain_db"] == 0.5
    assert [row["dataset"] for row in trial["scores"]["rows"]] == ["GB82-val"]


def test_one_that_fails_does_not_stop_the_others(stage) -> None:
    stage.script(
        **{"rate-0.03": {"fail": "no such image"}, BASE + "/evaluation-jpeg": {"fail": "x"}}
    )
    report = stage.runner().run()
    assert report.finished == [LOW, BICUBIC]
    assert set(report.failed) == {HIGH, BASE}
    log = stage.runs / HIGH / "training.log"
    assert report.failed[HIGH] == f"training: no such image; see {log}"
    assert "no such image" in log.read_text()
    assert stage.cells() == {LOW, BICUBIC}
    stage.script()
    assert stage.runner().run().finished == [HIGH, BASE, DPM]
    assert stage.made().count(f"{BASE}/evaluation-webp-1") == 1, "its parts are kept"


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "budget"])
def test_a_stop_leaves_a_checkpoint_and_nothing_half_written(stage, how) -> None:
    stage.script(training={"slow": 400})
    if how != "budget":
        number = getattr(signal, how)
        thread = stage.when_ready(lambda: os.kill(os.getpid(), number))
    report = stage.runner().run(budget_seconds=1.5 if how == "budget" else None)
    if how != "budget":
        thread.join()
    assert (report.stopped, report.finished, report.failed) == ([LOW], [], {})
    assert stage.cells() == set()
    assert stage.calls("end") == []
    stage.script()
    assert len(stage.runner().run().finished) == 5
    first, second = (argv for place, _, argv in stage.calls() if place == f"{LOW}/training")
    assert second == [*first, "--resume_from_checkpoint", "latest"]
    assert not (stage.runs / LOW / "training" / "checkpoints").exists()


def test_one_that_died_before_its_first_checkpoint_starts_afresh(stage) -> None:
    checkpoints = stage.runs / LOW / "training" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / ".lock").touch()
    (checkpoints / ".tmp-step-000002").mkdir()
    assert len(stage.runner().run().finished) == 5
    [argv] = [argv for place, _, argv in stage.calls() if place == f"{LOW}/training"]
    assert "--resume_from_checkpoint" not in argv


def test_a_stopped_evaluation_goes_on_with_its_piece(stage) -> None:
    stage.script(**{f"{BASE}/evaluation-webp-2": {"slow": 400}})
    report = stage.runner().run(budget_seconds=None, only=(BICUBIC,))
    (stage.recipes / "ready").unlink()
    done = stage.runs / BASE / "evaluation-webp-1" / "results.json"

    def stop() -> None:
        while not done.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = stage.when_ready(stop)
    report = stage.runner().run(only=(BASE,))
    thread.join()
    assert report.stopped == [BASE]
    stage.script()
    assert stage.runner().run(only=(BASE,)).finished == [BASE]
    assert [place.partition("/")[2] for place in stage.made() if place.startswith(BASE)] == [
        *("evaluation-webp-1", "evaluation-webp-2", "evaluation-webp-2", "evaluation-jpeg-1")
    ]


def test_jobs_are_the_cells_at_the_same_time(stage) -> None:
    stage.script(training={"slow": 20})

    def together() -> int:
        (stage.recipes / "calls.jsonl").unlink(missing_ok=True)
        stage.runner(jobs=jobs).run(only=(LOW, HIGH))
        starts, ends = ({p: at for p, at, _ in stage.calls(k)} for k in ("start", "end"))
        (one, two) = sorted(starts, key=starts.__getitem__)
        return 2 if starts[two] < ends[one] else 1

    for jobs in (1, 2):
        assert together() == jobs
        for name in (LOW, HIGH):
            (stage.ledger.folder / f"{name}.json").unlink()
            (stage.runs / name / "training" / "results.json").unlink()


HOLD = """
import fcntl, sys, time
handle = open(sys.argv[1], "ab")
fcntl.lockf(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="the other process locks as POSIX systems do")
def test_a_cell_of_another_runner_is_left_to_it(stage) -> None:
    (stage.runs / LOW).mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(stage.runs / LOW / ".lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    report = stage.runner().run()
    other.communicate("")
    assert (report.busy, report.finished) == ([LOW], [HIGH, BICUBIC, BASE])
    assert LOW not in "".join(stage.made())
    assert stage.runner().run().finished == [LOW, DPM]


def test_a_cell_that_another_runner_finishes_meanwhile_is_not_made_again(
    stage, monkeypatch
) -> None:
    """Between the look at the ledger and the claim of its folder."""
    claim = runner.lock_folder

    def late(folder: Path, owner: object) -> None:
        monkeypatch.setattr(runner, "lock_folder", claim)
        stage.runner().run(only=(BASE,))
        stage.lines.append("-- claimed")
        claim(folder, owner)

    monkeypatch.setattr(runner, "lock_folder", late)
    assert stage.runner().run(only=(BASE,)).finished == [BASE]
    after = stage.lines[stage.lines.index("-- claimed") + 1 :]
    assert after == [f"finished  {BASE}: by another runner"]


def test_parts_made_on_another_base_are_not_used(stage) -> None:
    stage.script(**{"evaluation-jpeg": {"fail": "x"}})
    stage.runner().run(only=(BASE,))
    marker = stage.runs / BASE / "cell.json"
    other = marker.read_text().replace("a" * 64, "c" * 64)
    marker.write_text(other)
    stage.script()
    assert stage.runner().run(only=(BASE,)).finished == [BASE]
    assert stage.made().count(f"{BASE}/evaluation-webp-1") == 2
    stage.script(**{LOW: {"base": "c" * 64}})
    report = stage.runner().run(only=(LOW,))
    assert re.search(r"a part was made on another tiny; remove its folder", report.failed[LOW])
    assert stage.cells() == {BASE}


def test_cells_that_only_measure_otherwise_share_a_training(tmp_path, ledger_of) -> None:
    """One training for three cells; another seed has its own, and so has another rate."""
    text = """
[groups.g]
base = "tiny"
codec = "webp"
method = "dpm"
learning_rate = 1e-2
matrix = [
    { evaluate_on = ["small", "short"], seed = [0, 1] },
    { evaluate_on = "small", also_measure = ["jpeg"] },
    { evaluate_on = "short", learning_rate = 3e-2 },
]
"""
    stage = Stage(tmp_path, ledger_of)
    stage.ledger = ledger_of(text, tmp_path / "cells")
    report = stage.runner().run()
    assert (len(report.finished), report.failed) == (6, {})
    trained = [place for place in stage.made() if place.endswith("/training")]
    assert len(trained) == 3, "two seeds at one rate, and another rate"
    # The fake's weights hold the folder that they were made in.
    makers = {
        hashlib.sha256(str(stage.runs / place).encode()).hexdigest(): place for place in trained
    }
    for cell in stage.cells():
        files = read_results(stage.ledger.folder / f"{cell}.json")["files"]
        maker = makers[files["adapter_model.safetensors"]["sha256"]].removesuffix("/training")
        assert cell[cell.index("_rate-") :] == maker[maker.index("_rate-") :], "rate and seed"
    assert sum("takes     the training of " in line for line in stage.lines) == 3


def test_the_command_lists_and_says_what_failed(stage, tmp_path, capsys, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location(
        "ucip_test_run_experiments", ROOT / "recipes" / "run_experiments.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECIPES", stage.recipes)
    monkeypatch.setattr(module, "Ledger", lambda *_: stage.ledger)
    (tmp_path / "e.toml").write_text(TEXT)
    flags = [f"--experiments={tmp_path / 'e.toml'}", f"--runs_dir={stage.runs}"]

    def call(*more: str) -> tuple[int, str, str]:
        codes: list[int] = []
        code = run_recipe(
            lambda cfg: codes.append(module.main(cfg)),
            module.Options,
            description="",
            argv=[*flags, *more],
        )
        return code + sum(codes), *capsys.readouterr()

    code, out, _ = call("--list")
    assert (code, stage.made()) == (0, [])
    assert out.splitlines()[0] == "table: 0 of 3 cells"
    stage.script(**{"rate-0.03": {"fail": "no such image"}})
    code, out, _ = call("--budget", "1h")
    assert code == 3
    assert "made 3, failed 1, stopped 0; 3 of 5 cells finished" in out
    assert "waiting   1 cells: waits for 1 of 2 cells that try its rate" in out
    assert f"failed    {HIGH}: training: no such image; see " in out
    stage.script()
    assert call()[0] == 0
    code, _, err = call("--budget", "soon")
    assert (code, err) == (2, "error: 'soon' is not a time: write 90m, 2h30m or 45s\n")
    assert call("--only", "tiny")[0] == 2
