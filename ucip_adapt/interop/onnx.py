"""A network as an ONNX file for any size of image, checked against PyTorch.

Needs ``onnx``, ``onnxscript`` and, for the check, ``onnxruntime``: ``pip install
"ucip-adapt[onnx]"``.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import Dim

from ucip_adapt.errors import ConfigError
from ucip_adapt.interop.merged import write_bytes
from ucip_adapt.models import SCALE, UCIP

__all__ = [
    "CHECK_SIZES",
    "OPSETS",
    "Difference",
    "Stored",
    "check_onnx",
    "export_onnx",
    "require_onnx",
]

Stored = Literal["float32", "float16"]

_Model = Any  # onnx.ModelProto; the optional package has no types for a checker that lacks it

OPSETS = (18, 19, 20, 21)
"""Versions of ONNX's operators that files are written for."""

CHECK_SIZES = ((1, 8, 8), (1, 13, 31), (2, 24, 17), (1, 48, 64))
"""Batch, height and width of the images that a file is checked with; none is the exported size."""

_NEEDED = {"export": ("onnx", "onnxscript"), "check": ("onnx", "onnxruntime")}


def require_onnx(purpose: Literal["export", "check"]) -> None:
    """Check that the packages are there.

    Args:
        purpose: What they are for.

    Raises:
        ConfigError: With the line that installs them.
    """
    missing = [name for name in _NEEDED[purpose] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}, which is not installed: "
            'pip install "ucip-adapt[onnx]", or pip install onnx onnxscript onnxruntime'
        )


def export_onnx(
    network: UCIP,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSETS[0],
    dtype: Stored = "float32",
) -> int:
    """Write a network as ONNX: input ``lq``, output ``sr``, batch, height and width left open.

    The file computes what ``network(lq)`` computes, on whole inputs: windows are the caller's.

    Args:
        network: The network, without an adapter (:func:`ucip_adapt.interop.merged.merge`).
        path: The file; complete before it takes its name.
        metadata: Entries of the file's ``metadata_props``.
        opset: Version of ONNX's operators, one of :data:`OPSETS`.
        dtype: What weights are stored in; they are computed with in float32 either way.

    Returns:
        Size of the file in bytes.

    Raises:
        ConfigError: If a package is missing or an option unknown.
        BaseFormatError: If the file cannot be written.
    """
    require_onnx("export")
    if opset not in OPSETS:
        raise ConfigError(f"opset={opset}: known are {', '.join(map(str, OPSETS))}")
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"dtype '{dtype}': ONNX files are stored in float32 or float16")
    model = _model_proto(network, opset)
    if dtype == "float16":
        _store_as_half(model)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = model.SerializeToString(deterministic=True)
    write_bytes(Path(path), content)
    return len(content)


def _model_proto(network: UCIP, opset: int) -> _Model:
    names = {0: "batch", 2: "height", 3: "width"}
    smallest = {0: 1, 2: 2, 3: 2}
    shapes = {"lq": {axis: Dim(name, min=smallest[axis]) for axis, name in names.items()}}
    # Neither 1 image nor a square: what is equal in the example would be equal in the file.
    example = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _quiet():
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=opset, input_names=["lq"], output_names=["sr"]
        )
    if exported is None:
        raise ConfigError("PyTorch's exporter gave no program; update torch and onnxscript")
    model: _Model = exported.model_proto
    _rename_axes(model, names)
    _drop_notes(model)
    return model


def _rename_axes(model: _Model, names: Mapping[int, str]) -> None:
    """The exporter numbers open axes ("s92"); their names are what a reader looks for."""
    for axis, name in names.items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
        factor = "" if axis == 0 else f"{SCALE}*"
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = factor + name
    # Shapes in between are hints in terms of the old names; every reader infers its own.
    del model.graph.value_info[:]


def _drop_notes(model: _Model) -> None:
    """Leave out the exporter's notes on each node: lines of source with paths of this machine."""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph):
        del item.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def _store_as_half(model: _Model) -> None:
    """Store weights in float16 and cast them back before their first use; runtimes fold that."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    number = onnx.TensorProto.FLOAT
    casts = []
    for tensor in model.graph.initializer:
        # Single numbers (epsilons, cubic coefficients) gain nothing and lose digits.
        if tensor.data_type != number or not len(tensor.dims):
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < 64:
            continue
        name = tensor.name
        stored = f"{name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=number))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks on absent optional packages to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Difference:
    """How far a file is from PyTorch on one random image.

    Attributes:
        batch: Images.
        height: Rows of the input.
        width: Columns of the input.
        maximum: Largest absolute difference of a value, images being in [0, 1].
    """

    batch: int
    height: int
    width: int
    maximum: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check_onnx(
    path: str | Path, network: UCIP, *, sizes: Sequence[tuple[int, int, int]] = CHECK_SIZES
) -> list[Difference]:
    """Run a file by onnxruntime and the network by PyTorch on the same images.

    Args:
        path: The file.
        network: The network that it was made from.
        sizes: Batch, height and width of the images.

    Returns:
        The differences, one per size.

    Raises:
        ConfigError: If onnxruntime is missing.
    """
    require_onnx("check")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    generator = torch.Generator().manual_seed(1)
    found = []
    for batch, height, width in sizes:
        lq = torch.rand(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            expected = network(lq)
        (sr,) = session.run(["sr"], {"lq": lq.numpy()})
        difference = float((torch.from_numpy(sr) - expected).abs().max())
        found.append(Difference(batch, height, width, difference))
    return found
