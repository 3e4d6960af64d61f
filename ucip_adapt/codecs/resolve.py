"""Which codec fills a slot of a suite here, with every substitution on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ucip_adapt.codecs import Codec, all_codecs, get_codec
from ucip_adapt.codecs.base import require_available
from ucip_adapt.errors import CodecError, unknown_name

__all__ = ["Resolution", "resolve"]


@dataclass(frozen=True)
class Resolution:
    """What was asked for and what was found; manifests and tables keep it.

    Attributes:
        asked: Name of the codec that should have been used.
        got: Name of the codec that is used.
        substituted: Whether the two differ.
        reason: Why the first could not be used; empty if it is.

    Example:
        >>> Resolution("hm", "hevc-x265", True, "there is no TAppEncoderStatic").codec.spec.family
        'hevc'
    """

    asked: str
    got: str
    substituted: bool
    reason: str

    @property
    def codec(self) -> Codec:
        """The codec that is used."""
        return get_codec(self.got)

    def __str__(self) -> str:
        """``hevc-x265 in place of hm (why)``, or the name alone."""
        return (
            f"{self.got} in place of {self.asked} ({self.reason})" if self.substituted else self.got
        )


def resolve(slot: str, *, prefer: Sequence[str] = (), strict: bool = False) -> Resolution:
    """Find the codec that fills a slot on this machine.

    A codec is replaced only by one of its family with the same qualities, or by one that
    ``prefer`` names.

    Args:
        slot: Name of a codec, or of a family.
        prefer: Names in order of preference. For a family the first of them is what is asked for;
            without any, that is the paper's own codec.
        strict: Whether to raise instead of substituting.

    Returns:
        The codec found, beside the one asked for.

    Raises:
        UnknownNameError: If there is no such codec or family.
        CodecError: If no codec of the family works here, or ``strict`` and the one asked for does
            not; the message says why, and what to install.

    Example:
        >>> resolve("webp")
        Resolution(asked='webp', got='webp', substituted=False, reason='')
        >>> str(resolve("jpeg", prefer=("webp",)))
        'jpeg'
    """
    codecs = all_codecs()
    candidates = _candidates(slot, prefer, codecs)
    asked = candidates[0]
    first = asked.available()
    if first.ok:
        return Resolution(asked.spec.name, asked.spec.name, substituted=False, reason="")
    if strict:
        require_available(asked.spec.name, first)
    for codec in candidates[1:]:
        if codec.available().ok:
            return Resolution(
                asked.spec.name, codec.spec.name, substituted=True, reason=first.reason
            )
    tried = ", ".join(codec.spec.name for codec in candidates)
    raise CodecError(
        f"no codec for {slot} works here (tried {tried}). {asked.spec.name}: {first.reason}. "
        f"{first.install}"
    )


def _candidates(slot: str, prefer: Sequence[str], codecs: dict[str, Codec]) -> list[Codec]:
    """The codec asked for, then what may stand in for it, best first."""
    preferred = [get_codec(name) for name in prefer]
    if slot in codecs:
        chosen = [codecs[slot], *preferred]
    else:
        family = [codec for codec in codecs.values() if codec.spec.family == slot]
        if not family and not preferred:
            families = {codec.spec.family for codec in codecs.values()}
            raise unknown_name("codec or family", slot, {*codecs, *families})
        # A stable sort: the paper's own first, then in the table's order.
        chosen = [*preferred, *sorted(family, key=lambda codec: not codec.spec.faithful)]
    asked = chosen[0].spec
    chosen += [codec for codec in codecs.values() if codec.spec.family == asked.family]
    # Equal qualities mean equal things within a family; a preferred codec is the user's own choice.
    named = {codec.spec.name for codec in (chosen[0], *preferred)}
    allowed = [
        codec
        for codec in chosen
        if codec.spec.name in named or codec.spec.qualities == asked.qualities
    ]
    return list({codec.spec.name: codec for codec in allowed}.values())
