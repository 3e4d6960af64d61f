"""UCIP networks for spandrel, the model loader of chaiNNer and other programs.

    from ucip_adapt.interop import spandrel as ucip
    ucip.install()
    model = spandrel.ModelLoader().load_from_file("webp.safetensors")

spandrel drops a file's metadata and looks at tensors only: files of ``ucip-adapt export --format
safetensors`` carry their configuration as one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import SCALE, UCIP
from ucip_adapt.models.recognise import SIGNATURE, from_state_dict

if TYPE_CHECKING:
    from spandrel import ArchRegistry

__all__ = ["ARCHITECTURE", "install"]

ARCHITECTURE = "UCIP"
"""Identifier in spandrel's registry."""


def install(registry: ArchRegistry | None = None) -> None:
    """Add UCIP to a registry of spandrel; calling it again changes nothing.

    A network loaded by spandrel then computes what :meth:`UCIP.upscale` does: in windows, if its
    file says so.

    Args:
        registry: Default: ``spandrel.MAIN_REGISTRY``, which every ``ModelLoader`` reads.

    Raises:
        ConfigError: If spandrel is not installed.
    """
    try:
        import spandrel
        from spandrel.util import KeyCondition
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"spandrel cannot be imported ({error}): pip install spandrel, and torchvision of the "
            "same build as torch"
        ) from error

    class _Architecture(spandrel.Architecture):  # type: ignore[misc]  # spandrel has no types here
        def __init__(self) -> None:
            super().__init__(id=ARCHITECTURE, detect=KeyCondition.has_all(*SIGNATURE))

        def load(self, state_dict: dict[str, Tensor]) -> spandrel.ImageModelDescriptor:
            network = from_state_dict(state_dict)
            config = network.config
            return spandrel.ImageModelDescriptor(
                network,
                network.state_dict(),  # loaded once more by spandrel, without our extra tensor
                architecture=self,
                purpose="SR",
                tags=[f"{config.embed_dim}dim", f"{config.num_blocks}x{config.num_layers}layers"],
                supports_half=False,
                supports_bfloat16=False,
                scale=SCALE,
                input_channels=3,
                output_channels=3,
                # Statistics are those of the whole image; windows are cut inside.
                tiling=spandrel.ModelTiling.INTERNAL,
                call_fn=_upscale,
            )

    table = spandrel.MAIN_REGISTRY if registry is None else registry
    if ARCHITECTURE not in table:
        table.add(spandrel.ArchSupport.from_architecture(_Architecture()))


def _upscale(network: UCIP, image: Tensor) -> Tensor:
    return network.upscale(image)
