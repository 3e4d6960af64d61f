"""A codec that is a program of the user's: ``command:cwebp -q {q} {in} -o {out}``."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.base import (
    Availability,
    CodecSpec,
    Degraded,
    check_rgb,
    require_available,
)
from ucip_adapt.codecs.process import private_dir, read_output, run_encoder
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.errors import CodecError, ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CommandCodec", "command_codec"]

PREFIX = "command:"
_DECODER_SIGN = " => "
_PLACEHOLDERS = ("in", "out", "q", "bits")
_ANY_QUALITY = (-1_000_000, 1_000_000)
_WHAT = "command"


@dataclass(frozen=True)
class CommandCodec:
    """A program that encodes, or encodes and decodes, with an optional second one that decodes.

    Attributes:
        spec: Its name is the whole text, ``command:`` included.
        encoder: Words of the first command.
        decoder: Words of the second command; empty if Pillow reads what the first one writes.
        timeout_s: Time limit of each run, in seconds.
    """

    spec: CodecSpec
    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    timeout_s: float

    def _commands(self) -> list[tuple[str, ...]]:
        return [words for words in (self.encoder, self.decoder) if words]

    def available(self) -> Availability:
        """Whether the programs are there."""
        for program, *_ in self._commands():
            if shutil.which(program) is None:
                return Availability(
                    ok=False,
                    reason=f"there is no program '{program}' on the PATH",
                    install="Install it, or write its whole path",
                )
        return Availability(ok=True)

    def fingerprint(self) -> dict[str, Any]:
        """The words, and the sha256 of the programs and of every file that the words name."""
        require_available(self.spec.name, self.available())
        programs = filter(None, (shutil.which(words[0]) for words in self._commands()))
        named = [_named_files(word) for words in self._commands() for word in words[1:]]
        files = [*programs, *(file for _, found in named for file in found)]
        options = {"encoder": list(self.encoder), "decoder": list(self.decoder)}
        # Sums alone do not say which of these files belongs to which quality.
        if several := [file for name, found in named if "{q}" in name for file in found]:
            options["files"] = several
        return {
            "codec": self.spec.name,
            "library": "command",
            "version": "",
            "options": options,
            "sha256": [file_sha256(Path(file)) for file in files],
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Run the program on an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image; the program gets it as PNG.
            quality: What stands for ``{q}``.

        Raises:
            CodecError: If a program is missing, fails, takes too long, or gives no image of the
                same size.
            ConfigError: If the quality is out of range.
        """
        from PIL import Image

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        require_available(self.spec.name, self.available())
        with private_dir() as folder:
            source, bits = folder / "in.png", folder / "bits"
            coded = folder / f"out{_suffix(self.encoder)}"
            decoded = folder / f"decoded{_suffix(self.decoder) or '.png'}"
            Image.fromarray(rgb).save(source)
            values = {"in": str(source), "bits": str(bits), "q": str(quality)}
            start = time.perf_counter()
            self._run(self.encoder, values, coded)
            seconds = time.perf_counter() - start
            if self.decoder:
                self._run(self.decoder, {**values, "in": str(coded)}, decoded)
            pixels = _read(decoded if self.decoder else coded, rgb.shape)
            has_bits = any("{bits}" in word for word in self.encoder)
            stream = read_output(bits if has_bits else coded, what=_WHAT)
        readable = not self.decoder and not has_bits
        return Degraded(pixels, len(stream), stream if readable else None, seconds)

    def _run(self, words: tuple[str, ...], values: Mapping[str, str], output: Path) -> None:
        # A suffix that stands behind {out} in a word is a part of the file's name already.
        named = output.with_suffix("") if _suffix(words) else output
        argv = [_fill(word, {**values, "out": str(named)}) for word in words]
        argv[0] = shutil.which(argv[0]) or argv[0]
        run_encoder(
            argv, timeout_s=self.timeout_s, workdir=output.parent, what=_WHAT, output=output
        )


