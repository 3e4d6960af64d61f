"""R1 without a process start per trial: ``kill_loop.py TRIALS ROOT`` prints one JSON list.

Each trial forks a training run that saves after every step, kills it by SIGKILL at a random time
and looks at what it left. The next trial resumes from that. Nothing is imported by the children
that the parent has not loaded, and the parent has no thread and no lock.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)


def child(root, resume, pipe):
    """Train until killed; every published step goes into the pipe."""
    os.dup2(pipe, 1)
    warnings.simplefilter("error")  # a damaged checkpoint is passed over with a warning: count it
    toy.run(
        toy.Options(
            root=str(root), steps=10**6, save_every=1, total_limit=1, resume=resume, width=64
        )
    )


def trial(root, resume, patience):
    read, write = os.pipe()
    number = os.fork()
    if number == 0:
        os.close(read)
        try:
            child(root, resume, write)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as lines:
        first = lines.readline().split()
        if first:  # empty if the child has failed
            time.sleep(patience)
            os.kill(number, signal.SIGKILL)
        said = [first, *(line.split() for line in lines.read().splitlines())]
    _, status = os.waitpid(number, 0)
    return {
        "first": int(first[1]) if first else None,
        "last": int(said[-1][1]) if first else None,
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "found": sorted(p.name for p in root.glob("step-*")),
        "leftovers": sorted(p.name for p in root.glob(".tmp-*")),
    }


def main():
    trials, root = int(sys.argv[1]), Path(sys.argv[2])
    random.seed(5)
    done = [
        trial(root, "latest" if index else "", random.uniform(0.0, 0.2))  # noqa: S311 - no secret
        for index in range(trials)
    ]
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main()
