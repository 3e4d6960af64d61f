"""What an adapter for GIF does to GIFs that other programs make, and to drawings.

    python benchmarks/gif_variants.py --out results/gif_variants.json

The adapter is trained on photographs and one way of choosing colours, and a file says neither which
way was taken nor what it shows. Seven embedded pictures, and seven drawings of flat shapes, are
made GIFs in other ways, enlarged with the base and with the adapter, and compared with the
original.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from common import write
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

import ucip_adapt
from ucip_adapt.codecs.gif import GIF
from ucip_adapt.data import bicubic_down4, load_eval_set
from ucip_adapt.metrics import get_protocol, score

Pixels = NDArray[np.uint8]
_SIDE = 512
_SHAPES = 12
_CUT, _OCTREE = Image.Quantize.MEDIANCUT, Image.Quantize.FASTOCTREE
_NO, _DIFFUSED = Image.Dither.NONE, Image.Dither.FLOYDSTEINBERG


def indexed(rgb: Pixels, colours: int, method: Image.Quantize, dither: Image.Dither) -> Pixels:
    """A picture with a palette of its own."""
    picture = Image.fromarray(rgb)
    palette = picture.quantize(colours, method)
    return np.array(picture.quantize(palette=palette, dither=dither).convert("RGB"))


def web(rgb: Pixels) -> Pixels:
    """The 216 colours that early browsers showed everywhere, dithered."""
    picture = Image.fromarray(rgb).convert("P", dither=_DIFFUSED, palette=Image.Palette.WEB)
    return np.array(picture.convert("RGB"))


WAYS: dict[str, Callable[[Pixels], Pixels]] = {
    "as trained, 64 colours": lambda rgb: GIF.roundtrip(rgb, 64).pixels,
    "as trained, 256 colours": lambda rgb: GIF.roundtrip(rgb, 256).pixels,
    "as trained, 4 colours": lambda rgb: GIF.roundtrip(rgb, 4).pixels,
    "octree, dither, 64 colours": lambda rgb: indexed(rgb, 64, _OCTREE, _DIFFUSED),
    "no dither, 64 colours": lambda rgb: indexed(rgb, 64, _CUT, _NO),
    "no dither, 256 colours": lambda rgb: indexed(rgb, 256, _CUT, _NO),
    "the web's 216 colours, dither": web,
}


def drawing(seed: int) -> Pixels:
    """Flat shapes with smooth edges: drawn at four times the size, then reduced."""
    random = np.random.default_rng(seed)
    big = Image.new("RGB", (4 * _SIDE, 4 * _SIDE), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(big)
    for index in range(_SHAPES):
        colour = tuple(random.integers(0, 256, 3).tolist())
        corners = random.integers(0, 4 * _SIDE, (3 + index % 3, 2))
        if index % 2:
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
        else:
            (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
            draw.ellipse((left, top, right, bottom), fill=colour, outline=0, width=16)
    return np.array(big.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def pictures() -> Iterator[tuple[str, Pixels, Pixels]]:
    """Kind, original and its reduced version."""
    for image in load_eval_set("GB82-val", None).images:
        yield "photographs", image.gt, image.lr
    for seed in range(7):
        gt = drawing(seed)
        yield "drawings", gt, bicubic_down4(gt, edge="symmetric")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", default="gif-photo", help="name or folder")
    parser.add_argument("--out", type=Path, default=Path("results/gif_variants.json"))
    options = parser.parse_args()
    adapted = ucip_adapt.load(options.adapter)
    base = ucip_adapt.load(base=adapted.base)
    protocol = get_protocol("y-c4")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for kind, gt, lr in tqdm(list(pictures()), unit="picture"):
        for way, make in WAYS.items():
            lq = make(np.ascontiguousarray(lr))
            pair = [score(model.upscale(lq), gt, protocol).psnr_db for model in (base, adapted)]
            found.setdefault((kind, way), []).append((pair[0], pair[1]))
    rows: list[dict[str, Any]] = []
    for (kind, way), pairs in found.items():
        gains = [after - before for before, after in pairs]
        rows.append(
            {
                "pictures": kind,
                "way": way,
                "count": len(pairs),
                "base_psnr_db": round(fmean(before for before, _ in pairs), 4),
                "gain_db": round(fmean(gains), 4),
                "least_db": round(min(gains), 4),
                "worse": sum(gain < 0 for gain in gains),
            }
        )
    write(options, {"rows": rows, "base": adapted.base})


if __name__ == "__main__":
    main()
