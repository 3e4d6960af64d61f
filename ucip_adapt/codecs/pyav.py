"""What PyAV does for the video codecs: it decodes HEVC and VVC, one picture per stream."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, library_availability, load_library
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["decode_rgb", "load_av", "pyav"]


def pyav() -> Availability:
    """Whether PyAV can be imported here.

    Returns:
        Its version, or the reason and the line that installs it.
    """
    return library_availability("av", distribution="av", extra="video")


def load_av(codec: str) -> Any:  # noqa: ANN401 - the module, which is optional
    """Import PyAV for a codec.

    Args:
        codec: Name of the codec, for the message.

    Returns:
        The module ``av``.

    Raises:
        CodecError: If it is missing, with the line that installs it.
    """
    return load_library("av", distribution="av", extra="video", codec=codec)


def decode_rgb(data: bytes, kind: str, height: int, width: int, *, what: str) -> NDArray[np.uint8]:
    """Decode a stream of one picture.

    Args:
        data: The whole bitstream (Annex B).
        kind: FFmpeg's name of its format: ``"hevc"`` or ``"vvc"``.
        height: Of the picture that was encoded, without padding.
        width: As ``height``.
        what: Whose stream it is, for messages.

    Returns:
        ``height x width x 3`` uint8.

    Raises:
        CodecError: If PyAV is missing, the stream cannot be decoded, or holds something else than
            one picture of this size.
    """
    from ucip_adapt.codecs.yuv import padded_size, planes_of, to_rgb

    av = load_av(what)
    try:
        # No threads: a picture has nothing to share out, and starting them takes longer.
        with av.open(io.BytesIO(data), format=kind) as container:
            container.streams.video[0].thread_count = 1
            frames = [planes_of(frame) for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise CodecError(f"{what}: cannot decode {len(data)} bytes of {kind}: {error}") from error
    sizes = [planes.y.shape for planes in frames]
    if sizes != [padded_size(height, width)]:
        raise CodecError(
            f"{what}: the stream holds {len(sizes)} pictures {sizes[:3]}, one of "
            f"{padded_size(height, width)} was expected for {height} x {width} pixels"
        )
    return to_rgb(frames[0], height, width)
