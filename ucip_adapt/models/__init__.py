"""The UCIP network, its parts and its files."""

from ucip_adapt.models.config import PRESETS, SCALE, UCIPConfig
from ucip_adapt.models.convert import (
    convert_state_dict,
    load_authors_checkpoint,
    to_authors_state_dict,
)
from ucip_adapt.models.prompts import DPM
from ucip_adapt.models.sampling import deform_sample_1d
from ucip_adapt.models.token_mixer import SPADE, OffsetLayer
from ucip_adapt.models.ucip import PTMB, UCIP
from ucip_adapt.models.upsampler import bicubic_x4
from ucip_adapt.models.windows import upscale_windows

__all__ = [
    "DPM",
    "PRESETS",
    "PTMB",
    "SCALE",
    "SPADE",
    "UCIP",
    "OffsetLayer",
    "UCIPConfig",
    "bicubic_x4",
    "convert_state_dict",
    "deform_sample_1d",
    "load_authors_checkpoint",
    "to_authors_state_dict",
    "upscale_windows",
]
