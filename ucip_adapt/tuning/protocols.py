"""The protocols of Table 3 as values: which kind of base, and what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.models import UCIP, UCIPConfig

__all__ = ["PROTOCOLS", "BaseKind", "Protocol", "Trained", "base_kind", "protocol_for"]

BaseKind = Literal["prompted", "prompt-free"]
Trained = Literal["nothing", "prompts", "everything"]


@dataclass(frozen=True)
class Protocol:
    """One row of Table 3, or ours.

    Attributes:
        name: ``"i"`` to ``"v"``.
        base: Kind of base that it starts from.
        trained: What training changes.
        text: In words.
    """

    name: str
    base: BaseKind
    trained: Trained
    text: str


# The paper words rows ii and iii alike; its table says that iii tunes the full model.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "i": Protocol("i", "prompted", "nothing", "the base as it is"),
        "ii": Protocol("ii", "prompt-free", "prompts", "prompts added, only they are trained"),
        "iii": Protocol("iii", "prompt-free", "everything", "prompts added, everything is trained"),
        "iv": Protocol("iv", "prompted", "prompts", "only the pre-trained prompts are trained"),
        "v": Protocol("v", "prompted", "everything", "everything is trained (ours, beside iv)"),
    }
)
"""Rows i to iv of Table 3, and v: the same start as iv with everything trained."""

_RECIPES: Mapping[Trained, str] = {
    "nothing": "recipes/evaluate.py",
    "prompts": "recipes/tune_prompts.py",
    "everything": "recipes/tune_full.py",
}


def base_kind(base: UCIP | UCIPConfig) -> BaseKind:
    """Whether a base was trained with prompts.

    Args:
        base: The network or its configuration.

    Returns:
        ``"prompted"``, for any design of Table 4, or ``"prompt-free"``.

    Example:
        >>> base_kind(UCIPConfig.preset("nano", prompt="none"))
        'prompt-free'
    """
    config = base if isinstance(base, UCIPConfig) else base.config
    return "prompt-free" if config.prompt == "none" else "prompted"


def protocol_for(
    base: UCIP | UCIPConfig, requested: str | None = None, everything: bool = False
) -> Protocol:
    """The protocol of a run, checked against its base.

    Args:
        base: The base network or its configuration.
        requested: Name of a protocol, or None for the one that the base allows.
        everything: True where everything is trained (rows iii and v), False where only prompts
            are (ii and iv).

    Returns:
        One of :data:`PROTOCOLS`.

    Raises:
        UnknownNameError: If there is no protocol of the name.
        ConfigError: If it wants another base, or trains something else.

    Example:
        >>> protocol_for(UCIPConfig.preset("nano", prompt="none")).name
        'ii'
        >>> protocol_for(UCIPConfig.preset("nano"), "ii")
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.ConfigError: protocol ii (prompts added, only they are trained) wants a \
prompt-free base, this one is prompted: give another base, or protocol iv
    """
    trained: Trained = "everything" if everything else "prompts"
    kind = base_kind(base)
    allowed = next(p for p in PROTOCOLS.values() if p.trained == trained and p.base == kind)
    if requested is None:
        return allowed
    if requested not in PROTOCOLS:
        raise unknown_name("protocol", requested, PROTOCOLS)
    protocol = PROTOCOLS[requested]
    if protocol.trained != trained:
        raise ConfigError(
            f"protocol {protocol.name} trains {protocol.trained}, this recipe trains {trained}: "
            f"use {_RECIPES[protocol.trained]}"
        )
    if protocol.base != kind:
        raise ConfigError(
            f"protocol {protocol.name} ({protocol.text}) wants a {protocol.base} base, this one is "
            f"{kind}: give another base, or protocol {allowed.name}"
        )
    return protocol
