"""Prompts of a PTMB: the paper's Dynamic Prompt Module and the designs that Table 4 sets beside it.

Every design maps the block's input features, channels last ``(B, H, W, C)``, to one prompt vector
per pixel, ``(B, H, W, C_p)``, which the block's offset layers and SPADE modulations read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "DPM",
    "CoefficientMLP",
    "FixedPrompt",
    "PromptDesign",
    "PromptIRPrompt",
    "build_prompt",
    "mix_prompts",
]

PromptDesign = Literal["dynamic", "none", "fixed", "promptir"]


def mix_prompts(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Blend basic prompts pixel by pixel (Eq. 1).

    Args:
        coefficients: Weights on the simplex, shape ``(B, H, W, D)``.
        basis: Basic prompts, shape ``(D, C_p)``, or one set per image, ``(B, D, C_p)``.

    Returns:
        Prompts, shape ``(B, H, W, C_p)``.

    Example:
        >>> mix_prompts(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([[4.0], [8.0]]))
        tensor([[[[7.]]]])
    """
    if basis.dim() == 2:
        return coefficients @ basis
    return coefficients @ basis.unsqueeze(1)  # (B, 1, D, C_p) against (B, H, W, D)


class CoefficientMLP(nn.Module):
    """Per-pixel weights over the basic prompts: Linear(C, D), GELU, Linear(D, D), softmax (Eq. 1).

    Args:
        dim: Channels C of the features.
        num_prompts: Number D of basic prompts.

    Example:
        >>> weights = CoefficientMLP(dim=16, num_prompts=4)(torch.rand(1, 5, 7, 16))
        >>> weights.shape
        torch.Size([1, 5, 7, 4])
        >>> torch.allclose(weights.sum(dim=-1), torch.ones(1, 5, 7))
        True
    """

    def __init__(self, dim: int, num_prompts: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, num_prompts)
        self.fc2 = nn.Linear(num_prompts, num_prompts)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to weights ``(B, H, W, D)`` that are positive and sum to 1."""
        logits: Tensor = self.fc2(F.gelu(self.fc1(features)))
        return logits.softmax(dim=-1)


class DPM(nn.Module):
    """Dynamic Prompt Module (Eq. 1): basic prompts, blended pixel by pixel as the features say.

    Args:
        dim: Channels C of the features.
        prompt_dim: Channels C_p of a prompt.
        num_prompts: Number D of basic prompts (8 in Sec. 4; Table 6 tries 1 to 16).
        num_slots: Sets of basic prompts. The paper is blind to the codec and has one; the authors'
            code keeps six, chosen per image in training and always the first in evaluation.
        enabled: False is the network without prompts (Table 3, rows ii and iii): the same state
            dict, P = 0.

    Example:
        >>> DPM(dim=16, prompt_dim=8, num_prompts=4)(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 5, 7, 8])
    """

    def __init__(
        self,
        dim: int,
        prompt_dim: int,
        num_prompts: int,
        *,
        num_slots: int = 1,
        enabled: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.prompt_dim = prompt_dim
        self.num_prompts = num_prompts
        self.num_slots = num_slots
        self.enabled = enabled
        self.basis = nn.Parameter(torch.empty(num_slots, num_prompts, prompt_dim))
        self.coefficient = CoefficientMLP(dim, num_prompts)
        nn.init.uniform_(self.basis)

    def forward(self, features: Tensor, slot: Tensor | None = None) -> Tensor:
        """Prompts for features ``(B, H, W, C)``; ``slot`` is one index per image (default: 0)."""
        if not self.enabled:
            return features.new_zeros(()).expand(*features.shape[:-1], self.prompt_dim)
        basis = self.basis[0] if slot is None else self.basis[slot]
        # Called, not read: a LoRA on the coefficient MLP would otherwise train and save without any
        # effect.
        return mix_prompts(self.coefficient(features), basis)


class FixedPrompt(nn.Module):
    """One learnt prompt per block, the same for every pixel and every image (Table 4, "fixed").

    Args:
        dim: Channels C of the features (not read; all designs share one signature).
        prompt_dim: Channels C_p of the prompt.

    Example:
        >>> FixedPrompt(dim=16, prompt_dim=8)(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 5, 7, 8])
    """

    def __init__(self, dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.prompt = nn.Parameter(torch.empty(prompt_dim))
        nn.init.uniform_(self.prompt)

    def forward(self, features: Tensor, slot: Tensor | None = None) -> Tensor:
        """The prompt, repeated over ``(B, H, W)`` of the features; ``slot`` is ignored."""
        return self.prompt.expand(*features.shape[:-1], -1)


class PromptIRPrompt(nn.Module):
    """The prompt block of PromptIR (arXiv 2306.13090), as Table 4 compares it.

    Prompt components are maps of a fixed size; one set of weights per image, from globally pooled
    features, blends them; the blend is resized to the image and convolved. With six components of
    64 x 64 its parameters in the ``full`` network come to the 9.66M of Table 4.

    Args:
        dim: Channels C of the features.
        prompt_dim: Channels C_p of a prompt.
        num_prompts: Number of prompt components.
        prompt_size: Side of a component, in feature pixels.

    Example:
        >>> PromptIRPrompt(dim=16, prompt_dim=8, num_prompts=6)(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 5, 7, 8])
    """

    def __init__(
        self, dim: int, prompt_dim: int, num_prompts: int, *, prompt_size: int = 64
    ) -> None:
        super().__init__()
        self.dim = dim
        self.components = nn.Parameter(
            torch.empty(num_prompts, prompt_dim, prompt_size, prompt_size)
        )
        self.weight = nn.Linear(dim, num_prompts)
        self.conv = nn.Conv2d(prompt_dim, prompt_dim, 3, padding=1, bias=False)
        nn.init.uniform_(self.components)

    def forward(self, features: Tensor, slot: Tensor | None = None) -> Tensor:
        """Prompts for features ``(B, H, W, C)``; ``slot`` is ignored."""
        weights = self.weight(features.mean(dim=(1, 2))).softmax(dim=-1)  # (B, D)
        blend = torch.einsum("bd,dchw->bchw", weights, self.components)
        blend = F.interpolate(blend, size=features.shape[1:3], mode="bilinear", align_corners=False)
        prompt: Tensor = self.conv(blend)
        return prompt.permute(0, 2, 3, 1)


def build_prompt(
    design: PromptDesign,
    *,
    dim: int,
    prompt_dim: int,
    num_prompts: int,
    num_slots: int,
    prompt_size: int,
) -> nn.Module:
    """Make the prompt module of one PTMB for a design of Table 4.

    Args:
        design: ``"dynamic"``, ``"none"``, ``"fixed"`` or ``"promptir"``.
        dim: Channels C of the features.
        prompt_dim: Channels C_p of a prompt.
        num_prompts: Number D of basic prompts.
        num_slots: Sets of basic prompts; read by ``"dynamic"`` and ``"none"``.
        prompt_size: Side of a component in feature pixels; read by ``"promptir"``.

    Returns:
        A module from features ``(B, H, W, C)`` to prompts ``(B, H, W, C_p)``.

    Example:
        >>> sizes = {"dim": 16, "prompt_dim": 8, "num_prompts": 4, "num_slots": 1, "prompt_size": 2}
        >>> type(build_prompt("fixed", **sizes)).__name__
        'FixedPrompt'
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "dynamic": lambda: DPM(dim, prompt_dim, num_prompts, num_slots=num_slots),
        "none": lambda: DPM(dim, prompt_dim, num_prompts, num_slots=num_slots, enabled=False),
        "fixed": lambda: FixedPrompt(dim, prompt_dim),
        "promptir": lambda: PromptIRPrompt(dim, prompt_dim, num_prompts, prompt_size=prompt_size),
    }
    return builders[design]()
