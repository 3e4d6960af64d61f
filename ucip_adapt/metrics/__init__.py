"""PSNR and SSIM, the protocols under which they are reported, and their gathering over processes.

The wrappers for the `evaluate` library live in :mod:`ucip_adapt.metrics.evaluate_modules` and are
not imported here: `evaluate` takes seconds to import and most users never need it.
"""

from ucip_adapt.metrics.functional import psnr, rgb_to_y, ssim
from ucip_adapt.metrics.gather import gather_scores
from ucip_adapt.metrics.journal import ImageScores, ScoreJournal
from ucip_adapt.metrics.protocols import PROTOCOLS, Protocol, Scores, get_protocol, score, to_uint8

__all__ = [
    "PROTOCOLS",
    "ImageScores",
    "Protocol",
    "ScoreJournal",
    "Scores",
    "gather_scores",
    "get_protocol",
    "psnr",
    "rgb_to_y",
    "score",
    "ssim",
    "to_uint8",
]
