"""What is known of how a picture was compressed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Detection"]


@dataclass(frozen=True)
class Detection:
    """What a file, or its pixels, say of its coding.

    Attributes:
        codec: Name as in ``ucip-adapt codecs``; None where it is not known.
        quality: The codec's own knob, as near as can be told; None where it cannot.
        reason: How it is known, in words for the user.
        confidence: Probability that the codec is right: 1 where the container says it, 0 where
            nothing does. Without a codec, by pixels: that of what they look like most.

    Example:
        >>> Detection("webp", None, "WebP container").codec
        'webp'
    """

    codec: str | None
    quality: int | None
    reason: str
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence={self.confidence}: must be between 0 and 1")
