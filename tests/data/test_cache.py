"""The cache of decoded images: never half a file, damage made good, shared, and clear when full."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ucip_adapt.data.cache
from ucip_adapt.data import ArrayCache, default_cache_dir
from ucip_adapt.data.cache import file_digest
from ucip_adapt.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def refuse() -> np.ndarray:
    raise AssertionError("made again although the cache holds it")


@contextmanager
def limited(name: str, value: int) -> Iterator[None]:
    """Lower a limit of this process for a moment."""
    resource = pytest.importorskip("resource", reason="limits of a process are a POSIX matter")
    kind = getattr(resource, name)
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_an_array_is_made_once(cache: ArrayCache) -> None:
    np.testing.assert_array_equal(cache.get("key", lambda: IMAGE), IMAGE)
    np.testing.assert_array_equal(ArrayCache(cache.root).get("key", refuse), IMAGE)
    np.testing.assert_array_equal(cache.get("other key", lambda: IMAGE[:3]), IMAGE[:3])


def test_what_it_gives_cannot_be_written_to(cache: ArrayCache) -> None:
    with pytest.raises(ValueError, match="read-only"):
        cache.get("key", lambda: IMAGE)[0, 0, 0] = 1


def test_any_memory_layout_is_stored_right(cache: ArrayCache) -> None:
    for number, array in enumerate((IMAGE[::-1, ::2], IMAGE.transpose(1, 0, 2), IMAGE[:1, :1])):
        np.testing.assert_array_equal(cache.get(f"{number}", lambda a=array: a), array)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:60],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\0" * len(data),
        lambda data: b"PK\x03\x04" + data[4:],
        lambda data: data.replace(b"|u1", b"|i1"),
        lambda data: data.replace(b"(40, 50, 3)", b"(40, 50, 4)"),
        lambda data: data.replace(b"'shape': (", b"'shape': )"),
    ],
)
def test_a_damaged_file_is_made_again(cache: ArrayCache, damage) -> None:
    cache.get("key", lambda: IMAGE)
    path = cache.path("key")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    np.testing.assert_array_equal(cache.get("key", lambda: IMAGE), IMAGE)
    np.testing.assert_array_equal(cache.get("key", refuse), IMAGE)
    assert path.read_bytes() != damaged


def test_a_maker_that_fails_leaves_nothing(cache: ArrayCache) -> None:
    with pytest.raises(AssertionError):
        cache.get("key", refuse)
    assert not cache.root.exists()


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(cache: ArrayCache) -> None:
    cache.get("small", lambda: IMAGE[:2])
    big = np.zeros((400, 400, 3), np.uint8)
    with (
        limited("RLIMIT_FSIZE", 100_000),
        pytest.raises(DataError, match=r"cannot write 0\.5 MB to the image cache .*") as caught,
    ):
        cache.get("big", lambda: big)
    message = str(caught.value)
    assert str(cache.root) in message
    assert "File too large" in message  # what the system said, not how many bytes NumPy counted
    assert "--cache_dir or UCIP_CACHE" in message
    assert [path for path in cache.root.rglob("*") if path.is_file()] == [cache.path("small")]
    np.testing.assert_array_equal(cache.get("big", lambda: big), big)


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"image cache .*file: .*Not a directory.*--cache_dir"):
        ArrayCache(tmp_path / "file").get("key", lambda: IMAGE)


def test_an_interrupted_write_publishes_nothing(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.get("key", lambda: IMAGE)
    assert not [path for path in cache.root.rglob("*") if path.is_file()]


def test_who_comes_second_where_files_cannot_be_replaced_takes_the_first_ones(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace a file that another process has open."""

    real = os.replace

    def replace(source: Path, target: Path) -> None:
        np.save(target.with_suffix(".tmp.npy"), IMAGE)
        real(target.with_suffix(".tmp.npy"), target)
        raise PermissionError(13, "The process cannot access the file")

    monkeypatch.setattr(os, "replace", replace)
    np.testing.assert_array_equal(cache.get("key", lambda: IMAGE), IMAGE)


