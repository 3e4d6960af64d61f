"""The file of a codec: half-precision weights, exact constants and tables, notes on training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ucip_adapt.atomic import write_atomically
from ucip_adapt.codecs.learned.coding import Coder, Constants, make_constants, make_tables
from ucip_adapt.codecs.learned.network import NetworkConfig, TinyNetwork, build_network
from ucip_adapt.codecs.learned.tables import Tables
from ucip_adapt.errors import CodecError
from ucip_adapt.formats import check_format_version

__all__ = ["FORMAT_VERSION", "StoredCodec", "load_codec", "save_codec"]

FORMAT_VERSION = "1.0"


@dataclass(frozen=True)
class StoredCodec:
    """What a file holds.

    Attributes:
        codec: Name of the codec.
        network: Its network; what was stored in half precision is float32 again.
        constants: Steps and shifts.
        tables: Probability tables.
        training: What it was trained on and for.
    """

    codec: str
    network: TinyNetwork
    constants: Constants
    tables: Tables
    training: dict[str, Any]

    def coder(self) -> Coder:
        """What encodes and decodes with it."""
        return Coder(self.network, self.constants, self.tables)


def save_codec(
    path: Path, codec: str, network: TinyNetwork, training: Mapping[str, Any]
) -> StoredCodec:
    """Write a trained network, with the tables made from it.

    Weights are cut to half precision first, and everything else is computed from those: what is in
    the file is what was measured.

    Args:
        path: The file.
        codec: Name of the codec.
        network: After training.
        training: JSON-able notes on the training.

    Returns:
        What the file holds.
    """
    tensors: dict[str, Tensor] = {
        f"network.{name}": value.detach().half() for name, value in network.state_dict().items()
    }
    halved = build_network(network.config)
    halved.load_state_dict(
        {name: tensors[f"network.{name}"].float() for name in network.state_dict()}
    )
    constants, tables = make_constants(halved), make_tables(halved)
    for name in ("step", "shift", "hyper_step"):
        tensors[f"constants.{name}"] = getattr(constants, name).float()
    tensors["tables.length"] = torch.tensor([len(table) for table in tables.tables])
    tensors["tables.frequency"] = torch.from_numpy(np.concatenate(tables.tables))
    about = {
        "format_version": FORMAT_VERSION,
        "codec": codec,
        "config": asdict(network.config),
        "training": dict(training),
    }
    data = save(tensors, metadata={"ucip_adapt": json.dumps(about, sort_keys=True)})
    write_atomically(path, data)
    return load_codec(path)


def load_codec(path: Path) -> StoredCodec:
    """Read a codec's file.

    Args:
        path: As :func:`save_codec` wrote it.

    Raises:
        CodecError: If it is missing, damaged or of a newer format.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
        about = _metadata(data)
        check_format_version(
            about["format_version"], FORMAT_VERSION, what=str(path), error=CodecError
        )
        network = build_network(NetworkConfig(**about["config"]))
        network.load_state_dict(
            {
                name.removeprefix("network."): value.float()
                for name, value in tensors.items()
                if name.startswith("network.")
            }
        )
        constants = Constants(
            *(tensors[f"constants.{name}"] for name in ("step", "shift", "hyper_step"))
        )
        ends = np.cumsum(tensors["tables.length"].numpy())
        tables = Tables(np.split(tensors["tables.frequency"].numpy(), ends[:-1]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CodecError(f"{path} is no readable codec: {error}") from error
    return StoredCodec(about["codec"], network, constants, tables, about["training"])


def _metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about: dict[str, Any] = json.loads(header["__metadata__"]["ucip_adapt"])
    return about
