"""A cell: one network, made in one way, measured on one codec; the unit of every table.

What is in a cell's name says all that its numbers depend on, so that a finished one is found again:

>>> Cell(codec="webp", method="dpm+offset", base="ucip-tiny-v3").id
'ucip-tiny-v3_webp_dpm+offset_full_seed0'
>>> Cell(codec="webp", method="lora:dpm", base="b", evaluate_on="validation", learning_rate=0.01).id
'b_webp_lora-dpm_validation_rate-0.01_seed0'
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ucip_adapt._values import check_range, from_toml
from ucip_adapt.codecs import all_codecs
from ucip_adapt.errors import ConfigError, unknown_name

__all__ = [
    "METHODS",
    "SETS",
    "Cell",
    "Method",
    "asked_qualities",
    "make_cell",
    "read_method",
    "row_of_table_3",
]


@dataclass(frozen=True)
class Method:
    """One way of making a network.

    Attributes:
        recipe: File under ``recipes/`` that trains it; empty where nothing is trained.
        flags: What the recipe is told.
        blocks: Whether ``@last:N`` may restrict it to the last N blocks.

    Example:
        >>> METHODS["dpm"].flags
        ('--trainable', 'dpm')
    """

    recipe: str
    flags: tuple[str, ...] = ()
    blocks: bool = False


_SETS = ("basis", "dpm", "dpm+offset", "dpm+offset+spade")


def _peft(method: str, budget: str) -> Method:
    return Method("tune_prompts.py", ("--trainable", budget, "--peft_method", method), blocks=True)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "bicubic": Method(""),
        "base": Method(""),
        **{name: Method("tune_prompts.py", ("--trainable", name), blocks=True) for name in _SETS},
        "lora": _peft("lora", "dpm+offset"),
        "dora": _peft("dora", "dpm+offset"),
        **{f"lora:{name}": _peft("lora", name) for name in _SETS},
        **{f"dora:{name}": _peft("dora", name) for name in _SETS},
        "norms+biases": Method("tune_full.py", ("--trainable", "norms+biases")),
        "everything": Method("tune_full.py"),
        "control": Method("pretrain_base.py"),
    }
)
"""Ways of making a network. ``lora`` and ``dora`` take the budget of ``dpm+offset``, or of the set
behind the colon; ``control`` trains the base on for as many steps on the codecs that it knows."""

SETS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "validation": (),
        "small": (("Set5", "Set14"),),
        "short": (("Set5", "Set14", "BSD100/every4"), ("Urban100/subset25",)),
        "full": (("Set5", "Set14", "BSD100"), ("Urban100",), ("Manga109",)),
    }
)
"""What a cell is measured on, in the pieces that are measured, and kept, one after the other. Under
``validation`` there are only the validation images that every trained cell has a gain on."""

_MINIMA = {
    "learning_rate": 0.0,
    "max_train_steps": 1,
    "train_batch_size": 1,
    "patch_size": 8,
    "seed": 0,
    "validation_images": 1,
}


@dataclass(frozen=True)
class Cell:
    """What is done: the cell's specification, without its result.

    Attributes:
        codec: Codec that is adapted to, and measured on.
        method: A name of :data:`METHODS`; those with a block choice take ``@last:N``.
        base: Name of the base network; None for bicubic.
        evaluate_on: A name of :data:`SETS`.
        learning_rate: Peak rate; None is the best of those tried on the validation images.
        rate_codec: Codec whose best rate is taken; None is the cell's own.
        max_train_steps: Optimizer steps.
        train_batch_size: Crops per step.
        patch_size: Side of a crop in LQ pixels.
        train_data: Training images: folders under ``DATA/train``, or ``embedded``, joined by ``+``.
        suite: What ``control`` goes on with: the suite that the base learned.
        seed: Seed of initial weights, order, crops and flips.
        qualities: Of the codec; empty is those of its suite.
        also_measure: Other codecs that the network is measured on, on Set5 and Set14.
        validation_images: Number of validation images that the gain is a mean over.

    Example:
        >>> Cell(codec="webp", method="base", base="ucip-tiny-v3").id
        'ucip-tiny-v3_webp_base_full'
    """

    # A default does not show in the name of a cell: with another default, cells need other names.
    codec: str
    method: str
    base: str | None = None
    evaluate_on: str = "full"
    learning_rate: float | None = None
    rate_codec: str | None = None
    max_train_steps: int = 200
    train_batch_size: int = 2
    patch_size: int = 64
    train_data: str = "CID22+embedded"
    suite: str = "ucsr-streams"
    seed: int = 0
    qualities: tuple[int, ...] = ()
    also_measure: tuple[str, ...] = ()
    validation_images: int = 4

    @property
    def trained(self) -> bool:
        """Whether anything is trained."""
        return bool(read_method(self.method)[0].recipe)

    @property
    def id(self) -> str:
        """Readable and unique; a file name on every system."""
        parts = [self.base or "", self.codec, self.method.replace(":", "-")]
        if self.qualities:
            parts.append("q" + "+".join(map(str, self.qualities)))
        parts.append(self.evaluate_on)
        if self.also_measure:
            parts.append("also-" + "+".join(self.also_measure))
        if self.trained:
            parts += [text for name, text in self._choices() if self._changed(name)]
            parts.append(f"seed{self.seed}")
        return "_".join(part for part in parts if part)

    def _choices(self) -> tuple[tuple[str, str], ...]:
        return (
            ("learning_rate", f"rate-{self.learning_rate or 0:g}"),
            ("rate_codec", f"rate-of-{self.rate_codec}"),
            ("max_train_steps", f"{self.max_train_steps}-steps"),
            ("train_batch_size", f"{self.train_batch_size}-crops"),
            ("patch_size", f"{self.patch_size}-pixels"),
            ("train_data", self.train_data),
            ("suite", self.suite),
            ("validation_images", f"{self.validation_images}-images"),
        )

    def _changed(self, name: str) -> bool:
        default = next(f.default for f in dataclasses.fields(self) if f.name == name)
        return bool(getattr(self, name) != default)

    @property
    def trial(self) -> bool:
        """Whether the cell tries a rate, rather than being a result."""
        return self.evaluate_on == "validation" and self.learning_rate is not None


def asked_qualities(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Qualities that a cell was restricted to, in training as in measuring.

    They are read off its name: its configuration lists those that it was measured at, which are
    there also where none was asked for.

    Args:
        config: The configuration of a finished or a planned cell.

    Returns:
        In order; empty for all qualities of the codec's suite.

    Example:
        >>> config = {"base": "b", "codec": "webp", "method": "dpm", "cell": "b_webp_dpm_q10_full"}
        >>> asked_qualities(config), asked_qualities({**config, "cell": "b_webp_dpm_full"})
        ((10,), ())
    """
    parts = (config["base"] or "", config["codec"], config["method"].replace(":", "-"), "q")
    before, name = "_".join(filter(None, parts)), str(config.get("cell", ""))
    texts = name.removeprefix(before).partition("_")[0].split("+")
    known = name.startswith(before) and all(text.isdecimal() for text in texts)
    return tuple(sorted(map(int, texts))) if known else ()


