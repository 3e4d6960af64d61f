"""Starting one codec's network from another's weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ucip_adapt.codecs.learned.network import TinyNetwork
from ucip_adapt.codecs.learned.weights import load_codec
from ucip_adapt.errors import CodecError

__all__ = ["start_from"]


def start_from(network: TinyNetwork, path: Path) -> str:
    """Copy the weights of a trained codec of the same architecture.

    Of what belongs to single rates, a network of fewer rates takes those of the lower ones.

    Args:
        network: What is to be trained; changed in place.
        path: The other codec's file.

    Returns:
        Name of the other codec.

    Raises:
        CodecError: If the file is no codec, or of another architecture or fewer rates.
    """
    stored = load_codec(path)
    old, rates = stored.network.config, network.config.rates
    own: dict[str, Tensor] = network.state_dict()
    values = stored.network.state_dict()
    if old.architecture != network.config.architecture or old.rates < rates:
        raise CodecError(
            f"{path} is {old.architecture} with {old.rates} rates; a network that is "
            f"{network.config.architecture} with {rates} cannot start from it"
        )
    cut = {
        name: value[:rates] if value.shape != own[name].shape else value
        for name, value in values.items()
    }
    try:
        network.load_state_dict(cut)
    except RuntimeError as error:
        raise CodecError(f"{path} does not fit the network to start: {error}") from error
    return stored.codec
