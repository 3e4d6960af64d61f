"""The layers that stand for a base's prompt-related modules.

Each holds the base's own module untouched, and for every adapter a complete replacement of it.
The adapters' parameters lie in flat containers, ``dynprompt_<part>[adapter]``: PEFT takes the
adapter's name out of a key only at its end or one step before it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import ClassVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import DPM, SPADE, OffsetLayer
from ucip_adapt.models.prompts import CoefficientMLP, mix_prompts
from ucip_adapt.tuning.config import DynamicPromptConfig
from ucip_adapt.tuning.register import register

__all__ = [
    "BASE",
    "LAYERS",
    "PROMPT_STD",
    "DynamicLayer",
    "DynamicOffsetLayer",
    "DynamicPromptLayer",
    "DynamicSpadeLayer",
]

BASE = "__base__"
"""The adapter name that stands for the base without adapter, as elsewhere in PEFT."""

PROMPT_STD = 0.02
"""Standard deviation of new basic prompts. On a base trained without prompts, N(0, 0.02) left the
loss where it was (.2236 against .2237) and trained; zeros never separate the prompts, and U(0, 1)
doubled the loss (.4389)."""


class DynamicLayer(nn.Module, BaseTunerLayer):
    """A base's module with replacements of it, one per adapter.

    Args:
        base_layer: The module that is replaced.

    Attributes:
        base_class: The class of modules that this layer can stand for.
        parts: Container of an adapter's parameters -> the base's module or parameter it replaces.
        sample_adapters: While a batch with several adapters goes through, the one of each image.
    """

    base_class: ClassVar[type[nn.Module]]
    parts: ClassVar[dict[str, str]]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.sample_adapters: tuple[str, ...] | None = None
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        # The module that computes for an adapter. Its parts are those in the containers: held in
        # a plain dict, they do not appear a second time among the parameters.
        self._replacements: dict[str, nn.Module] = {}
        self._unmerged: dict[str, Tensor] = {}

    # -- adapters ------------------------------------------------------------------------------

    def update_layer(self, adapter_name: str, config: DynamicPromptConfig) -> None:
        """Add an adapter, as a copy of the base where the base has prompts."""
        raise NotImplementedError

    @classmethod
    def shapes(cls, base_layer: nn.Module, config: DynamicPromptConfig) -> dict[str, torch.Size]:
        """Names inside this layer, without the adapter's, and shapes of an adapter's tensors."""
        return {
            f"{container}.{name}": parameter.shape
            for container, part in cls.parts.items()
            for name, parameter in base_layer.get_submodule(part).named_parameters()
        }

    def has(self, adapter_name: str) -> bool:
        """Whether this layer holds parameters of an adapter."""
        return adapter_name in self._replacements

    def adapter_parameters(self, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """An adapter's parameters, under the names of :meth:`shapes`."""
        for container in self.adapter_layer_names:
            entries = getattr(self, container)
            if adapter_name not in entries:
                continue
            entry = entries[adapter_name]
            if isinstance(entry, nn.Parameter):
                yield container, entry
            else:
                for name, parameter in entry.named_parameters():
                    yield f"{container}.{name}", parameter

    def base_parameter(self, name: str) -> nn.Parameter:
        """The base's parameter that an adapter's parameter of this name replaces."""
        return self.base_layer.get_parameter(self._base_name(name))

    def _base_name(self, name: str) -> str:
        container, _, rest = name.partition(".")
        part = self.parts[container]
        return f"{part}.{rest}" if rest else part

    def remove(self, adapter_name: str) -> None:
        """Drop an adapter's parameters; unknown names are ignored."""
        self._replacements.pop(adapter_name, None)
        for container in self.adapter_layer_names:
            entries = getattr(self, container)
            if adapter_name in entries:
                del entries[adapter_name]

    def delete_adapter(self, adapter_name: str) -> None:
        """Drop an adapter's parameters; the tuner decides which adapter is active afterwards."""
        self.remove(adapter_name)

    def enable_adapters(self, enabled: bool) -> None:
        """Use the adapters or the base, without touching what is trainable.

        PEFT's own version would make an adapter trainable that was loaded for inference.
        """
        self._disable_adapters = not enabled

    def cast(self, adapter_name: str) -> None:
        """Bring an adapter to the base's device, and to float32 if it is kept in fewer bits."""
        for name, parameter in self.adapter_parameters(adapter_name):
            base = self.base_parameter(name)
            if parameter.device.type != "meta":
                dtype = torch.promote_types(parameter.dtype, base.dtype)
                dtype = torch.promote_types(dtype, torch.float32)
                parameter.data = parameter.data.to(base.device, dtype)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # PEFT's own version looks for a `weight`, which these modules do not have.
        self.cast(adapter_name)

    # -- computing -----------------------------------------------------------------------------

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute with the active adapter, the base, or one adapter per image of the batch.

        Args:
            x: Features, shape ``(B, H, W, C)``.
            condition: Second argument of the base's module: the prompts ``(B, H, W, C_p)``, or of
                a DPM the slots ``(B,)``, which only the base has several of.
        """
        if self.sample_adapters is None or self.disable_adapters:
            return self._compute(self._current(), x, condition)
        if len(self.sample_adapters) != len(x):
            raise ConfigError(
                f"adapter_names has {len(self.sample_adapters)} names for {len(x)} images: give "
                f"one per image ('{BASE}' for none)"
            )
        places: dict[str, list[int]] = {}
        for i, name in enumerate(self.sample_adapters):
            places.setdefault(name, []).append(i)
        parts = []
        for name, images in places.items():
            index = torch.tensor(images, device=x.device)
            chosen = None if condition is None else condition[index]
            parts.append(self._compute(name, x[index], chosen))
        order = torch.tensor([i for images in places.values() for i in images], device=x.device)
        return torch.cat(parts)[order.argsort()]

    @property
    def active_module(self) -> nn.Module:
        """The module that computes now: the active adapter's, or the base's."""
        replacement = self._replacements.get(self._current())
        return self.base_layer if replacement is None else replacement

    @property
    def replacements(self) -> tuple[nn.Module, ...]:
        """The modules that compute for the adapters; they are not among the layer's children."""
        return tuple(self._replacements.values())

    def _current(self) -> str:
        if self.disable_adapters or self.merged or not self.active_adapters:
            return BASE
        name: str = self.active_adapters[0]
        return name

    def _compute(self, name: str, x: Tensor, condition: Tensor | None) -> Tensor:
        replacement = self._replacements.get(name)
        module = self.base_layer if replacement is None else replacement
        result: Tensor = module(x, condition)
        return result

    # -- merging -------------------------------------------------------------------------------

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write an adapter over the base's parameters (slot 0 of its prompts).

        The tuner calls it with one name, on all layers, also on those without the adapter.
        """
        (name,) = adapter_names or self.active_adapters
        for key, parameter in self.adapter_parameters(name):
            base = self.base_parameter(key)
            self._unmerged[key] = base.detach().clone()
            with torch.no_grad():
                (base[0] if base.dim() > parameter.dim() else base).copy_(parameter)
        self.merged_adapters.append(name)

    def unmerged_tensors(self) -> dict[str, Tensor]:
        """What a merged adapter is written over, under the base's names; empty if none is."""
        return {self._base_name(key): value for key, value in self._unmerged.items()}

    def unmerge(self) -> None:
        """Put the base's own parameters back."""
        with torch.no_grad():
            for key, value in self._unmerged.items():
                self.base_parameter(key).copy_(value)
        self._unmerged.clear()
        self.merged_adapters.clear()

    def __repr__(self) -> str:
        names = ", ".join(self._replacements) or "no adapter"
        return f"{type(self).__name__}({type(self.base_layer).__name__}: {names})"


