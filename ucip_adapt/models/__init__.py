"""The UCIP network, its parts and its files."""

from ucip_adapt.models.bounded.plan import LargePlan, MemoryLimitError, plan_large
from ucip_adapt.models.bounded.store import TemporaryFileError
from ucip_adapt.models.config import PRESETS, SCALE, UCIPConfig
from ucip_adapt.models.convert import (
    convert_state_dict,
    load_authors_checkpoint,
    to_authors_state_dict,
)
from ucip_adapt.models.ensemble import self_ensemble
from ucip_adapt.models.large import upscale_large, upscale_rows
from ucip_adapt.models.prompts import DPM
from ucip_adapt.models.recognise import from_state_dict, load_single_file, save_single_file
from ucip_adapt.models.sampling import deform_sample_1d, deform_sample_axes
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
    "LargePlan",
    "MemoryLimitError",
    "OffsetLayer",
    "TemporaryFileError",
    "UCIPConfig",
    "bicubic_x4",
    "convert_state_dict",
    "deform_sample_1d",
    "deform_sample_axes",
    "from_state_dict",
    "load_authors_checkpoint",
    "load_single_file",
    "plan_large",
    "save_single_file",
    "self_ensemble",
    "to_authors_state_dict",
    "upscale_large",
    "upscale_rows",
    "upscale_windows",
]
