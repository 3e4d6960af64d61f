"""What a codec costs and keeps on a set of images, really coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucip_adapt.codecs.base import Codec, code_image
from ucip_adapt.codecs.learned.ms_ssim import ms_ssim
from ucip_adapt.metrics import get_protocol, score
from ucip_adapt.metrics.functional import rgb_to_y

__all__ = ["CodecScore", "detail_kept", "score_codec"]

_LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class CodecScore:
    """Means over a set of images, at one quality.

    Attributes:
        quality: The codec's own knob.
        bpp: Bits per pixel of the whole streams.
        psnr_rgb: In dB, protocol rgb-c0.
        psnr_y: In dB, protocol y-c0.
        ms_ssim: Over three scales, on RGB.
        detail_kept: Energy of fine detail against the original's; see :func:`detail_kept`.
    """

    quality: int
    bpp: float
    psnr_rgb: float
    psnr_y: float
    ms_ssim: float
    detail_kept: float


def score_codec(
    codec: Codec, images: Sequence[NDArray[np.uint8]], qualities: Sequence[int]
) -> list[CodecScore]:
    """Code all images at all qualities.

    Args:
        codec: The codec.
        images: ``H x W x 3`` uint8, sides at least 44.
        qualities: Values of its own knob.

    Returns:
        One score per quality, in the order given.
    """
    scores = []
    for quality in qualities:
        rows = []
        for image in images:
            coded = code_image(codec, image, quality, name="")
            rgb, luma = (get_protocol(name) for name in ("rgb-c0", "y-c0"))
            similarity = ms_ssim(_levels(coded.pixels), _levels(image), data_range=255.0)
            rows.append(
                [
                    coded.bpp,
                    score(coded.pixels, image, rgb).psnr_db,
                    score(coded.pixels, image, luma).psnr_db,
                    similarity.item(),
                    detail_kept(coded.pixels, image),
                ]
            )
        means = [round(float(value), 5) for value in np.mean(rows, axis=0)]
        scores.append(CodecScore(quality, *means))
    return scores


def detail_kept(coded: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Energy of the luma's Laplacian against the original's.

    The mean square of ``4 p - up - down - left - right`` over the pixels inside the image, of the
    coded luma divided by that of the original's. 1 is as much fine detail as there was, whether or
    not it is in the right place; under 1 is blur; over 1 is noise, ringing or blocks. It looks at
    each picture alone and compares two numbers, not two pictures.

    Args:
        coded: ``H x W x 3`` uint8.
        original: The same.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        >>> detail_kept(noise, noise)
        1.0
    """
    kernel = torch.tensor(_LAPLACE, dtype=torch.float64)[None, None]
    energies = []
    for image in (coded, original):
        luma = rgb_to_y(_levels(image), data_range=255.0)
        energies.append(torch.nn.functional.conv2d(luma, kernel).square().mean().item())
    return energies[0] / energies[1] if energies[1] else float("nan")


def _levels(rgb: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].double()
