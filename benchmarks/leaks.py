"""How many planted copies the leak check finds, beside perceptual hashes of whole pictures.

    python benchmarks/leaks.py --data DATA --out results/benchmarks/leaks.json

Test pictures of Set14, BSD100 and Urban100 are changed in eight ways, with sizes, crops and
qualities drawn anew for each, and put among the pictures of CID22. The hash is imagehash's phash
(64 bits, of the picture and its mirror image), with the 10 bits that are usually allowed to differ.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageOps

from ucip_adapt.data import list_images, read_rgb
from ucip_adapt.leaks import find_leaks
from ucip_adapt.leaks.pictures import make_picture
from ucip_adapt.training.results import command_line, environment

WAYS = (
    "scale",
    "crop",
    "scale crop",
    "scale mirror",
    "crop mirror",
    "scale crop mirror jpeg",
    "scale frame",
    "scale crop frame jpeg",
)
HASH_BITS = 10


def change(image: Image.Image, way: str, rng: random.Random) -> Image.Image:
    """A copy: crop to 0.5 to 0.95 of each side, size 0.4 to 1, frame 0.05 to 0.2, JPEG 30 to 75."""
    if "crop" in way:
        part = rng.uniform(0.5, 0.9)
        width = int(image.width * part)
        height = int(image.height * rng.uniform(max(0.5, part - 0.1), min(0.95, part + 0.1)))
        left, top = rng.randrange(image.width - width + 1), rng.randrange(image.height - height + 1)
        image = image.crop((left, top, left + width, top + height))
    if "scale" in way:
        factor = rng.uniform(0.4, 1.0)
        size = (max(24, int(image.width * factor)), max(24, int(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if "frame" in way:
        colour = tuple(rng.randrange(256) for _ in range(3))
        image = ImageOps.expand(image, int(rng.uniform(0.05, 0.2) * min(image.size)), colour)
    if "mirror" in way:
        image = ImageOps.mirror(image)
    if "jpeg" in way:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.choice((30, 50, 75)))
        image = Image.open(buffer).convert("RGB")
    return image


def main() -> None:
    """Plant, search both ways, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=6, help="Take every so-manyth test picture.")
    arguments = parser.parse_args()
    rng = random.Random(0)  # noqa: S311 - no secret

    originals = {
        f"{name}/{path.stem}": Image.fromarray(read_rgb(path))
        for name in ("Set14", "BSD100", "Urban100")
        for path in list_images(arguments.data / name / "HR")[:: arguments.every]
    }
    planted = {
        (way, name): change(image, way, rng) for name, image in originals.items() for way in WAYS
    }
    others = {
        path.stem: Image.fromarray(read_rgb(path))
        for path in list_images(arguments.data / "train/CID22")
    }
    test = [make_picture(name, np.array(image)) for name, image in originals.items()]
    train = [make_picture("|".join(key), np.array(image)) for key, image in planted.items()]
    train += [make_picture(f"|{name}", np.array(image)) for name, image in others.items()]
    started = time.process_time()
    report = find_leaks(train, test, progress=True)
    seconds = time.process_time() - started
    ours = {(leak.train, leak.test) for leak in report.leaks}
    hashes = hash_pairs(
        {
            **{"|".join(key): image for key, image in planted.items()},
            **{f"|{n}": i for n, i in others.items()},
        },
        originals,
    )
    result = {
        "format_version": "1.0",
        "kind": "benchmark_leaks",
        "command": command_line(),
        "environment": environment(),
        "cpu_seconds": {"search": round(seconds, 1)},
        "pictures": {"test": len(test), "planted": len(planted), "others": len(others)},
        "found": {
            "leaks": score(ours, list(planted)),
            "phash": score(hashes, list(planted)),
        },
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["found"], indent=2))


def hash_pairs(train: dict[str, Image.Image], test: dict[str, Image.Image]) -> set[tuple[str, str]]:
    """Pairs whose whole pictures have nearly equal hashes."""
    theirs = {name: imagehash.phash(image) for name, image in train.items()}
    found = set()
    for name, image in test.items():
        for seen in (imagehash.phash(image), imagehash.phash(ImageOps.mirror(image))):
            found |= {(other, name) for other, its in theirs.items() if its - seen <= HASH_BITS}
    return found


def score(found: set[tuple[str, str]], planted: list[tuple[str, str]]) -> dict[str, object]:
    """Recall by way, and the number of pairs that are none."""
    true = {("|".join(key), key[1]) for key in planted}
    recall = {
        way: round(
            sum(("|".join(key), key[1]) in found for key in planted if key[0] == way)
            / sum(key[0] == way for key in planted),
            3,
        )
        for way in WAYS
    }
    false = sorted(found - true)
    return {"recall": recall, "false_pairs": len(false), "first_false": false[:5]}


if __name__ == "__main__":
    main()
