"""UCIPConfig: every choice that makes a UCIP network what it is, and the four presets."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args

from ucip_adapt.errors import BaseFormatError, ConfigError, unknown_name
from ucip_adapt.formats import check_format_version
from ucip_adapt.models.prompts import PromptDesign
from ucip_adapt.models.sampling import Sampler

__all__ = ["PRESETS", "SCALE", "GlobalSkip", "UCIPConfig"]

SCALE = 4
"""Enlargement of every network here (Sec. 4)."""

GlobalSkip = Literal["none", "bicubic"]

_FORMAT_VERSION = "1.0"


_KINDS: Mapping[object, tuple[type, ...]] = MappingProxyType(
    {"int": (int,), "int | None": (int, NoneType), "float": (int, float), "bool": (bool,)}
)
"""What a field may hold, by its annotation."""


@dataclass(frozen=True)
class UCIPConfig:
    """The architecture of a UCIP network and the way it is applied to images.

    Attributes:
        embed_dim: Channels C of the features.
        prompt_dim: Channels C_p of a prompt.
        num_blocks: PTMBs.
        num_layers: PTMMs in each PTMB; offsets are new in the first of every two.
        mlp_ratio: Hidden channels of a PTMM's MLP over C.
        head_dim: Channels of the x4 head.
        num_prompts: Basic prompts D of each PTMB (Table 6).
        num_slots: Sets of basic prompts; 1 is the paper's blind network, 6 the authors' released
            one.
        prompt: Prompt design (Table 4): ``"dynamic"``, ``"none"``, ``"fixed"`` or ``"promptir"``.
        prompt_size: Side of PromptIR's prompt maps, in feature pixels; read by ``"promptir"`` only.
        local: Whether the mixer has its depth-wise 5 x 5 branch (Table 5).
        share: Channels S that share one offset.
        global_skip: ``"bicubic"`` adds the input enlarged by Pillow's bicubic to the output; the
            paper has none.
        last_conv_scale: Factor on the last convolution's initial weights; below 1 a network with a
            global skip starts near it.
        sampler: ``"grid"``, ``"gather"`` (the reference) or ``"fused"`` (kernels for CUDA and,
            compiled on demand, for the CPU); the same function to rounding.
        window: Side in LQ pixels of the overlapping windows in which :meth:`UCIP.upscale` works;
            None is the whole image, the paper's way. Chosen per base on validation images.
        window_stride: Step between windows in LQ pixels; None is five sixths of a window.

    Example:
        >>> UCIPConfig.preset("full", num_slots=6).embed_dim
        128
        >>> UCIPConfig.preset("tiny", embed_dims=48)
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.UnknownNameError: unknown UCIPConfig field 'embed_dims'; did you mean \
'embed_dim'? Known: embed_dim, global_skip, head_dim, last_conv_scale, local, mlp_ratio, \
num_blocks, num_layers, num_prompts, num_slots, prompt, prompt_dim, prompt_size, sampler, share, \
window, window_stride
    """

    embed_dim: int = 128
    prompt_dim: int = 64
    num_blocks: int = 6
    num_layers: int = 6
    mlp_ratio: int = 4
    head_dim: int = 64
    num_prompts: int = 8
    num_slots: int = 1
    prompt: PromptDesign = "dynamic"
    prompt_size: int = 64
    local: bool = True
    share: int = 2
    global_skip: GlobalSkip = "none"
    last_conv_scale: float = 1.0
    sampler: Sampler = "grid"
    window: int | None = None
    window_stride: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: If a value has a wrong type or is out of range; the message names the
                field.
        """
        self._check_types()
        for name, choices in (
            ("prompt", PromptDesign),
            ("global_skip", GlobalSkip),
            ("sampler", Sampler),
        ):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"value for {name}", str(getattr(self, name)), get_args(choices))
        for name in (
            "embed_dim",
            "prompt_dim",
            "num_blocks",
            "num_layers",
            "mlp_ratio",
            "head_dim",
            "num_prompts",
            "num_slots",
            "prompt_size",
        ):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._require(
            "share", self.share >= 1 and self.embed_dim % self.share == 0, "must divide embed_dim"
        )
        self._require("embed_dim", self.embed_dim % 4 == 0, "must be a multiple of 4")
        self._require("prompt_dim", self.prompt_dim % 2 == 0, "must be even")
        self._require(
            "window", self.window is None or self.window >= 8, "must be None or at least 8 pixels"
        )
        if self.window_stride is not None:
            fits = self.window is not None and 1 <= self.window_stride <= self.window
            self._require("window_stride", fits, "needs a window and must lie in 1..window")

    def _check_types(self) -> None:
        """Refuse wrong types early: values also come from ``config.json`` files."""
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), _KINDS.get(field.type)
            if kinds is not None:
                # True is an int to Python, but not a number of channels.
                fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
                self._require(field.name, fits, f"must be of type {field.type}")

    def _require(self, name: str, condition: bool, rule: str) -> None:
        if not condition:
            raise ConfigError(f"{name}={getattr(self, name)!r}: {name} {rule}")

    @classmethod
    def preset(cls, name: str, **changes: object) -> UCIPConfig:
        """A named architecture, with single fields changed.

        Args:
            name: ``"full"`` (the paper), ``"small"``, ``"tiny"`` or ``"nano"`` (unit tests).
            **changes: Fields of the class to set otherwise.

        Returns:
            The configuration.

        Raises:
            UnknownNameError: If the preset or a field is unknown; known ones are listed.
            ConfigError: If a value is out of range.
        """
        if name not in PRESETS:
            raise unknown_name("preset", name, PRESETS)
        known = {field.name for field in dataclasses.fields(cls)}
        for key in changes:
            if key not in known:
                raise unknown_name("UCIPConfig field", key, known)
        values: dict[str, Any] = {**PRESETS[name], **changes}
        return cls(**values)

    def replace(self, **changes: object) -> UCIPConfig:
        """A copy with some fields changed.

        Args:
            **changes: Fields and their new values.

        Returns:
            The copy.

        Raises:
            TypeError: If there is no such field.
            ConfigError: If a value is out of range.
        """
        values: dict[str, Any] = changes
        return dataclasses.replace(self, **values)

    def function_fields(self) -> dict[str, Any]:
        """The fields that, given the weights, decide the function; they enter the fingerprint.

        How weights were initialised, which sampler computes and in which windows images are cut
        does not belong here: an adapter fits a base whatever these say.
        """
        other = {"last_conv_scale", "sampler", "window", "window_stride"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in other}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with its ``format_version``."""
        return {
            "format_version": _FORMAT_VERSION,
            "architecture": "ucip",
            **dataclasses.asdict(self),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "config") -> UCIPConfig:
        """Read what :meth:`to_dict` wrote.

        Args:
            values: The JSON object.
            source: Name for messages.

        Returns:
            The configuration; unknown keys are ignored with a warning.

        Raises:
            BaseFormatError: If the file was written by a newer major format version, or is no UCIP
                configuration.
            ConfigError: If a value is out of range.
        """
        if "format_version" not in values or values.get("architecture") != "ucip":
            raise BaseFormatError(
                f"{source} is not the configuration of a UCIP network "
                "(no format_version/architecture)"
            )
        check_format_version(
            values["format_version"], _FORMAT_VERSION, what=source, error=BaseFormatError
        )
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known - {"format_version", "architecture"})
        if unknown:
            warnings.warn(f"{source}: unknown keys ignored: {', '.join(unknown)}", stacklevel=2)
        return cls(**{k: v for k, v in values.items() if k in known})

    @classmethod
    def from_file(cls, path: Path) -> UCIPConfig:
        """Read a base's ``config.json``.

        Args:
            path: The file.

        Returns:
            The configuration.

        Raises:
            BaseFormatError: If the file is missing, is not JSON, or not a UCIP configuration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BaseFormatError(f"cannot read {path}: {error}") from error
        if not isinstance(values, dict):
            raise BaseFormatError(f"{path} holds no JSON object")
        return cls.from_dict(values, source=str(path))


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "full": {},
        "small": {
            "embed_dim": 64,
            "prompt_dim": 32,
            "num_blocks": 4,
            "num_layers": 6,
            "mlp_ratio": 4,
            "head_dim": 48,
        }
        | {"global_skip": "bicubic", "last_conv_scale": 0.01},
        "tiny": {
            "embed_dim": 48,
            "prompt_dim": 24,
            "num_blocks": 2,
            "num_layers": 4,
            "mlp_ratio": 2,
            "head_dim": 24,
        }
        | {"global_skip": "bicubic", "last_conv_scale": 0.01},
        "nano": {
            "embed_dim": 16,
            "prompt_dim": 8,
            "num_blocks": 1,
            "num_layers": 2,
            "mlp_ratio": 2,
            "head_dim": 16,
        }
        | {"global_skip": "bicubic", "last_conv_scale": 0.01},
    }
)
"""The named architectures; ``full`` is the paper's, the others are ours."""