def read_method(text: str) -> tuple[Method, str]:
    """Find a method by its name.

    Args:
        text: A name of :data:`METHODS`, some followed by ``@last:N``.

    Returns:
        The method, and the blocks that it trains: ``"all"`` or ``"last:N"``.

    Raises:
        UnknownNameError: If there is none of the name.
        ConfigError: If what stands behind ``@`` is not for it.

    Example:
        >>> method, blocks = read_method("dpm@last:1")
        >>> method.flags, blocks
        (('--trainable', 'dpm'), 'last:1')
    """
    name, at, blocks = text.partition("@")
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    method = METHODS[name]
    count = blocks.removeprefix("last:")
    if at and not (method.blocks and count != blocks and count.isdecimal() and int(count)):
        known = ", ".join(known for known, one in METHODS.items() if one.blocks)
        raise ConfigError(f"method '{text}': '@last:N' may follow {known}, nothing else")
    return method, blocks or "all"


def row_of_table_3(method: str, base_kind: str | None) -> str | None:
    """The row of Table 3 that a method on a base is, ``"control"``, or None.

    Args:
        method: Name of the method.
        base_kind: ``"prompted"`` or ``"prompt-free"``.

    Example:
        >>> row_of_table_3("dpm", "prompt-free"), row_of_table_3("everything", "prompted")
        ('ii', 'v')
    """
    prompted = base_kind == "prompted"
    name = method.partition("@")[0]
    if name == "base":
        return "i" if prompted else None
    if name == "control":
        return "control"
    if name == "everything":
        return "v" if prompted else "iii"
    if name in _SETS:
        return "iv" if prompted else "ii"
    return None