class _AdapterDPM(nn.Module):
    """What computes for an adapter in place of a DPM: its bases, and its or the base's weights."""

    def __init__(self, bases: nn.ParameterDict, name: str, coefficient: nn.Module) -> None:
        super().__init__()
        self.bases = bases
        self.name = name
        self.coefficient = coefficient

    def forward(self, features: Tensor, slot: Tensor | None = None) -> Tensor:
        """Prompts for features; an adapter has one slot, so ``slot`` is ignored."""
        return mix_prompts(self.coefficient(features), self.bases[self.name])


class DynamicPromptLayer(DynamicLayer):
    """Stands for a DPM (Eq. 1): an adapter replaces the basic prompts and the coefficient MLP.

    Adapters of the set ``basis`` replace the basic prompts only.

    Args:
        base_layer: The DPM, kept as it is.

    Example:
        >>> from ucip_adapt import UCIP, UCIPConfig, add_prompt_adapter
        >>> base = UCIP(UCIPConfig.preset("nano"))
        >>> model = add_prompt_adapter(base, adapter_name="webp")
        >>> base.blocks[0].prompt
        DynamicPromptLayer(DPM: webp)
    """

    base_class = DPM
    base_layer: DPM
    parts: ClassVar[dict[str, str]] = {
        "dynprompt_basis": "basis",
        "dynprompt_coefficient_fc1": "coefficient.fc1",
        "dynprompt_coefficient_fc2": "coefficient.fc2",
    }
    adapter_layer_names = tuple(parts)

    def __init__(self, base_layer: DPM) -> None:
        super().__init__(base_layer)
        self.dynprompt_basis = nn.ParameterDict()
        self.dynprompt_coefficient_fc1 = nn.ModuleDict()
        self.dynprompt_coefficient_fc2 = nn.ModuleDict()

    @classmethod
    def shapes(cls, base_layer: nn.Module, config: DynamicPromptConfig) -> dict[str, torch.Size]:
        """Names and shapes of an adapter's tensors; ``num_prompts`` may differ from the base's."""
        base = cast(DPM, base_layer)
        number = config.num_prompts or base.num_prompts
        shapes: dict[str, tuple[int, ...]] = {"dynprompt_basis": (number, base.prompt_dim)}
        if config.trainable_set != "basis":
            for layer, inputs in (("fc1", base.dim), ("fc2", number)):
                shapes[f"dynprompt_coefficient_{layer}.weight"] = (number, inputs)
                shapes[f"dynprompt_coefficient_{layer}.bias"] = (number,)
        return {name: torch.Size(shape) for name, shape in shapes.items()}

    def update_layer(self, adapter_name: str, config: DynamicPromptConfig) -> None:
        """Add an adapter.

        On a base with prompts it is a copy of them; on one without, the bases start at
        N(0, 0.02) and the weights are those of the base's coefficient MLP.
        """
        base = self.base_layer
        number = config.num_prompts or base.num_prompts
        if base.enabled and number == base.num_prompts:
            basis = base.basis[0].detach().clone()
        else:
            basis = base.basis.new_empty(number, base.prompt_dim).normal_(std=PROMPT_STD)
        coefficient: nn.Module = base.coefficient
        if config.trainable_set != "basis":
            own = copy.deepcopy(base.coefficient)
            if number != base.num_prompts:
                own = _new_coefficient(base, number)
            self.dynprompt_coefficient_fc1[adapter_name] = own.fc1
            self.dynprompt_coefficient_fc2[adapter_name] = own.fc2
            coefficient = own
        self.dynprompt_basis[adapter_name] = nn.Parameter(basis)
        self._replacements[adapter_name] = _AdapterDPM(
            self.dynprompt_basis, adapter_name, coefficient
        )


