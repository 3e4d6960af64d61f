"""Every codec that works here, at every setting of its suite: rate, fidelity and time.

    UCIP_DATA=... python benchmarks/codecs.py --out results/codecs_set14.json
    python docs/make_tables.py   # fills the table in docs/codecs.md

The stored low-resolution images of Set14 are coded and decoded. HM and VTM are read from the true
streams beside the data where no encoder is here; nobody timed the encoder then.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from ucip_adapt.codecs import CODECS, Codec
from ucip_adapt.codecs.streams import REFERENCE, StoredCodec, use_streams
from ucip_adapt.data import Setting, load_eval_set
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.errors import DataError
from ucip_adapt.evaluation import source_of
from ucip_adapt.metrics import get_protocol, score
from ucip_adapt.training.results import command_line, environment, write_results

PROTOCOLS = ("y-c0", "rgb-c0")


def measure(
    codec: Codec, images: Sequence[np.ndarray], quality: int, repeats: int
) -> dict[str, Any]:
    """Means over the images; times are those of the quickest of some runs.

    On a busy machine the CPU time of the round trip (colours, encoder, decoder) is steadier than
    the wall time of the encoder.
    """
    rates, seconds, cpu_seconds = [], [], []
    psnrs: dict[str, list[float]] = {name: [] for name in PROTOCOLS}
    timed = not isinstance(codec, StoredCodec)
    for image in images:
        runs, spent = [], []
        for _ in range(repeats if timed else 1):
            start = cpu_time()
            runs.append(codec.roundtrip(image, quality))
            spent.append(cpu_time() - start)
        for name, values in psnrs.items():
            values.append(score(runs[0].pixels, image, get_protocol(name)).psnr_db)
        rates.append(runs[0].bpp)
        if timed:
            seconds.append(min(run.seconds for run in runs if run.seconds is not None))
            cpu_seconds.append(min(spent))
    return {
        "bpp": round(fmean(rates), 4),
        **{f"psnr_db {name}": round(fmean(values), 3) for name, values in psnrs.items()},
        "encode_seconds": round(fmean(seconds), 5) if seconds else None,
        "roundtrip_cpu_seconds": round(fmean(cpu_seconds), 5) if cpu_seconds else None,
        "images": len(images),
    }


def cpu_time() -> float:
    """CPU seconds of this process and of the programs that it ran."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def main() -> None:
    """Measure all and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codecs", nargs="+", default=list(CODECS))
    parser.add_argument("--set", default="Set14", help="set whose stored LRbicx4 is coded")
    parser.add_argument("--limit", type=int, default=None, help="only the first images")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each image")
    parser.add_argument("--out", type=Path, default=Path("results/codecs_set14.json"))
    options = parser.parse_args()
    root = data_root()
    loaded = load_eval_set(options.set, root, limit=options.limit)
    if loaded.lr_source != "stored":
        raise DataError(f"{options.set} has no stored LRbicx4: the rates would be of other images")
    images = [image.lr for image in loaded.images]
    use_streams([name for name, codec in REFERENCE.items() if not codec.available().ok], root)
    rows, fingerprints, missing = [], {}, {}
    for name in tqdm(options.codecs):
        spec, state = CODECS[name].spec, CODECS[name].available()
        if not state.ok:
            missing[name] = state.reason
            continue
        for quality in spec.qualities:
            codec, source = source_of(loaded, Setting(name, quality))
            row = {"codec": name, "family": spec.family, "parameter": spec.parameter}
            row |= {"quality": quality, "source": source or state.version}
            if codec is None:
                missing[name] = source
                break
            rows.append({**row, **measure(codec, images, quality, options.repeats)})
            fingerprints[name] = codec.fingerprint()
    write_results(
        options.out,
        {
            "kind": "codecs",
            "command": command_line(),
            "config": {
                "set": options.set,
                "lr": loaded.lr_source,
                "images": len(images),
                "repeats": options.repeats,
            },
            "environment": environment(),
            "scores": {"rows": rows, "fingerprints": fingerprints, "missing": missing},
        },
    )


if __name__ == "__main__":
    main()
