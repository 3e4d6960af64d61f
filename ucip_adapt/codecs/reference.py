"""HM and VTM, the reference encoders of HEVC and VVC, where a user has built them.

No package carries them. Their true streams of the embedded and of the usual test images need no
encoder: :mod:`ucip_adapt.codecs.streams`.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb, require_available
from ucip_adapt.codecs.process import private_dir, read_output, run_encoder
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.codecs.pyav import decode_rgb, pyav
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HM", "VTM", "ReferenceCodec"]

# Where a build of the software leaves its configurations, seen from the program.
_CONFIG_PLACES = (".", "cfg", "../cfg", "../../cfg", "../../../../../cfg")


@dataclass(frozen=True)
class ReferenceCodec:
    """A reference encoder as an external program; PyAV decodes its streams.

    Attributes:
        spec: Name, qualities and range.
        software: Name of the software in tables: ``"HM"``, ``"VTM"``.
        programs: Names that the program may have on the PATH.
        variable: Environment variable that names the program; with ``_CFG`` added, its
            configuration.
        config: File name of the all-intra configuration.
        kind: FFmpeg's name of the stream's format.
        bits: Bits per sample of what is encoded.
        options: Arguments besides files, size and QP.
        seconds_per_pixel: Time allowed, ten times and more of what was measured.

    Example:
        >>> HM.spec.qualities, VTM.bits  # QP: the smaller, the better
        ((47, 42, 37, 32), 10)
    """

    spec: CodecSpec
    software: str
    programs: tuple[str, ...]
    variable: str
    config: str
    kind: str
    bits: int
    options: tuple[str, ...]
    seconds_per_pixel: float

    def available(self) -> Availability:
        """Whether the program, its configuration and PyAV are here, and code a grey square."""
        state = pyav()
        if not state.ok:
            return state
        try:
            return Availability(ok=True, version=_try_out(self, *self._files()))
        except CodecError as error:
            return Availability(
                ok=False,
                reason=str(error),
                install=(
                    f"build {self.software} and name {self.programs[0]} with {self.variable}, "
                    f"{self.config} with {self.variable}_CFG"
                ),
            )

    def fingerprint(self) -> dict[str, Any]:
        """Version, program, configuration and options."""
        require_available(self.spec.name, self.available())
        program, config = self._files()
        return {
            "codec": self.spec.name,
            "library": self.software,
            "version": _try_out(self, program, config),
            "sha256": file_sha256(program),
            "config_sha256": file_sha256(config),
            "options": {
                "arguments": " ".join(self.options),
                "colour": f"bt601 full 420 {self.bits}",
            },
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: QP; lower is better.

        Raises:
            CodecError: If the program, its configuration or PyAV is missing, it is not an RGB
                image, or cannot be coded.
            ConfigError: If the QP is out of range.
        """
        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        require_available(self.spec.name, self.available())
        return self._code(*self._files(), rgb, quality)[0]

    def _files(self) -> tuple[Path, Path]:
        """The program and its configuration."""
        program = self._find_program()
        wanted = os.environ.get(f"{self.variable}_CFG")
        if wanted:
            config = Path(wanted).expanduser().absolute()
            if not config.is_file():
                raise CodecError(f"{self.variable}_CFG={wanted} is no file")
            return program, config
        # A link on the PATH leads to where it was built.
        for folder in (program.parent, program.resolve().parent):
            for place in _CONFIG_PLACES:
                if (config := folder / place / self.config).is_file():
                    return program, config
        raise CodecError(f"{self.config} is not beside {program}: name it with {self.variable}_CFG")

    def _find_program(self) -> Path:
        wanted = os.environ.get(self.variable)
        if wanted:
            program = Path(wanted).expanduser().absolute()
            if not program.is_file():
                raise CodecError(f"{self.variable}={wanted} is no file")
            return program
        for name in self.programs:
            if found := shutil.which(name):
                return Path(found).absolute()
        raise CodecError(
            f"no {self.software}: {self.variable} is unset, and none of "
            f"{', '.join(self.programs)} is on the PATH"
        )

    def _code(
        self, program: Path, config: Path, rgb: NDArray[np.uint8], qp: int
    ) -> tuple[Degraded, str]:
        """The coded picture and what the program said."""
        from ucip_adapt.codecs.yuv import to_planes

        planes = to_planes(rgb, bits=self.bits)
        height, width = planes.y.shape
        with private_dir() as folder:
            (folder / "in.yuv").write_bytes(planes.tobytes())
            command: list[str | Path] = [
                *(program, "-c", config, "-i", "in.yuv", "-b", "out.bin", "-o", "rec.yuv"),
                *("-wdt", str(width), "-hgt", str(height), "-fr", "1", "-f", "1", "-q", str(qp)),
                *self.options,
            ]
            start = time.perf_counter()
            said = run_encoder(
                command,
                timeout_s=60 + self.seconds_per_pixel * planes.y.size,
                workdir=folder,
                what=self.spec.name,
                output=folder / "out.bin",
            )
            seconds = time.perf_counter() - start
            data = read_output(folder / "out.bin", what=self.spec.name)
        pixels = decode_rgb(data, self.kind, *rgb.shape[:2], what=self.spec.name)
        coded = Degraded(pixels=pixels, num_bytes=len(data), stream=data, seconds=seconds)
        return coded, said.decode("utf-8", errors="replace")


def _try_out(codec: ReferenceCodec, program: Path, config: Path) -> str:
    """Software and version, from what it says while it codes a grey square."""
    return _probe(codec, program, config, file_sha256(program), file_sha256(config))


@functools.cache
def _probe(codec: ReferenceCodec, program: Path, config: Path, _program: str, _config: str) -> str:
    import numpy as np

    grey = np.full((16, 16, 3), 128, np.uint8)
    _, said = codec._code(program, config, grey, codec.spec.qualities[-1])
    version = re.search(r"Encoder Version \[?([\w.]+)", said)
    return f"{codec.software} {version[1] if version else '(unknown version)'}"


# ConformanceWindowMode=1 lets the encoder pad to its own block size and crop again by itself.
_OPTIONS_HM = (
    *("--InputBitDepth=8", "--OutputBitDepth=8", "--ConformanceWindowMode=1", "--Level=6.2"),
    "--SEIDecodedPictureHash=0",
)
# Without TemporalSubsampleRatio=1 the intra configuration of VTM is for every 8th frame.
_OPTIONS_VTM = (
    *("--InputBitDepth=10", "--OutputBitDepth=10", "--ConformanceWindowMode=1", "--Level=6.2"),
    *("--SEIDecodedPictureHash=0", "--TemporalSubsampleRatio=1"),
)

HM = ReferenceCodec(
    spec=CodecSpec("hm", "hevc", "qp", (47, 42, 37, 32), (0, 51)),
    software="HM",
    programs=("TAppEncoderStatic", "TAppEncoder"),
    variable="UCIP_HM",
    config="encoder_intra_main.cfg",
    kind="hevc",
    bits=8,
    options=_OPTIONS_HM,
    seconds_per_pixel=5e-4,
)

VTM = ReferenceCodec(
    spec=CodecSpec("vtm", "vvc", "qp", (47, 42, 37, 32), (0, 63)),
    software="VTM",
    programs=("EncoderAppStatic", "EncoderApp"),
    variable="UCIP_VTM",
    config="encoder_intra_vtm.cfg",
    kind="vvc",
    bits=10,
    options=_OPTIONS_VTM,
    seconds_per_pixel=1e-2,
)
