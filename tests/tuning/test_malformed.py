"""R18, R19: weights that are no safetensors file, or a damaged one, are a typed error with a hint.

The sum of each file is written into the configuration anew, as somebody would who wants it to be
read: it is the reading that has to refuse it, not the comparison of sums.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ucip_adapt.cli import main
from ucip_adapt.errors import (
    AdapterError,
    AdapterKeyError,
    AdapterShapeError,
    AdapterValueError,
    UcipError,
)
from ucip_adapt.hub.library import verify_adapter
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import load_prompt_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

Header = dict[str, Any]
Change = Callable[[Header], object]


def _parts(content: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _file(header: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _first(header: Header) -> Header:
    """The entry whose values stand first in the file."""
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    return min(entries, key=lambda entry: entry["data_offsets"])


def _last(header: Header) -> Header:
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    return max(entries, key=lambda entry: entry["data_offsets"])


def _header(change: Change) -> Callable[[bytes], bytes]:
    """Change entries of the header, and leave the values as they are."""

    def make(content: bytes) -> bytes:
        header, data = _parts(content)
        change(header)
        return _file(header, data)

    return make


def _turned(header: Header) -> None:
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    next(shape for shape in shapes if len(set(shape)) > 1).reverse()


def _overlap(header: Header) -> None:
    second = sorted(
        (entry for name, entry in header.items() if name != "__metadata__"),
        key=lambda entry: entry["data_offsets"],
    )[1]
    second["data_offsets"] = [value - 4 for value in second["data_offsets"]]


def _hole(content: bytes) -> bytes:
    header, data = _parts(content)
    entry = _last(header)
    entry["data_offsets"] = [value + 8 for value in entry["data_offsets"]]
    return _file(header, data[:-8] + bytes(8) + data[-8:])


def _past_the_end(header: Header) -> None:
    entry = _last(header)
    entry["shape"] = [entry["shape"][0] + 1, *entry["shape"][1:]]
    size = 4 * math.prod(entry["shape"])
    entry["data_offsets"][1] = entry["data_offsets"][0] + size


def _twice(content: bytes) -> bytes:
    header, data = _parts(content)
    name = next(name for name in header if name != "__metadata__")
    again = f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    return _file(json.dumps(header)[:-1].encode() + again.encode(), data)


def _nan(content: bytes) -> bytes:
    header, data = _parts(content)
    begin = _first(header)["data_offsets"][0]
    return _file(header, data[:begin] + b"\x00\x00\xc0\x7f" + data[begin + 4 :])


def _huge(content: bytes) -> bytes:
    """A header that is in order and promises a tensor of 4 GB, in a file that has no such bytes."""
    header, data = _parts(content)
    _last(header)["shape"] = [1 << 30]
    return _file(header, data)


class _Trap:
    """Leaves a file behind where somebody unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("unpickled",)


PICKLE = pickle.dumps(_Trap())

