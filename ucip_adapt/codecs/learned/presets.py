"""The four codecs as data: what each network looks like and what it is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ucip_adapt.codecs.learned.network import NetworkConfig
from ucip_adapt.errors import unknown_name

__all__ = ["PRESETS", "Distortion", "Preset", "get_preset"]

Distortion = Literal["mse", "ms-ssim"]


@dataclass(frozen=True)
class Preset:
    """One codec before training.

    Attributes:
        config: Its network.
        distortion: What is weighed against the rate.
        weights: Weight of the distortion at each rate, rising: of the squared error in 8-bit
            levels, or of ``1 - MS-SSIM``.
        adversarial: Weight of the discriminator's opinion; 0 for none.
    """

    config: NetworkConfig
    distortion: Distortion
    weights: tuple[float, ...]
    adversarial: float = 0.0


PRESETS = {
    "tiny-mse": Preset(NetworkConfig("hyperprior", 4), "mse", (0.0008, 0.0022, 0.006, 0.016)),
    "tiny-msssim": Preset(NetworkConfig("hyperprior", 4), "ms-ssim", (2.0, 5.0, 13.0, 32.0)),
    "tiny-perceptual": Preset(
        NetworkConfig("hyperprior", 3), "mse", (0.0008, 0.0022, 0.006), adversarial=0.2
    ),
    "tiny-elic": Preset(
        NetworkConfig("groups", 4, luma=40, chroma=12, width=56),
        "mse",
        (0.001, 0.0025, 0.0064, 0.017),
    ),
}
"""What each codec is trained as, by its name."""


def get_preset(codec: str) -> Preset:
    """Find a preset.

    Args:
        codec: One of :data:`PRESETS`.

    Raises:
        UnknownNameError: With the names there are.

    Example:
        >>> get_preset("tiny-perceptual").config.rates
        3
    """
    if codec not in PRESETS:
        raise unknown_name("learned codec", codec, PRESETS)
    return PRESETS[codec]
