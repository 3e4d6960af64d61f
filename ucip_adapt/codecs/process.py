"""Run an external encoder: no shell, a time limit, a private folder, its stderr in the error."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ucip_adapt.errors import CodecError

__all__ = ["private_dir", "read_output", "run_encoder"]

_TAIL_BYTES = 2000
"""How much of stderr an error repeats."""

_MAX_OUTPUT_BYTES = 1 << 28
"""What an encoder may write to stdout or to its file; the largest image we take needs less."""

_CHUNK_BYTES = 1 << 16


@contextlib.contextmanager
def private_dir() -> Iterator[Path]:
    """Make a temporary folder that only this user can read, and remove it with all it holds.

    Example:
        >>> with private_dir() as folder:
        ...     _ = (folder / "in.yuv").write_bytes(b"...")
        >>> folder.exists()
        False
    """
    # An encoder that was ended a moment ago may still be closing a file.
    with tempfile.TemporaryDirectory(prefix="ucip-codec-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def run_encoder(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | None = None,
    timeout_s: float,
    workdir: Path,
    what: str,
    output: Path | None = None,
    need_stdout: bool = False,
) -> bytes:
    r"""Run a program to its end, or end it and all that it started.

    Args:
        argv: Program and arguments, each one word; no shell ever reads them.
        stdin: What it may read; nothing by default.
        timeout_s: Time limit, in seconds of wall time.
        workdir: Folder that it runs in, see :func:`private_dir`.
        what: Name for the messages (``"hm"``).
        output: File that it has to have written.
        need_stdout: Whether it has to have written to stdout.

    Returns:
        What it wrote to stdout.

    Raises:
        CodecError: If it cannot be started, is too slow, fails, or writes nothing or too much; the
            message ends with the tail of its stderr.

    Example:
        >>> with private_dir() as folder:
        ...     run_encoder(["echo", "a b"], timeout_s=60, workdir=folder, what="echo")
        b'a b\n'
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of words, and no shell
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=workdir,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CodecError(f"{what}: cannot start {os.fspath(argv[0])!r}: {error}") from error

    pipes = _Pipes(process, stdin)
    try:
        process.wait(timeout=timeout_s)
        problem = f"exit code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"ran longer than {timeout_s:g} s and was ended"
    finally:
        # Also on Ctrl-C: nothing that we started outlives the call.
        if process.returncode is None:
            _end_group(process)
            process.wait()
    pipes.finish()
    if pipes.too_much:
        problem = f"wrote more than {_MAX_OUTPUT_BYTES >> 20} MiB to stdout"
    elif not problem and (
        (need_stdout and not pipes.stdout) or (output is not None and not _has_bytes(output))
    ):
        problem = "wrote nothing"
    if problem:
        raise CodecError(f"{what}: {problem}{pipes.last_words()}")
    return bytes(pipes.stdout)


class _Pipes:
    """Feed and empty the pipes of a process, so that neither side waits for the other."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes | None) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.too_much = False
        self._process = process
        jobs = [(self._read_stdout, process.stdout), (self._read_stderr, process.stderr)]
        self._threads = [
            threading.Thread(target=job, args=(pipe,), daemon=True) for job, pipe in jobs
        ]
        if stdin is not None:
            self._threads.append(
                threading.Thread(target=self._write, args=(process.stdin, stdin), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def _write(self, pipe: IO[bytes], data: bytes) -> None:
        # A program that fails early does not read to the end; its exit code tells why.
        with contextlib.suppress(OSError, ValueError), pipe:
            pipe.write(data)

    def _read_stdout(self, pipe: IO[bytes]) -> None:
        for chunk in self._chunks(pipe):
            self.stdout += chunk
            if len(self.stdout) > _MAX_OUTPUT_BYTES and not self.too_much:
                self.too_much = True
                self.stdout.clear()
                _end_group(self._process)

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        for chunk in self._chunks(pipe):
            self.stderr += chunk
            del self.stderr[:-_TAIL_BYTES]  # 10 MB of warnings must not stay in memory

    @staticmethod
    def _chunks(pipe: IO[bytes]) -> Iterator[bytes]:
        with contextlib.suppress(OSError, ValueError), pipe:
            while chunk := os.read(pipe.fileno(), _CHUNK_BYTES):
                yield chunk

    def finish(self) -> None:
        """Wait until all is read; end what still holds the pipes after the program itself ended."""
        for thread in self._threads:
            thread.join(timeout=1)
        if any(thread.is_alive() for thread in self._threads):
            _end_group(self._process)  # it has members, so its number is not another's yet
            for thread in self._threads:
                thread.join(timeout=1)

    def last_words(self) -> str:
        text = self.stderr.decode("utf-8", errors="replace").strip()
        # Control characters of a stranger's program stay out of the terminal.
        shown = "".join(char if char.isprintable() else " " for char in text)
        return f"; its last words: {' '.join(shown.split())}" if shown.strip() else ""


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children; it leads a group of its own."""
    if os.name == "nt":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def read_output(path: Path, *, what: str) -> bytes:
    """Read a file that an encoder wrote.

    Args:
        path: The file.
        what: Name for the messages.

    Raises:
        CodecError: If it is not there, empty, a link, or too large.

    Example:
        >>> with private_dir() as folder:
        ...     _ = (folder / "out.bin").write_bytes(b"stream")
        ...     read_output(folder / "out.bin", what="hm")
        b'stream'
    """
    if path.is_symlink() or not _has_bytes(path):
        raise CodecError(f"{what}: wrote nothing")
    if path.stat().st_size > _MAX_OUTPUT_BYTES:
        raise CodecError(f"{what}: wrote more than {_MAX_OUTPUT_BYTES >> 20} MiB")
    return path.read_bytes()
