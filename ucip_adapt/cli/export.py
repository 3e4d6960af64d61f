"""Write a base, with an adapter or without, as one file for other programs."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.errors import ConfigError, DataError, NonFiniteError

if TYPE_CHECKING:
    from ucip_adapt.models import UCIP

__all__ = ["add_arguments", "run"]

_FORMATS = {".onnx": "onnx", ".safetensors": "safetensors"}

_ROUNDING = 1e-3
"""Largest difference to PyTorch that float32 weights may show; measured ones are under 1e-6."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt export`."""
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="FILE", help="The file to write.")
    add(
        "--format",
        choices=["onnx", "safetensors"],
        help="onnx (base and adapter merged, any size of image) or safetensors (the same network "
        "with its configuration, for ucip_adapt and spandrel). Default: by the file's ending.",
    )
    add("--adapter", default="none", help="none, or the name, folder or Hub id of one.")
    add("--base", help="Base network: name, folder or Hub id. Default: the adapter's own.")
    add("--revision", help="Branch, tag or commit of an adapter on the Hub.")
    add(
        "--dtype",
        default="float32",
        choices=["float32", "float16", "bfloat16"],
        help="What weights are stored in; bfloat16 for safetensors only. Default: float32.",
    )
    add("--opset", type=int, default=18, help="Version of ONNX's operators. Default: 18.")
    add(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Load the file again and compare it with PyTorch; ONNX by onnxruntime. Default: yes.",
    )
    add("--overwrite", action="store_true", help="Replace a file that is there.")
    add("--json", action="store_true", help="Print one JSON object, for programs.")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, compare it with PyTorch, and say what it is."""
    path = Path(arguments.output)
    file_format = arguments.format or _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ConfigError(
            f"cannot tell the format of '{path.name}': end it in .onnx or .safetensors, or give "
            "--format"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} into: make it")
    if path.exists() and not arguments.overwrite:
        raise ConfigError(f"{path} exists: give --overwrite, or another name")
    if file_format == "onnx":
        # Before anything is loaded: a missing package is known at once.
        from ucip_adapt.interop.onnx import require_onnx

        require_onnx("export")
        if arguments.check:
            require_onnx("check")
    from ucip_adapt.atomic import replaced
    from ucip_adapt.interop.merged import merge

    adapter = None if arguments.adapter == "none" else arguments.adapter
    merged = merge(adapter, base=arguments.base, revision=arguments.revision)
    metadata = merged.metadata(cuts_windows=file_format == "safetensors")
    write = _write_onnx if file_format == "onnx" else _write_safetensors
    try:
        with replaced(path) as temporary:  # what fails its check replaces nothing
            differences = write(arguments, temporary, merged.network, metadata)
            _refuse_wrong(arguments, path, differences)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    report = {
        "file": path.name,
        "format": file_format,
        "bytes": path.stat().st_size,
        "dtype": arguments.dtype,
        "opset": arguments.opset if file_format == "onnx" else None,
        "metadata": metadata,
        "max_difference": max((item["maximum"] for item in differences), default=None),
        "differences": differences,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if arguments.json else _text(report))
    return 0


def _refuse_wrong(
    arguments: argparse.Namespace, path: Path, differences: list[dict[str, Any]]
) -> None:
    """Stop at a file that gives other pictures; of rounded weights how far is not known ahead."""
    most = _ROUNDING if arguments.dtype == "float32" else math.inf
    for item in differences:
        if not (item["maximum"] <= most and math.isfinite(item["maximum"])):
            raise NonFiniteError(
                f"{path.name} is not written: it differs from PyTorch by {item['maximum']:.3g}, "
                f"more than rounding ({_ROUNDING}); report it with the output of `ucip-adapt env`"
            )


def _write_onnx(
    arguments: argparse.Namespace, path: Path, network: UCIP, metadata: dict[str, str]
) -> list[dict[str, Any]]:
    from ucip_adapt.interop.onnx import check_onnx, export_onnx

    export_onnx(network, path, metadata=metadata, opset=arguments.opset, dtype=arguments.dtype)
    found = check_onnx(path, network) if arguments.check else []
    return [item.to_dict() for item in found]


def _write_safetensors(
    arguments: argparse.Namespace, path: Path, network: UCIP, metadata: dict[str, str]
) -> list[dict[str, Any]]:
    import torch

    from ucip_adapt.models import load_single_file, save_single_file

    stored = getattr(torch, arguments.dtype)
    save_single_file(network, path, dtype=stored, metadata=metadata)
    if not arguments.check:
        return []
    batch, height, width = size = (1, 32, 48)
    lq = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maximum = float((load_single_file(path)(lq) - network(lq)).abs().max())
    return [dict(zip(("batch", "height", "width", "maximum"), (*size, maximum), strict=True))]


def _text(report: dict[str, Any]) -> str:
    metadata = report["metadata"]
    lines = [
        f"{report['file']}: {report['format']}, {report['bytes']:,} bytes, {report['dtype']}",
        f"base {metadata['base']}, adapter {metadata['adapter']}, licence {metadata['licence']}",
        f"to be applied to {metadata['inference']}",
    ]
    lines += [
        f"{item['batch']} x {item['height']} x {item['width']}: differs from PyTorch by at most "
        f"{item['maximum']:.2g}"
        for item in report["differences"]
    ]
    return "\n".join(lines) + "\n"
