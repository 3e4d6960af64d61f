"""The opponent of ``tiny-perceptual``: tells decoded patches from original ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PatchDiscriminator", "discriminator_loss"]


class PatchDiscriminator(nn.Module):
    """An opinion on every overlapping patch of 30 x 30 pixels; no pre-trained features.

    It also sees the plain inverse transform of the latents, so that it judges whether detail suits
    what was sent and not only whether there is any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(6, 32, 4, stride=2, padding=1),
                nn.Conv2d(32, 48, 4, stride=2, padding=1),
                nn.Conv2d(48, 64, 3, padding=1),
                nn.Conv2d(64, 1, 3, padding=1),
            ]
        )

    def forward(self, image: Tensor, hint: Tensor) -> Tensor:
        """Judge ``(B, 3, H, W)`` in [0, 1], given the hint of the same shape.

        Returns:
            ``(B, 1, H / 4, W / 4)``; positive for original.
        """
        x = torch.cat([image, hint], dim=1) * 2 - 1
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        opinion: Tensor = self.layers[-1](x)
        return opinion


def discriminator_loss(original: Tensor, decoded: Tensor) -> Tensor:
    """Hinge loss of the opinions on both.

    Example:
        >>> discriminator_loss(torch.tensor([2.0]), torch.tensor([-2.0]))
        tensor(0.)
    """
    return F.relu(1 - original).mean() + F.relu(1 + decoded).mean()