SHARE = """
import hashlib, importlib.util, sys
from pathlib import Path
import numpy as np
spec = importlib.util.spec_from_file_location("cache", sys.argv[1])  # without its package and torch
module = sys.modules["cache"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
cache, digest, made = module.ArrayCache(Path(sys.argv[2])), hashlib.sha256(), 0
print("ready", flush=True)
sys.stdin.readline()
for key in range(150):
    def make():
        global made
        made += 1
        return np.random.default_rng(key).integers(0, 256, (30, 30 + key, 3), dtype=np.uint8)
    digest.update(cache.get(f"{key}", make).tobytes())
print(digest.hexdigest(), made)
"""


def test_two_processes_share_a_cache(cache: ArrayCache) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(ucip_adapt.__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, ucip_adapt.data.cache.__file__, str(cache.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:  # both start on the same keys at once
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert outputs[0][0] == outputs[1][0]
    assert int(outputs[0][1]) + int(outputs[1][1]) >= 150
    files = [path for path in cache.root.rglob("*") if path.is_file()]
    assert len(files) == 150
    assert {path.suffix for path in files} == {".npy"}


def test_threads_parse_headers_one_after_the_other(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get("a", lambda: np.zeros((2, 2, 3), np.uint8))
    real, inside, most = np.lib.format.open_memmap, [], []

    def counted(*args: object, **options: object) -> object:
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.005)
        try:
            return real(*args, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(np.lib.format, "open_memmap", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.get("a", refuse), range(12)))
    assert (len(most), max(most)) == (12, 1)


def test_a_reference_reads_parts_and_all(cache: ArrayCache) -> None:
    kept = cache.reference("key", lambda: IMAGE)
    assert kept.shape == IMAGE.shape
    np.testing.assert_array_equal(kept[3:20, 7:9], IMAGE[3:20, 7:9])
    np.testing.assert_array_equal(np.asarray(kept), IMAGE)
    assert np.asarray(kept, dtype=np.float32).dtype == np.float32
    assert cache.reference("key", refuse) == kept


def test_a_reference_pickles_as_a_name(cache: ArrayCache) -> None:
    kept = cache.reference("key", lambda: np.zeros((1000, 1000, 3), np.uint8))
    pickled = pickle.dumps(kept)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled)[:9, :9], kept[:9, :9])  # noqa: S301


def test_a_relative_cache_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ArrayCache(Path("here")).reference("key", lambda: IMAGE)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(kept[:2, :2], IMAGE[:2, :2])


def test_references_hold_no_open_files(cache: ArrayCache) -> None:
    """At 1024 descriptors, the usual limit, 207 memory-mapped images at four qualities fail."""
    here = Path("/proc/self/fd")
    if not here.is_dir():
        pytest.skip("counts open files in /proc, which is there on Linux only")
    before = len(list(here.iterdir()))
    kept = [cache.reference(f"{key}", lambda: IMAGE) for key in range(60)]
    with limited("RLIMIT_NOFILE", before + 20):
        parts = [image[:5, :5] for image in kept]
    assert len(parts) == 60
    assert len(list(here.iterdir())) <= before + 1


@pytest.mark.parametrize("change", ["gone", "short"])
def test_a_file_that_vanished_during_the_run_is_named(cache: ArrayCache, change: str) -> None:
    kept = cache.reference("key", lambda: IMAGE)
    path = Path(kept.path)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(
        DataError, match=r"image cache changed during the run: .*\.npy.* Start again"
    ):
        kept[:2, :2]


def test_the_folder_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UCIP_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.setenv("UCIP_CACHE", "")
    assert default_cache_dir() == Path.home() / ".cache" / "ucip_adapt"


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UCIP_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(DataError, match=r"home directory\. Set UCIP_CACHE"):
        default_cache_dir()


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == known
    with pytest.raises(DataError, match=r"cannot read image .*gone"):
        file_digest(tmp_path / "gone")