MALFORMED: dict[str, tuple[Callable[[bytes], bytes], type[AdapterError], str]] = {
    "no bytes": (lambda _: b"", AdapterError, "is empty"),
    "seven bytes": (lambda _: b"1234567", AdapterError, "damaged or incomplete"),
    "header of no length": (lambda _: bytes(64), AdapterError, "damaged"),
    "header beyond the file": (
        lambda content: _file(*_parts(content), length=10**7),
        AdapterError,
        "damaged",
    ),
    "header over 100 MB": (
        lambda content: _file(*_parts(content), length=10**8 + 1),
        AdapterError,
        "damaged",
    ),
    "header of 2^63": (
        lambda content: _file(*_parts(content), length=1 << 63),
        AdapterError,
        "damaged",
    ),
    "header not UTF-8": (lambda _: _file(b'{"a\xff\xfe": 1}', b""), AdapterError, "damaged"),
    "header not JSON": (lambda _: _file(b"{not json", b""), AdapterError, "damaged"),
    "header no object": (lambda _: _file(b"[1, 2, 3]", b""), AdapterError, "damaged"),
    "header deep": (lambda _: _file(b"[" * 5000, b""), AdapterError, "damaged"),
    "unknown type": (
        _header(lambda header: _first(header).update(dtype="F99")),
        AdapterError,
        "damaged",
    ),
    "type of other size": (
        _header(lambda header: _first(header).update(dtype="F16")),
        AdapterError,
        "damaged",
    ),
    "overlap": (_header(_overlap), AdapterError, "damaged"),
    "hole": (_hole, AdapterError, "damaged"),
    "offset past the end": (_header(_past_the_end), AdapterError, "damaged"),
    "offsets reversed": (
        _header(lambda header: _first(header)["data_offsets"].reverse()),
        AdapterError,
        "damaged",
    ),
    "negative offset": (
        _header(lambda header: _first(header).update(data_offsets=[-4, 4])),
        AdapterError,
        "damaged",
    ),
    "shape not the span": (
        _header(lambda header: _first(header)["shape"].append(3)),
        AdapterError,
        "damaged",
    ),
    "shape that overflows": (
        _header(lambda header: _first(header).update(shape=[1 << 40, 1 << 40])),
        AdapterError,
        "damaged",
    ),
    "shape of 4 GB": (_huge, AdapterError, "damaged"),
    "truncated values": (lambda content: content[:-40], AdapterError, "damaged or incomplete"),
    "trailing bytes": (lambda content: content + b"x", AdapterError, "damaged"),
    "web page": (
        lambda _: b"<!DOCTYPE html><html><title>404</title></html>",
        AdapterError,
        "a web page, not the file behind it; download it again",
    ),
    "LFS pointer": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        AdapterError,
        "a Git LFS pointer; run `git lfs pull`",
    ),
    "pickle": (lambda _: PICKLE, AdapterError, "a pickle, which is not read"),
    "name twice": (_twice, AdapterError, "names .* twice"),
    "NaN": (_nan, AdapterValueError, "1 of .* values of .* are NaN"),
    "type of integers": (
        _header(lambda header: _first(header).update(dtype="I32")),
        AdapterValueError,
        "int32, expected floating point",
    ),
    "renamed": (
        _header(lambda header: header.update(other=header.pop(list(header)[-1]))),
        AdapterKeyError,
        r"1 have no place in the model \(other\)",
    ),
    "shape turned": (
        _header(_turned),
        AdapterShapeError,
        "expected",
    ),
}


