"""R26 without a process start per trial: ``kill_loop.py TRIALS SEED HR SUITE OUT`` prints JSON.

Each trial forks a build and kills it by SIGKILL after a random number of shards, at a random moment
within the next one; the last one runs to its end. Printed: for each kill, the shards that were
finished, with the inode and time of each file.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401 - so that no child has to load it

from ucip_adapt.data.images import image_names
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.suites.build import build_suite
from ucip_adapt.suites.engines import open_engine
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.suites.records import Layout


def build(hr, suite, out):
    plan = BuildPlan.make(fill_suite(load_suite(suite)), image_names(hr), images_per_shard=2)
    with open_engine(workers=0) as engine:
        return build_suite(plan, hr, out, engine)


def finished(out):
    """Inode and time of each shard that has a record."""
    layout, found = Layout(out), {}
    for record in (out / ".build" / "done").rglob("*.json"):
        if record.name.startswith("."):
            continue
        name = record.relative_to(out / ".build" / "done").with_suffix("").as_posix()
        status = layout.shard(name).stat()
        found[name] = [status.st_ino, status.st_mtime_ns]
    return found


def trial(hr, suite, out, more, delay):
    before = len(finished(out)) if out.exists() else 0
    number = os.fork()
    if number == 0:
        try:
            build(hr, suite, out)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    done = out / ".build" / "done"
    while time.monotonic() < deadline:
        if len(list(done.rglob("[!.]*.json"))) >= before + more:
            break
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return {"killed": os.WIFSIGNALED(status), "finished": finished(out)}


def main(trials, seed, hr, suite, out):
    draw = random.Random(int(seed))  # noqa: S311 - times of kills
    hr, suite, out = Path(hr), Path(suite), Path(out)
    kills = [
        trial(hr, suite, out, draw.randint(0, 2), draw.uniform(0, 0.02)) for _ in range(int(trials))
    ]
    left = len(list((out / ".build").rglob("unfinished/*.parquet")))
    report = build(hr, suite, out)
    found = {"kills": kills, "left": left, "made": report.made, "end": finished(out)}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
