"""R25: encoders that hang, fail, talk too much or write the wrong thing."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ucip_adapt.codecs import process
from ucip_adapt.codecs.process import private_dir, read_output, run_encoder
from ucip_adapt.errors import CodecError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")

# -S and -E: a fake encoder starts in half the time without site-packages.
PYTHON = [sys.executable, "-S", "-E", "-c"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the system's temporary one: what is left there shows."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def run(code: str, *words: str, timeout_s: float = 60, **options) -> bytes:
    with private_dir() as folder:
        argv = [*PYTHON, code, *words]
        return run_encoder(argv, timeout_s=timeout_s, workdir=folder, what="fake", **options)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, within_s: float = 5) -> bool:
    limit = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not alive(pid)


def test_words_and_bytes_arrive_as_they_are(temporary: Path) -> None:
    """Nothing is split, expanded or run by a shell."""
    words = ("a b", "$(touch hurt)", "; touch hurt", "*", "'", "-x")
    data = bytes(range(256)) * 4096  # more than a pipe holds, both ways
    code = "import os, sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); print(sys.argv[1:])"
    out = run(code, *words, stdin=data)
    assert out == data + f"{list(words)}\n".encode()
    assert run("import os; print(os.listdir())") == b"[]\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_hanging_encoder_and_its_children_are_ended(temporary: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time; print('still at row 3', file=sys.stderr, flush=True);"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); open('half', 'w').write('x');"
        "time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(CodecError, match=r"fake: ran longer than 2 s and was ended.*still at row"):
        run(code, str(pids), timeout_s=2)
    assert time.monotonic() - start < 15
    assert all(ends(int(pid)) for pid in pids.read_text().split())
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_what_a_finished_encoder_leaves_running_is_ended(temporary: Path, tmp_path: Path) -> None:
    """A child that holds the pipes would otherwise make us wait for it."""
    pids = tmp_path / "pids"
    code = (
        "import subprocess, sys; print('done', flush=True);"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        "open(sys.argv[1], 'w').write(str(child.pid))"
    )
    assert run(code, str(pids)) == b"done\n"
    assert ends(int(pids.read_text()))


FAILURES = {
    "exit 1": ("import sys; sys.exit('no such preset')", r"exit code 1; .*words: no such preset$"),
    "killed": ("import os; os.abort()", r"exit code -6$"),
    "10 MB": (
        "import sys; sys.stderr.write('w' * 10_000_000 + ' the cause'); sys.exit(3)",
        r"exit code 3; its last words: w{1000,2000} the cause$",
    ),
    "not UTF-8": (
        r"import sys; sys.stderr.buffer.write(b'\xff\xfe\x1b[31m bad \0 byte'); sys.exit(1)",
        r"last words: .. \[31m bad byte$",
    ),
    "reads nothing": ("import sys; sys.exit('refused')", "refused"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_ends_with_the_encoders_own_words(temporary: Path, name: str) -> None:
    code, message = FAILURES[name]
    with pytest.raises(CodecError, match=r"^fake: .*" + message) as caught:
        run(code, stdin=b"x" * 1_000_000)
    assert len(str(caught.value)) < 2100
    assert "\x1b" not in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_an_encoder_that_writes_nothing_is_an_error(temporary: Path) -> None:
    words = "import sys; print('skipped', file=sys.stderr)"
    with pytest.raises(CodecError, match="fake: wrote nothing; its last words: skipped"):
        run(words, need_stdout=True)
    with private_dir() as folder:
        for code in (words, words + "; open('out', 'w')"):  # no file, an empty file
            with pytest.raises(CodecError, match="fake: wrote nothing; its last words: skipped"):
                run_encoder(
                    [*PYTHON, code],
                    timeout_s=60,
                    workdir=folder,
                    what="fake",
                    output=folder / "out",
                )


def test_too_much_output_is_an_error(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MAX_OUTPUT_BYTES", 1 << 20)
    endless = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(CodecError, match="fake: wrote more than 1 MiB to stdout"):
        run(endless)
    with private_dir() as folder:
        (folder / "out").write_bytes(bytes((1 << 20) + 1))
        with pytest.raises(CodecError, match="fake: wrote more than 1 MiB"):
            read_output(folder / "out", what="fake")
        (folder / "link").symlink_to(folder / "out")
        with pytest.raises(CodecError, match="fake: wrote nothing"):
            read_output(folder / "link", what="fake")


@pytest.mark.parametrize("program", ["no-such-encoder", "/etc/hostname", "a\0b"])
def test_a_program_that_cannot_be_started_is_named(program: str, temporary: Path) -> None:
    with private_dir() as folder, pytest.raises(CodecError, match="fake: cannot start '"):
        run_encoder([program], timeout_s=60, workdir=folder, what="fake")


def test_the_folder_is_private_and_gone_after_an_error(temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), private_dir() as folder:  # noqa: PT012
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"x")
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []
