"""A codec that is a program: PNG with a small palette.

python few_colours.py COLOURS IN OUT
"""

import sys

from PIL import Image

colours, source, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with Image.open(source) as image:
    image.quantize(colours, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
