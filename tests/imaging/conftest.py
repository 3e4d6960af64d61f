"""A picture of every kind that people have, and the ones that must be refused."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms


def _png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def _pixels(channels, dtype=np.uint8, size=(11, 13)):
    top = np.iinfo(dtype).max
    return np.random.default_rng(3).integers(0, top, (*size, channels), dtype, endpoint=True)


def _rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    return _png(Image.fromarray(_pixels(3)), exif=exif)


def _transparent_colour():
    return _png(Image.fromarray(_pixels(3)), transparency=(1, 2, 3))


@pytest.fixture(scope="session")
def good():
    """name -> (content, mode after reading, size after reading, words of a note)."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = Image.fromarray(_pixels(3)).quantize(16)
    cmyk = Image.fromarray(_pixels(4), "CMYK")
    rgb, usual = Image.fromarray(_pixels(3)), (11, 13)
    return {
        "rgb": (_png(rgb), "RGB", usual, ""),
        "grey": (_png(Image.fromarray(_pixels(1)[..., 0])), "L", usual, ""),
        "grey+alpha": (_png(Image.fromarray(_pixels(2))), "LA", usual, ""),
        "rgba": (_png(Image.fromarray(_pixels(4))), "RGBA", usual, ""),
        "1 bit": (_png(Image.new("1", (13, 11), 1)), "L", usual, "1-bit"),
        "palette": (_png(palette), "RGB", usual, "palette"),
        "palette+alpha": (_png(palette, transparency=0), "RGBA", usual, "palette"),
        "transparent colour": (_transparent_colour(), "RGBA", usual, "transparent colour"),
        "cmyk": (_png(cmyk, format="JPEG"), "RGB", usual, "CMYK"),
        "16-bit grey": (_png(Image.fromarray(_pixels(1, np.uint16)[..., 0])), "L;16", usual, ""),
        "16-bit rgb": (bytes(imagecodecs.png_encode(_pixels(3, np.uint16))), "RGB;16", usual, ""),
        "16-bit rgba": (bytes(imagecodecs.png_encode(_pixels(4, np.uint16))), "RGBA;16", usual, ""),
        "16-bit tiff": (bytes(imagecodecs.tiff_encode(_pixels(3, np.uint16))), "RGB;16", usual, ""),
        "turned": (_rotated(), "RGB", (13, 11), ""),
        "profile": (_png(rgb, icc_profile=srgb), "RGB", usual, ""),
        "1x1": (_png(Image.new("RGB", (1, 1), (9, 8, 7))), "RGB", (1, 1), ""),
        "1x40": (_png(Image.fromarray(_pixels(3, size=(1, 40)))), "RGB", (1, 40), ""),
        "3x5": (_png(Image.fromarray(_pixels(3, size=(3, 5)))), "RGB", (3, 5), ""),
        "webp": (_png(rgb, format="WEBP", quality=20), "RGB", usual, ""),
        "avif": (_png(rgb, format="AVIF", quality=40), "RGB", usual, ""),
        "jpeg xl": (bytes(imagecodecs.jpegxl_encode(_pixels(3))), "RGB", usual, "not read"),
    }


@pytest.fixture(scope="session")
def bad(good):
    """name -> (content, words of the error)."""
    film = [Image.new("RGB", (8, 8), (i, i, i)) for i in (0, 90, 180)]
    whole = good["rgb"][0]
    return {
        "empty": (b"", "empty"),
        "truncated": (whole[: len(whole) // 2], "damaged"),
        "text": (b"these are words, not pixels", "no picture format"),
        "web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
        "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "LFS pointer"),
        "animation": (_png(film[0], save_all=True, append_images=film[1:]), "animation of 3"),
        "bomb": (_png(Image.new("1", (20000, 20000))), "the limit is"),
        "32-bit float": (_png(Image.new("F", (8, 8)), format="TIFF"), "32 bits"),
    }
