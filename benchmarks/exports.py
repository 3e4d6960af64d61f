"""The shipped base and an adapter through torch.compile, torch.export and ONNX, beside eager.

    python benchmarks/exports.py --out results/benchmarks/exports.json

Each form is made once, for any size of image; then all take turns with eager PyTorch. ONNX needs
packages that the project does not otherwise use (``pip install onnx onnxruntime onnxscript``);
where they are absent its rows say so. A form that cannot be made is a row with the first line of
its error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from common import Case, importable, parser, summary, take_turns, write
from peft import PeftModel
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import ucip_adapt

BASE = "ucip-tiny-v3"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18

Network = Callable[[Tensor], Tensor]


class AbsentError(Exception):
    """A package that a form needs is not installed."""


def image(side: int) -> Tensor:
    """A random square image."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def compiled(network: nn.Module) -> Network:
    """torch.compile with Inductor; the code is written at the first call."""
    made: Network = torch.compile(network, dynamic=True)
    return made


def program_of(network: nn.Module) -> ExportedProgram:
    """The network's graph, height and width left open."""
    sides = {2: Dim("height", min=2), 3: Dim("width", min=2)}
    lq = torch.rand(1, 3, 16, 20)
    return torch.export.export(network, (lq,), dynamic_shapes={"lq": sides})


def exported(network: nn.Module) -> Network:
    """torch.export, run as a module."""
    made: Network = program_of(network).module()
    return made


def onnx(network: nn.Module) -> Network:
    """ONNX, run by onnxruntime on as many threads as PyTorch."""
    missing = [name for name in ONNX_PACKAGES if not importable(name)]
    if missing:
        raise AbsentError(f"not installed: pip install {' '.join(missing)}")
    import onnxruntime

    program = torch.onnx.export(program_of(network), dynamo=True, opset_version=OPSET)
    if program is None:
        raise RuntimeError("the exporter gave no program")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        program.save(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(lq: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: lq.numpy()})[0])

    return run


FORMS: dict[str, Callable[[nn.Module], Network]] = {
    "torch.compile": compiled,
    "torch.export": exported,
    "ONNX": onnx,
}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Interrupt what takes longer, where the system has an alarm."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cpu_seconds() -> float:
    """CPU time of this process and of the C++ compilers that it started."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def make(
    form: str, network: nn.Module, sides: list[int], limit_s: int
) -> tuple[Network | None, dict[str, Any]]:
    """Make a form and run it once at each size: how long that took, or why it cannot be done."""
    clock, cpu = time.perf_counter(), cpu_seconds()
    try:
        with at_most(limit_s):
            made = FORMS[form](network)
            for side in sides:
                made(image(side))
    except AbsentError as error:
        return None, {"skipped": str(error)}
    except Exception as error:  # whatever a compiler or an exporter raises is the result
        first = (str(error).strip().splitlines() or [""])[0]
        return None, {"failed": f"{type(error).__name__}: {first}"}
    return made, {
        "ready_cpu_seconds": round(cpu_seconds() - cpu, 1),
        "ready_clock_seconds": round(time.perf_counter() - clock, 1),
    }


def time_forms(forms: dict[str, Network], side: int, rounds: int) -> dict[str, dict[str, Any]]:
    """CPU seconds per image and the largest difference to eager, by form."""
    lq = image(side)
    outputs = {name: form(lq) for name, form in forms.items()}
    cases: dict[str, Case] = {name: partial(form, lq) for name, form in forms.items()}
    seconds = take_turns(cases, rounds)
    return {
        name: {
            **summary(seconds[name], seconds["eager"]),
            "max_difference": float((outputs[name] - outputs["eager"]).abs().max()),
        }
        for name in forms
    }


def network_of(adapter: str) -> nn.Module:
    """The base, with an adapter unless that is ``none``."""
    network = ucip_adapt.load(None if adapter == "none" else adapter, base=BASE).network
    if isinstance(network, PeftModel):
        # The layers of the adapter are inside; PEFT's own wrapper hides the argument's name.
        network = network.get_base_model()
    return network.eval().requires_grad_(False)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All forms of all networks."""
    scores: dict[str, Any] = {}
    for adapter in options.adapters:
        network = network_of(adapter)
        forms: dict[str, Network] = {"eager": network}
        rows: dict[str, dict[str, Any]] = {"eager": {}}
        with torch.no_grad():
            for form in options.forms:
                made, rows[form] = make(form, network, options.sides, options.limit_s)
                sys.stdout.write(f"{adapter} {form} {rows[form]}\n")
                sys.stdout.flush()
                if made is not None:
                    forms[form] = made
            for side in options.sides:
                for form, found in time_forms(forms, side, options.rounds).items():
                    rows[form].setdefault("sides", {})[str(side)] = found
        scores[BASE if adapter == "none" else f"{BASE} + {adapter}"] = rows
    return scores


def main() -> None:
    """Measure and write."""
    options_of = parser(__doc__, "exports.json")
    options_of.add_argument("--sides", nargs="+", type=int, default=[64, 128])
    options_of.add_argument(
        "--adapters", nargs="*", default=["none", "webp"], help="shipped adapters; none is the base"
    )
    options_of.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options_of.add_argument("--limit_s", type=int, default=900, help="longest time for one form")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        # An empty cache, so that a compiler's first call is one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        scores = measure(options)
    versions = {n: metadata.version(n) for n in ONNX_PACKAGES if importable(n)}
    write(options, {"networks": scores, "onnx_versions": versions})


if __name__ == "__main__":
    main()
