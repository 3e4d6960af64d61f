"""Small pictures to try things out on: crops of up to ten CC0 images inside the package."""

import argparse
from pathlib import Path

from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.data import list_images

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("side", type=int, nargs="?", default=256, help="in pixels, default 256")
parser.add_argument("split", nargs="?", default="train", choices=["train", "validation"])
args = parser.parse_args()

args.folder.mkdir(parents=True, exist_ok=True)
for path in list_images(image_folder(args.split))[:10]:
    with Image.open(path) as image:
        left, top = (image.width - args.side) // 2, (image.height - args.side) // 2
        crop = image.convert("RGB").crop((left, top, left + args.side, top + args.side))
    crop.save(args.folder / f"{path.stem}.png")
