"""Prompts of a block for strips of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError
from ucip_adapt.models.bounded.moments import Means
from ucip_adapt.models.bounded.store import FeatureMap
from ucip_adapt.models.prompts import DPM, FixedPrompt, PromptIRPrompt

__all__ = ["StripPrompt", "active_module"]


def active_module(module: nn.Module) -> nn.Module:
    """The module that computes: of a layer that stands for it, the base's or the adapter's.

    So also of what PEFT's ``modules_to_save`` wraps around it.
    """
    original = module._modules.get("original_module")
    if original is not None:
        wrapper: Any = module
        names = wrapper.active_adapters
        if wrapper.disable_adapters or any(name not in wrapper.modules_to_save for name in names):
            return original
        return wrapper.modules_to_save[names[0]] if names else original
    active: nn.Module = getattr(module, "active_module", module)
    return active


class StripPrompt:
    """The prompt of a block, row by row, whatever its design.

    Args:
        module: The block's prompt module.
        new_map: Makes the map that keeps prompts which differ from pixel to pixel.
        shape: H, W, C of the features.

    Raises:
        ConfigError: If the module is none of the designs: what a strip needs of the image is only
            known of those.
    """

    def __init__(
        self,
        module: nn.Module,
        new_map: Callable[[], FeatureMap],
        shape: tuple[int, int, int],
    ) -> None:
        self._module = module
        self._height, self._width, self._dim = shape
        self._design = active_module(module)
        # What an adapter puts in the place of a design works on the same features.
        design = getattr(module, "base_layer", self._design)
        if not isinstance(design, DPM | FixedPrompt | PromptIRPrompt):
            raise ConfigError(
                f"mode 'exact' knows the prompts of DPM, FixedPrompt and PromptIRPrompt, not of "
                f"{type(design).__name__}: take the image whole, mode 'whole'"
            )
        constant = isinstance(self._design, FixedPrompt) or (
            isinstance(self._design, DPM) and not self._design.enabled
        )
        from_map = isinstance(self._design, PromptIRPrompt)
        self._kept = None if constant or from_map else new_map()
        self._means = Means() if from_map else None
        self._blend: Tensor | None = None

    def add(self, first: int, features: Tensor) -> None:
        """Take in rows ``(1, h, W, C)`` of the block's input; all of them, before any is read."""
        if self._kept is not None:
            self._kept.write_rows(first, self._module(features, None))
        if self._means is not None:
            self._means.add(features)

    def rows(self, first: int, last: int) -> Tensor:
        """Prompts of rows ``first`` to ``last`` (exclusive), shape ``(1, h, W, C_p)``."""
        if self._kept is not None:
            return self._kept.read_rows(first, last)
        if isinstance(self._design, PromptIRPrompt):
            return self._component_rows(self._design, first, last)
        like = next(self._module.parameters())
        # The design reads the shape alone.
        prompt: Tensor = self._module(
            like.new_zeros(()).expand(1, last - first, self._width, self._dim), None
        )
        return prompt

    def _component_rows(self, design: PromptIRPrompt, first: int, last: int) -> Tensor:
        """PromptIR's prompt: a small map, resized to the image and convolved."""
        if self._blend is None and self._means is not None:
            pooled = self._means.mean.to(design.components)
            weights = design.weight(pooled[None]).softmax(dim=-1)[0]
            self._blend = torch.einsum("d,dchw->chw", weights, design.components)[None]
        blend = self._blend
        if blend is None:
            raise ValueError("rows are read before the block's input is complete")
        low, high = max(first - 1, 0), min(last + 1, self._height)
        small = blend.shape[2]
        # F.interpolate's bilinear rule without aligned corners, for the rows of the strip.
        position = torch.arange(low, high, device=blend.device, dtype=blend.dtype)
        position = ((position + 0.5) * (small / self._height) - 0.5).clamp(min=0)
        above = position.long().clamp(max=small - 1)
        below = (above + 1).clamp(max=small - 1)
        share = (position - above)[:, None]
        blend = blend[:, :, above] * (1 - share) + blend[:, :, below] * share
        size = (high - low, self._width)
        blend = F.interpolate(blend, size=size, mode="bilinear", align_corners=False)
        prompt: Tensor = design.conv(blend)[:, :, first - low : last - low]
        return prompt.permute(0, 2, 3, 1)