def command_codec(text: str, *, timeout_s: float = 300.0) -> CommandCodec:
    """Understand a ``command:`` text.

    The text is split into words as a shell would do it, but no shell ever sees it: ``|``, ``;``,
    ``$`` and ``*`` are ordinary characters. In the words, ``{in}`` stands for a PNG file, ``{out}``
    for the file to write, ``{q}`` for the quality, and ``{bits}`` for a second file to write.

    What ``{out}`` names is the coded file, whose length is the rate. Pillow decodes it, or, if the
    text goes on with `` => `` and a second command, that one, from ``{in}`` to the PNG file
    ``{out}``. A program that encodes and decodes in one run writes the decoded image to ``{out}``
    and the bitstream to ``{bits}``. A suffix may follow (``{out}.jxl``) where the program goes by
    it.

    Args:
        text: The text with its prefix ``command:``.
        timeout_s: Time limit of each run, in seconds.

    Returns:
        The codec. Files that a word names, or the part of it behind its first ``=``, and folders
        that are named with a slash, are made absolute, because programs run in a folder of their
        own; ``{q}`` in a file's name (``model_{q}.pt``) stands for a whole number there, too.

    Raises:
        ConfigError: If ``{in}`` or ``{out}`` is missing, a placeholder is unknown, or a quotation
            mark is left open.

    Example:
        >>> command_codec("command:cwebp -q {q} {in} -o {out}").encoder
        ('cwebp', '-q', '{q}', '{in}', '-o', '{out}')
    """
    first, sign, second = text.removeprefix(PREFIX).partition(_DECODER_SIGN)
    encoder = _words(first, text)
    decoder = _words(second, text) if sign else ()
    # Without {q} there is one setting, which 0 names.
    takes_quality = any("{q}" in word for word in (*encoder, *decoder))
    spec = CodecSpec(
        name=text,
        family="command",
        parameter="q",
        qualities=() if takes_quality else (0,),
        quality_range=_ANY_QUALITY if takes_quality else (0, 0),
        faithful=False,
    )
    return CommandCodec(spec, encoder, decoder, timeout_s)


def _words(template: str, text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ConfigError(f"'{text}': {error}".replace("No closing", "no closing")) from None
    named = [name for word in words for name in re.findall(r"\{(\w+)\}", word)]
    for name in named:
        if name not in _PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in _PLACEHOLDERS)
            raise ConfigError(f"'{text}': unknown placeholder {{{name}}}. Known: {known}")
    for name in ("in", "out"):
        if named.count(name) != 1:
            raise ConfigError(f"'{text}': each command has to name {{{name}}} once")
    program, *rest = words
    # A bare name is looked up on the PATH, whatever lies in the current folder. No links are
    # followed: an interpreter finds its packages beside the name that it was called by.
    if os.sep in program:
        program = os.path.abspath(program)
    return (program, *map(_absolute, rest))


def _absolute(word: str) -> str:
    name, files = _named_files(word)
    if files:
        return word.removesuffix(name) + os.path.abspath(name)
    for name in (word, word.partition("=")[2]):
        # A folder called `fast` must not turn the preset of that name into a path.
        if os.sep in name and os.path.isdir(name):
            end = os.sep if name.endswith(os.sep) else ""
            return word.removesuffix(name) + os.path.abspath(name) + end
    return word


def _named_files(word: str) -> tuple[str, list[str]]:
    """What names files, the word or the part behind its first ``=``, and the files."""
    for name in (word, word.partition("=")[2]):
        if files := _files(name):
            return name, files
    return "", []


def _files(name: str) -> list[str]:
    """The file of that name, or the files that it names for any ``{q}``, sorted."""
    if os.path.isfile(name):
        return [name]
    # {q} alone is a quality, even where a file is called 10.
    if name == "{q}" or set(re.findall(r"\{(\w+)\}", name)) != {"q"}:
        return []
    path = os.path.abspath(name)
    pattern = glob.escape(path).replace("{q}", "*")
    wanted = re.compile(re.escape(path).replace(re.escape("{q}"), r"-?\d+"))
    found = glob.glob(pattern)
    return sorted(file for file in found if wanted.fullmatch(file) and os.path.isfile(file))


def _fill(word: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], word)


def _suffix(words: tuple[str, ...]) -> str:
    """What follows ``{out}`` as a file suffix: ``-o={out}.webp`` gives ``.webp``."""
    for word in words:
        if match := re.search(r"\{out\}(\.\w+)?", word):
            return match[1] or ""
    return ""


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the decoded image; its size is looked at before its pixels are."""
    from ucip_adapt.data.images import read_rgb
    from ucip_adapt.data.opening import open_image

    read_output(path, what=_WHAT)
    try:
        with open_image(path) as image:
            size = (image.height, image.width)
        pixels = read_rgb(path) if size == shape[:2] else None
    except (DataError, OSError, ValueError) as error:
        message = str(error).replace(str(path.parent) + "/", "")
        raise CodecError(f"{_WHAT}: its output cannot be read: {message}") from error
    if pixels is None or pixels.shape != shape:
        raise CodecError(f"{_WHAT}: gave {size} pixels for an image of {shape[:2]}")
    return pixels
