"""Which codec of this machine fills each slot of a suite, with every substitution on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.resolve import resolve
from ucip_adapt.data.degrade import Setting, require_codec
from ucip_adapt.errors import ConfigError
from ucip_adapt.suites.suite import OUTSIDE_FORMS, Slot, Suite

__all__ = ["FilledSlot", "FilledSuite", "fill_suite"]


@dataclass(frozen=True)
class FilledSlot:
    """A slot and the codec that fills it here.

    Attributes:
        slot: The slot as the suite has it.
        codec: Name of the codec that is used.
        reason: Why it is another one than the slot names; empty if it is not.

    Example:
        >>> FilledSlot(Slot("hevc", "hm", (47, 32)), "hevc-x265", "no HM here").substituted
        True
    """

    slot: Slot
    codec: str
    reason: str = ""

    @property
    def substituted(self) -> bool:
        """Whether the suite named another codec."""
        return self.codec != self.slot.codec

    @property
    def settings(self) -> list[Setting]:
        """One per quality, in the suite's order."""
        return [Setting(self.codec, quality) for quality in self.slot.qualities]

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "name": self.slot.name,
            "asked": self.slot.asked,
            "named": self.slot.codec,
            "codec": self.codec,
            "substituted": self.substituted,
            "reason": self.reason,
            "qualities": list(self.slot.qualities),
        }


@dataclass(frozen=True)
class FilledSuite:
    """A suite whose every slot has a codec that works here.

    Attributes:
        suite: The suite.
        slots: One per slot of the suite, in its order.

    Example:
        >>> from ucip_adapt.suites import load_suite
        >>> filled = fill_suite(load_suite("webp"))
        >>> [str(setting) for setting in filled.settings], filled.slot_numbers
        (['webp:10', 'webp:20', 'webp:30', 'webp:40'], [0, 0, 0, 0])
    """

    suite: Suite
    slots: tuple[FilledSlot, ...]

    @property
    def settings(self) -> list[Setting]:
        """All settings, slot after slot."""
        return [setting for slot in self.slots for setting in slot.settings]

    @property
    def slot_numbers(self) -> list[int]:
        """Position of the slot of each of :attr:`settings`."""
        return [number for number, slot in enumerate(self.slots) for _ in slot.settings]

    @property
    def substitutions(self) -> list[str]:
        """One line for each slot that another codec fills than the one it is for."""
        return [
            f"{filled.slot.name}: {filled.slot.asked} is asked for, {filled.codec} stands in"
            f"{f' ({filled.reason})' if filled.reason else ''}"
            for filled in self.slots
            if filled.codec != filled.slot.asked
        ]


def fill_suite(
    suite: Suite, *, strict: bool | None = None, allow_command: bool = False
) -> FilledSuite:
    """Find a codec for each slot.

    Args:
        suite: The suite.
        strict: True to refuse stand-ins; None does as the suite says.
        allow_command: Whether slots may name a ``command:`` or a ``folder:``; as for
            :func:`~ucip_adapt.suites.load_suite`.

    Returns:
        The suite with its codecs.

    Raises:
        UnknownNameError: If a slot names no codec.
        CodecError: If a slot's codec does not work here and no stand-in may take its place.
        ConfigError: If two slots come to the same codec and quality, or a quality is out of range.

    Example:
        >>> from ucip_adapt.suites import load_suite
        >>> fill_suite(load_suite("webp")).slots[0].substituted
        False
    """
    refuse = suite.strict if strict is None else strict
    filled = tuple(_fill(slot, strict=refuse, allow_command=allow_command) for slot in suite.slots)
    places: dict[Setting, str] = {}
    for place in filled:
        spec = get_codec(place.codec).spec
        for setting in place.settings:
            spec.check_quality(setting.quality)
            if setting in places:
                raise ConfigError(
                    f"suite {suite.name}: the slots {places[setting]} and {place.slot.name} both "
                    f"come to {setting}"
                )
            places[setting] = place.slot.name
    return FilledSuite(suite, filled)


def _fill(slot: Slot, *, strict: bool, allow_command: bool) -> FilledSlot:
    if slot.codec.startswith(OUTSIDE_FORMS):
        get_codec(slot.codec, allow_command=allow_command)  # known from now on, in this process
        require_codec(slot.codec)
        return FilledSlot(slot, slot.codec)
    get_codec(slot.codec)  # a family is no codec
    found = resolve(slot.codec, strict=strict)
    return FilledSlot(slot, found.got, found.reason)