def _replace(folder: Path, content: bytes) -> None:
    """Put other weights in place, and their sum into the configuration."""
    (folder / WEIGHTS).write_bytes(content)
    config = json.loads((folder / CONFIG).read_text())
    config["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / CONFIG).write_text(json.dumps(config))


def _peak_bytes() -> int:
    """Peak of the process's memory since the last :func:`_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def folder(make_adapter: Callable[..., Path]) -> Path:
    return make_adapter(trainable_set="dpm+offset")


def test_the_malformed_are_refused_at_little_cost(
    folder: Path,
    make_base: Callable[..., UCIP],
    snapshot: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    good = (folder / WEIGHTS).read_bytes()
    load_prompt_adapter(folder, make_base())
    base = make_base()
    before = snapshot(base)
    for name, (change, error, message) in MALFORMED.items():
        content = change(good)
        assert content != good, name
        _replace(folder, content)
        can_measure = os.access("/proc/self/clear_refs", os.W_OK)
        if can_measure:
            _forget_peak()
            start = _peak_bytes()
        began = time.process_time()
        with pytest.raises(error, match=message) as caught:
            load_prompt_adapter(folder, base)
        assert time.process_time() - began < 1, name
        assert type(caught.value) is error, name
        assert str(folder / WEIGHTS) in str(caught.value), name
        if can_measure:
            assert _peak_bytes() - start < 50_000_000, name
        assert snapshot(base) == before, name
    assert not Path("unpickled").exists()
    _replace(folder, good)
    load_prompt_adapter(folder, base)


def test_a_flipped_bit_is_seen_by_the_sum(folder: Path, make_base: Callable[..., UCIP]) -> None:
    """The one fault of a file that nothing but its sum can show."""
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-2] ^= 4
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match="was altered after it was saved"):
        load_prompt_adapter(folder, make_base())


# -- R19 -----------------------------------------------------------------------------------------


def _mutate(content: bytes, generator: random.Random) -> bytes:
    """Another content: bits flipped, bytes cut, doubled, moved, overwritten, at seeded places."""
    out = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 3])):
        at = generator.randrange(len(out))
        length = generator.choice([1, 2, 8, 64, len(out) // 3 + 1])
        kind = generator.randrange(6)
        if kind == 0:
            out[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            out[at : at + length] = generator.randbytes(length)
        elif kind == 4:
            out[at : at + length] = bytes(length)
        else:
            other = generator.randrange(len(out))
            out[at : at + length], out[other : other + length] = (
                out[other : other + length],
                out[at : at + length],
            )
        if not out:
            out = bytearray(b"\n")
    return bytes(out) if bytes(out) != content else content + b"\0"


def _near_the_start(content: bytes, generator: random.Random) -> bytes:
    """Mutate the header alone: at random places it would be hit too seldom."""
    end = 8 + int.from_bytes(content[:8], "little")
    return _mutate(content[:end], generator) + content[end:]


def _loads(folder: Path, base: UCIP, lq: Tensor) -> Tensor | None:
    """The image of the base with the adapter, or None where it is refused by a typed error."""
    try:
        model = load_prompt_adapter(folder, base)
    except UcipError:
        return None
    with torch.no_grad():
        sr = model(lq)
    model.unload()
    return sr


@pytest.mark.parametrize(
    "count", [51, pytest.param(501, marks=pytest.mark.slow)], ids=["short", "full"]
)
@pytest.mark.filterwarnings("ignore:.*unknown keys ignored")
def test_mutations_are_refused_or_change_nothing(
    count: int, make_adapter: Callable[..., Path], make_base: Callable[..., UCIP], lq: Tensor
) -> None:
    """A third each: weights, header of the weights with a new sum, configuration.

    Weights that differ from what was saved are always refused. With a sum that fits, whatever is
    not refused is a well-formed file of finite values. A configuration that is still read changes
    no pixel.
    """
    good = make_adapter(trainable_set="dpm")
    files = {path.name: path.read_bytes() for path in good.iterdir()}
    base = make_base()
    plain = {name: value.clone() for name, value in base.state_dict().items()}
    wanted = _loads(good, base, lq)
    assert wanted is not None
    refused = dict.fromkeys(("weights", "header", "configuration"), 0)
    for number in range(count):
        generator = random.Random(number)  # noqa: S311  # a seed of its own: each can be repeated
        kind = list(refused)[number % 3]
        for name, content in files.items():
            (good / name).write_bytes(content)
        if kind == "weights":
            (good / WEIGHTS).write_bytes(_mutate(files[WEIGHTS], generator))
        elif kind == "header":
            _replace(good, _near_the_start(files[WEIGHTS], generator))
        else:
            (good / CONFIG).write_bytes(_mutate(files[CONFIG], generator))
        sr = _loads(good, base, lq)
        refused[kind] += sr is None
        if kind == "weights":
            assert sr is None, number
        elif sr is not None:
            assert torch.isfinite(sr).all(), number
            if kind == "configuration":
                assert torch.equal(sr, wanted), number
    assert {name: torch.equal(value, plain[name]) for name, value in base.state_dict().items()} == (
        dict.fromkeys(plain, True)
    )
    # Neither all refused by the first check that there is, nor let through.
    assert refused["weights"] == count // 3
    assert refused["header"] > count // 5
    assert count // 10 < refused["configuration"] < count // 3


def test_verify_and_show_say_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands end with their exit code and one line, never with a traceback."""
    good = (folder / WEIGHTS).read_bytes()
    for name in ("no bytes", "LFS pointer", "pickle", "hole", "name twice"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        _replace(copy, MALFORMED[name][0](good))
        assert [check.name for check in verify_adapter(copy) if check.ok is False], name
        assert main(["adapters", "verify", str(copy)]) == 1
        assert "WRONG" in capsys.readouterr().out
        assert main(["adapters", "publish", str(copy), "--repo-id", "user/x"]) == 2
        assert "is not published" in capsys.readouterr().err
    (folder / CONFIG).write_text("{")
    assert main(["adapters", "show", str(folder)]) == 2
    assert "cannot read adapter_config.json" in capsys.readouterr().err
