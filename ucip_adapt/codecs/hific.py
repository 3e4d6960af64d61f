"""HiFiC at its three rates, with a user's checkpoint.

The released checkpoints could not be reached when this was written: the networks have their names
and shapes, and the loader was tested on files of that layout with random weights, not on them.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.arithmetic import FIXED, fixed_arithmetic
from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb, require_available
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.codecs.weights import find_weights, read_state_dict
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ucip_adapt.codecs.hific_network import HiFiC

__all__ = ["HIFIC", "RATES", "HificCodec", "Rate"]

VARIABLE = "UCIP_HIFIC"
"""Environment variable that names the weights."""

_PARTS = ("Encoder.", "Generator.", "Hyperprior.")
# The coder's tables, which a checkpoint may hold; the estimate of the size does without them.
_TABLES = ("Hyperprior.hyperprior_entropy_model.", "Hyperprior.prior_")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Rate:
    """How the released networks of a rate were trained; their tensors do not tell.

    Attributes:
        name: The rate's name.
        normalised: Whether images are in [-1, 1] inside.
        logistic: Whether the latents' distribution is logistic.
    """

    name: str
    normalised: bool
    logistic: bool


RATES: Mapping[int, Rate] = MappingProxyType(
    {
        1: Rate("low", normalised=True, logistic=False),
        2: Rate("med", normalised=False, logistic=True),
        3: Rate("high", normalised=True, logistic=False),
    }
)
"""Low, med and high (0.14, 0.3 and 0.45 bits per pixel on large photographs) by quality."""


@dataclass(frozen=True)
class HificCodec:
    """HiFiC on the CPU.

    Attributes:
        spec: Name, qualities and range.
        weights: Folder or Hub id with ``low``, ``med`` and ``high`` (or ``1``, ``2``, ``3``), each
            ``.safetensors``, ``.pth.tar``, ``.pth`` or ``.pt``; None asks :data:`VARIABLE`.

    Example:
        >>> HIFIC.spec.qualities
        (1, 2, 3)
        >>> HificCodec(HIFIC.spec, weights="no/such/folder").available().ok
        False
    """

    spec: CodecSpec
    weights: str | None = None

    def available(self) -> Availability:
        """Whether the weights of all three rates are there."""
        try:
            self._files()
        except CodecError as error:
            return Availability(
                ok=False,
                reason=f"no weights: {error}",
                install=f"Set {VARIABLE} to a folder or a Hub id with low, med and high "
                "(.safetensors, .pth.tar, .pth or .pt); zenodo.org/record/4026003 has them",
            )
        import torch

        return Availability(ok=True, version=f"torch {torch.__version__}")

    def fingerprint(self) -> dict[str, Any]:
        """PyTorch's version, and checksums of the weights of every rate."""
        import torch

        require_available(self.spec.name, self.available())
        return {
            "codec": self.spec.name,
            "library": "ucip_adapt",
            "version": f"1 (torch {torch.__version__})",
            "options": {
                "pad": "replicate to 128, reflect to 16",
                "num_bytes": "estimated",
                **FIXED,
            },
            "weights": {str(q): file_sha256(file) for q, file in self._files().items()},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image.

        Args:
            rgb: The image.
            quality: 1, 2 or 3: low, med or high.

        Returns:
            The decoded image. No bitstream is written: ``num_bytes`` is the model's own estimate,
            from the probabilities that its coder would use.

        Raises:
            CodecError: If weights are missing, damaged or of another network.
            ConfigError: If the quality is out of range.
        """
        import numpy as np
        import torch

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        require_available(self.spec.name, self.available())
        file = self._files()[quality]
        image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255
        with _LOCK:
            network = load_hific(file, file_sha256(file), RATES[quality])
        started = time.perf_counter()
        with fixed_arithmetic(), torch.no_grad():
            decoded, bits = network(image)
        seconds = time.perf_counter() - started
        pixels = decoded[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        num_bytes = max(1, math.ceil(bits.item() / 8))
        return Degraded(pixels=pixels, num_bytes=num_bytes, seconds=seconds)

    def _files(self) -> dict[int, Path]:
        source = self.weights or os.environ.get(VARIABLE)
        if not source:
            raise CodecError(f"{VARIABLE} is not set")
        return find_weights(source, {q: (rate.name, str(q)) for q, rate in RATES.items()})


@functools.lru_cache(maxsize=1)
def load_hific(file: Path, sha256: str, rate: Rate) -> HiFiC:
    """Build the network of a weight file; widths and depth are read off its tensors.

    Only one is kept: each takes 0.7 GB.

    Args:
        file: A state dict of Encoder, Generator and Hyperprior, or a training checkpoint with one.
        sha256: The file's checksum, so that a file that changed is loaded again.
        rate: What the tensors do not tell.

    Returns:
        The network in evaluation mode.

    Raises:
        CodecError: If the file is damaged, or lacks tensors, or they are of other shapes.
    """
    import torch

    from ucip_adapt.codecs.hific_network import HiFiC

    del sha256
    state = {
        name: value
        for name, value in read_state_dict(file).items()
        if name.startswith(_PARTS) and not name.startswith(_TABLES)
    }
    try:
        blocks = {name.split(".")[1] for name in state if name.startswith("Generator.resblock_")}
        filters = [state[f"Encoder.conv_block{i}.1.weight"].shape[0] for i in range(1, 6)]
        with torch.device("meta"):
            network = HiFiC(
                len(blocks),
                normalised=rate.normalised,
                logistic=rate.logistic,
                filters=filters,
                latent_channels=state["Encoder.conv_block_out.1.weight"].shape[0],
                hyper_channels=state["Hyperprior.analysis_net.conv1.weight"].shape[0],
            )
        network.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise CodecError(f"{file} holds no HiFiC network: {text[:300]}") from error
    return network.float().eval().requires_grad_(False)


HIFIC = HificCodec(CodecSpec("hific", "learned-perceptual", "rate", (1, 2, 3), (1, 3)))
