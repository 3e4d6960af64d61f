"""Small learned codecs of our own, with their weights: real learned damage without a download."""

from __future__ import annotations

from ucip_adapt.codecs.learned.tiny import (
    TINY_ELIC,
    TINY_MSE,
    TINY_MSSSIM,
    TINY_PERCEPTUAL,
    TinyCodec,
)

__all__ = ["TINY_CODECS", "TINY_ELIC", "TINY_MSE", "TINY_MSSSIM", "TINY_PERCEPTUAL", "TinyCodec"]

TINY_CODECS = {
    codec.spec.name: codec for codec in (TINY_MSE, TINY_MSSSIM, TINY_PERCEPTUAL, TINY_ELIC)
}
"""All of them by name."""