def _check_values(read: Mapping[str, Any], source: str) -> None:
    """Refuse what would fail only when the cell is made, or give one thing two names."""
    rate = read.get("learning_rate")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"{source}: learning_rate: must be finite and above 0, not {rate}")
    for key in ("qualities", "also_measure"):
        values = read.get(key, ())
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{source}: {key}: {value} is there twice; name it once")
    for quality in read.get("qualities", ()):
        try:
            all_codecs()[read["codec"]].spec.check_quality(quality)
        except ConfigError as error:
            raise ConfigError(f"{source}: qualities: {error}") from error


def make_cell(values: Mapping[str, object], source: str) -> Cell:
    """Check a specification and leave out what has no meaning for its method.

    Args:
        values: Fields of :class:`Cell`; ``learning_rate`` may be ``"best"``.
        source: Where they stand, for messages.

    Raises:
        ConfigError: If a key, a name or a value is unknown, of the wrong type or out of range.

    Example:
        >>> shared = {"codec": "webp", "base": "ucip-tiny-v3", "seed": 1}
        >>> make_cell({**shared, "method": "bicubic"}, "here").id
        'webp_bicubic_full'
    """
    hints = typing.get_type_hints(Cell)
    read: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{source}: {key}"
        if key not in hints:
            raise unknown_name(f"key of {source}:", key, hints)
        if key == "learning_rate" and value == "best":
            continue
        read[key] = from_toml(value, hints[key], where)
        check_range(read[key], _MINIMA.get(key), None, where)
    for key in ("codec", "method"):
        if key not in read:
            raise ConfigError(f"{source}: a cell needs '{key}'")
    method, _ = read_method(read["method"])
    if read["method"] != "bicubic" and not read.get("base"):
        raise ConfigError(f"{source}: method '{read['method']}' needs 'base'")
    for codec in (read["codec"], *read.get("also_measure", ()), read.get("rate_codec")):
        if codec is not None and codec not in all_codecs():
            raise unknown_name("codec", codec, all_codecs())
    _check_values(read, source)
    if read.get("evaluate_on", "full") not in SETS:
        raise unknown_name("value of evaluate_on:", read["evaluate_on"], SETS)
    if "/" in str(read.get("base")) or "/" in read.get("train_data", ""):
        raise ConfigError(f"{source}: give bases and training images by name, not by path")
    read["also_measure"] = tuple(c for c in read.get("also_measure", ()) if c != read["codec"])
    if not method.recipe:
        kept = ("codec", "method", "base", "evaluate_on", "qualities", "also_measure")
        read = {key: value for key, value in read.items() if key in kept}
        if read.get("evaluate_on") == "validation":
            raise ConfigError(f"{source}: {read['method']} has no gain to be validated")
    if read["method"] == "bicubic":
        read["base"] = None
    if read["method"] != "control":
        read.pop("suite", None)
    return Cell(**read)
