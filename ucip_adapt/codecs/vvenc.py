"""VVC by vvenc: FFmpeg's libvvenc encodes in a process of its own, PyAV decodes.

At equal QP it is -0.70 to +0.09 dB from VTM 23.13 in luma at 1 to 11 % more bits; it is named
"vvc-vvenc" in every table, never "vtm".
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb, require_available
from ucip_adapt.codecs.process import private_dir, run_encoder
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.codecs.pyav import decode_rgb, load_av, pyav
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VVENC", "VvencCodec"]

# Every preset of vvenc sets IntraQPOffset to -3, so that "QP 37" would be coded at 34; qpa is the
# perceptual change of the QP, on by default. More threads can change the stream (8 did). One
# picture per process: as one of several frames the same picture comes out up to 1.4 dB worse.
OPTIONS = (
    *("-c:v", "libvvenc", "-preset", "medium", "-qpa", "0", "-threads", "1", "-period", "1"),
    *("-vvenc-params", "intraperiod=1:gopsize=1:poc0idr=1:intraqpoffset=0"),
)

_INSTALL = 'pip install "ucip-adapt[video]"'


@dataclass(frozen=True)
class VvencCodec:
    """VVC, all-intra, 4:2:0 with 10 bits.

    The program is the one that ``UCIP_FFMPEG`` names, else ``ffmpeg`` on the PATH if it has
    libvvenc, else that of imageio-ffmpeg.

    Attributes:
        spec: Name, qualities and range.

    Example:
        >>> VVENC.spec.qualities  # QP: the smaller, the better
        (47, 42, 37, 32)
    """

    spec: CodecSpec

    def available(self) -> Availability:
        """Whether an FFmpeg with libvvenc and a PyAV that decodes VVC are here."""
        state = pyav()
        if not state.ok:
            return state
        if "vvc" not in load_av(self.spec.name).codecs_available:
            return Availability(ok=False, reason=f"{state.version} has no vvc", install=_INSTALL)
        return _find(os.environ.get("UCIP_FFMPEG"), os.environ.get("PATH"))[1]

    def fingerprint(self) -> dict[str, Any]:
        """Program and options; the decoder has no say in the pixels, the standard fixes them."""
        program = self._program()
        return {
            "codec": self.spec.name,
            "library": "ffmpeg libvvenc",
            "version": _version(program),
            "sha256": file_sha256(program),
            "options": {"arguments": " ".join(OPTIONS), "colour": "bt601 full 420 10"},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: QP from 0 to 63; lower is better.

        Raises:
            CodecError: If FFmpeg or PyAV is missing, it is not an RGB image, or cannot be coded.
            ConfigError: If the QP is out of range.
        """
        from ucip_adapt.codecs.yuv import to_planes

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        planes = to_planes(rgb, bits=10)
        rows, columns = planes.y.shape
        command: list[str | Path] = [
            *(self._program(), "-hide_banner", "-nostdin", "-loglevel", "error"),
            *("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{columns}x{rows}", "-r", "1"),
            *("-i", "pipe:0", "-qp", str(quality), *OPTIONS, "-f", "vvc", "pipe:1"),
        ]
        start = time.perf_counter()
        with private_dir() as folder:
            data = run_encoder(
                command,
                stdin=planes.tobytes(),
                timeout_s=60 + 1e-3 * planes.y.size,  # 70 times what was measured
                workdir=folder,
                what=self.spec.name,
                need_stdout=True,
            )
        seconds = time.perf_counter() - start
        pixels = decode_rgb(data, "vvc", *rgb.shape[:2], what=self.spec.name)
        return Degraded(pixels=pixels, num_bytes=len(data), stream=data, seconds=seconds)

    def _program(self) -> Path:
        require_available(self.spec.name, self.available())
        program, _ = _find(os.environ.get("UCIP_FFMPEG"), os.environ.get("PATH"))
        if program is None:
            raise CodecError(f"{self.spec.name}: the FFmpeg found a moment ago is gone")
        return program


@functools.cache
def _find(wanted: str | None, path: str | None) -> tuple[Path | None, Availability]:
    """The first FFmpeg with libvvenc; what one of the user's own lacks is not silently replaced."""
    reasons = []
    for source, program in _candidates(wanted, path):
        problem = _problem(program)
        if not problem:
            return program, Availability(ok=True, version=f"FFmpeg {_version(program)} ({source})")
        reasons.append(f"{source}: {problem}")
    reason = "; ".join(reasons) or "no FFmpeg on the PATH, and imageio-ffmpeg is not installed"
    return None, Availability(
        ok=False, reason=reason, install=f"{_INSTALL}, or name an FFmpeg with UCIP_FFMPEG"
    )


def _candidates(wanted: str | None, path: str | None) -> Iterator[tuple[str, Path]]:
    if wanted:
        yield "UCIP_FFMPEG", Path(wanted).expanduser().absolute()
        return
    if found := shutil.which("ffmpeg", path=path):
        yield "ffmpeg on the PATH", Path(found).absolute()
    try:
        import imageio_ffmpeg

        yield "imageio-ffmpeg", Path(imageio_ffmpeg.get_ffmpeg_exe()).absolute()
    except (ImportError, RuntimeError):  # RuntimeError: its wheel for this system has no program
        return


def _problem(program: Path) -> str:
    """Why a program is of no use; empty if it is."""
    if not program.is_file():
        return f"{program} is no file"
    try:
        encoders = _ask(program, "-hide_banner", "-encoders")
    except CodecError as error:
        return str(error)
    return "" if " libvvenc " in encoders else f"{program} was built without libvvenc"


@functools.cache
def _version(program: Path) -> str:
    words = _ask(program, "-version").split()
    return words[2] if len(words) > 2 else "?"


def _ask(program: Path, *arguments: str) -> str:
    with private_dir() as folder:
        answer = run_encoder([program, *arguments], timeout_s=60, workdir=folder, what=program.name)
    return answer.decode("utf-8", errors="replace")


VVENC = VvencCodec(
    CodecSpec("vvc-vvenc", "vvc", "qp", (47, 42, 37, 32), (0, 63), extra="video", faithful=False)
)
