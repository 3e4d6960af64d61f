"""Made-up cells for tests of tables. Their numbers mean nothing and belong under no results/."""

from __future__ import annotations

import numpy as np

SETS = {"Set5": 5, "Set14": 14}
ROW_METHODS = {"i": "base", "iii": "everything", "v": "everything", "control": "control"}


def rows_of(method, gain, *, codec="webp", qualities=(10, 20), sets=SETS, noise=0.0, seed=0):
    """Score rows: image k of a set has 25 + k dB, plus 1 dB per quality step, plus the gain."""
    rows = []
    for name, count in sets.items():
        for step, quality in enumerate(qualities):
            draws = np.random.default_rng([seed, count, quality]).normal(0, 1, count)
            psnr = 25.0 + np.arange(count) + step + gain + noise * (draws - draws.mean())
            rows.append(
                {
                    "method": method,
                    "dataset": name,
                    "codec": codec,
                    "quality": quality,
                    "protocol": "y-c4",
                    "psnr_db": round(float(psnr.mean()), 4),
                    "ssim": 0.7,
                    "images": count,
                    "source": "",
                    "names": [f"{name}-{k}" for k in range(count)],
                    "psnr_db_images": [round(float(value), 4) for value in psnr],
                    "ssim_images": [round(0.7 + 0.01 * gain, 5)] * count,
                }
            )
    return rows


def cell(method="dpm", *, row="iv", seed=0, gain=0.0, also=None, noise=0.0, **more):
    """A finished cell; ``also`` is the change on other codecs that were measured too."""
    config = {
        "codec": "webp",
        "method": method,
        "base": "net-noprompt-v1" if row in {"ii", "iii"} else "net-v1",
        "base_kind": "prompt-free" if row in {"ii", "iii"} else "prompted",
        "protocol": row,
        "evaluate_on": "full",
        "learning_rate": 0.01,
        "seed": seed,
        "max_train_steps": 200,
        "train_batch_size": 2,
        "patch_size": 64,
        "train_data": "CID22+embedded",
        **more.pop("config", {}),
    }
    config.setdefault("cell", f"{config['base']}_{config['codec']}_{method}_{row}_seed{seed}")
    own = method if method in {"base", "bicubic"} else "tuned"
    rows = rows_of(own, gain, codec=config["codec"], noise=noise, seed=seed, **more)
    for codec, change in (also or {}).items():
        rows += rows_of(own, change, codec=codec, qualities=(1,), noise=noise / 10, seed=seed)
    return {
        "kind": "cell",
        "command": f"python recipes/run_experiments.py --only {config['cell']} --data DATA",
        "config": config,
        "environment": {"cpu": "made up", "cpu_cores": 2},
        "seconds": {"training": 60.0, "evaluation": 30.0},
        "parameters": {"trained": 100, "total": 1000, "bytes": 400},
        "scores": {"rows": rows, "validation_gain_db": round(gain / 2, 4)},
    }


def table_of_cells(seeds=(0, 1, 2), prompts="dpm", gains=None):
    """Rows i to v and the control."""
    gains = {"ii": 0.05, "iii": 0.20, "iv": 0.22, "v": 0.25, "control": 0.02} | (gains or {})
    cells = [cell("base", row="i")]
    cells += [
        cell(ROW_METHODS.get(row, prompts), row=row, seed=seed, gain=gain + seed / 1000, noise=0.05)
        for row, gain in gains.items()
        for seed in seeds
    ]
    return cells