class DynamicOffsetLayer(DynamicLayer):
    """Stands for an OffsetLayer (Eq. 2): an adapter replaces its norm and its linear map."""

    base_class = OffsetLayer
    base_layer: OffsetLayer
    parts: ClassVar[dict[str, str]] = {"dynprompt_norm": "norm", "dynprompt_linear": "linear"}
    adapter_layer_names = tuple(parts)

    def __init__(self, base_layer: OffsetLayer) -> None:
        super().__init__(base_layer)
        self.dynprompt_norm = nn.ModuleDict()
        self.dynprompt_linear = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: DynamicPromptConfig) -> None:
        """Add an adapter that starts as a copy of the base."""
        own = copy.deepcopy(self.base_layer)
        self.dynprompt_norm[adapter_name] = own.norm
        self.dynprompt_linear[adapter_name] = own.linear
        self._replacements[adapter_name] = own


class DynamicSpadeLayer(DynamicLayer):
    """Stands for a SPADE (Eq. 5): an adapter replaces its three convolutions."""

    base_class = SPADE
    base_layer: SPADE
    parts: ClassVar[dict[str, str]] = {
        "dynprompt_shared": "shared",
        "dynprompt_gamma": "gamma",
        "dynprompt_beta": "beta",
    }
    adapter_layer_names = tuple(parts)

    def __init__(self, base_layer: SPADE) -> None:
        super().__init__(base_layer)
        self.dynprompt_shared = nn.ModuleDict()
        self.dynprompt_gamma = nn.ModuleDict()
        self.dynprompt_beta = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: DynamicPromptConfig) -> None:
        """Add an adapter that starts as a copy of the base."""
        own = copy.deepcopy(self.base_layer)
        self.dynprompt_shared[adapter_name] = own.shared
        self.dynprompt_gamma[adapter_name] = own.gamma
        self.dynprompt_beta[adapter_name] = own.beta
        self._replacements[adapter_name] = own


def _new_coefficient(base: DPM, number: int) -> CoefficientMLP:
    """A coefficient MLP for another number of prompts than the base's, at its initial values."""
    own = CoefficientMLP(base.dim, number)
    if own.fc1.weight.is_meta:
        return own  # Made to be loaded into (`low_cpu_mem_usage`): there is nothing to initialise.
    own.to(base.basis.device, base.basis.dtype)
    for layer in (own.fc1, own.fc2):
        nn.init.trunc_normal_(layer.weight, std=PROMPT_STD)
        nn.init.zeros_(layer.bias)
    return own


LAYERS: dict[str, type[DynamicLayer]] = {
    "dpm": DynamicPromptLayer,
    "offset": DynamicOffsetLayer,
    "spade": DynamicSpadeLayer,
}
"""Kinds of modules that adapters replace -> the layer that stands for them."""

register()
