"""From pixels to bytes and back, with a trained network and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucip_adapt.codecs.learned.fixed_point import exact_copy, snap
from ucip_adapt.codecs.learned.likelihoods import SCALE_COUNT, scale_of
from ucip_adapt.codecs.learned.network import INDEX_SPREAD, STRIDE, Part, TinyNetwork
from ucip_adapt.codecs.learned.tables import (
    RangeReader,
    RangeWriter,
    Tables,
    frequencies,
    gaussian_table,
)

__all__ = ["Coder", "Constants", "make_constants", "make_tables"]

_HYPER_REACH = 24  # of the side information's tables, in steps


class Constants:
    """Numbers per rate that a decoder has to have exactly.

    Attributes:
        step: Step of each latent channel, ``(rates, latents)``.
        shift: What is added to its predicted scale, the same shape.
        hyper_step: Step of the side information, ``(rates, hyper latents)``.
    """

    def __init__(self, step: Tensor, shift: Tensor, hyper_step: Tensor) -> None:
        self.step, self.shift, self.hyper_step = (
            snap(values.double()) for values in (step, shift, hyper_step)
        )


def make_constants(network: TinyNetwork) -> Constants:
    """The constants of a network after training; steps are at least 1/64."""
    with torch.no_grad():
        return Constants(
            network.log_step.double().exp().clamp_min(1 / 64),
            network.index_shift,
            network.log_hyper_step.double().exp().clamp_min(1 / 64),
        )


@torch.no_grad()
def make_tables(network: TinyNetwork) -> Tables:
    """Tables for a network's streams: first the gaussians, then those of the side information."""
    gaussians = [
        gaussian_table(float(scale)) for scale in scale_of(torch.arange(SCALE_COUNT).double())
    ]
    config, prior = network.config, network.prior
    values = torch.arange(-_HYPER_REACH, _HYPER_REACH + 1).double()
    grid = values[None, None, None].expand(config.rates, config.hyper_latents, 1, -1)
    # In double, so that a far tail is not lost.
    mass = prior.double().probability(grid, torch.arange(config.rates))[:, :, 0].numpy()
    prior.float()
    own = [frequencies(np.append(row, 0.0)) for rows in mass for row in rows]
    return Tables([*gaussians, *own])


class Coder:
    """Codes images with one network.

    What the decoder needs to stay in step (side information, means, scales) is computed by exact
    copies in fixed point; the transforms are ordinary float32.

    Args:
        network: The trained network.
        constants: Its steps and shifts.
        tables: Its tables.
    """

    def __init__(self, network: TinyNetwork, constants: Constants, tables: Tables) -> None:
        self._network = network.eval().requires_grad_(False)
        self._hyper = exact_copy(network.hyper)
        self._predictor = exact_copy(network.predictor)
        self._constants = constants
        self._tables = tables

    @torch.no_grad()
    def encode(self, rgb: NDArray[np.uint8], rate: int) -> bytes:
        """Code an ``H x W x 3`` image at a rate from 0; the range coder's bytes."""
        network, rows = self._network, torch.tensor([rate])
        y = network.analysis(_to_padded(rgb) - 0.5, rows)
        z = network.hyper_analysis(y, rows)
        hyper_step = self._constants.hyper_step[rate][None, :, None, None]
        z = (z.double() / hyper_step).round()
        writer = RangeWriter(self._tables)

        def carry(values: Tensor, numbers: NDArray[np.int64]) -> Tensor:
            writer.put(values.long().numpy(), numbers)
            return values

        carry(z.flatten(), self._hyper_numbers(rate, z.shape[-2:]))
        self._walk(z * hyper_step, rate, y.double(), y.shape[-2:], carry)
        return writer.finish()

    @torch.no_grad()
    def decode(self, payload: bytes, rate: int, height: int, width: int) -> NDArray[np.uint8]:
        """Decode an image of ``height`` x ``width`` pixels coded at a rate from 0.

        Raises:
            CodecError: If the bytes are no such image.
        """
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        reader = RangeReader(self._tables, payload)
        hyper_step = self._constants.hyper_step[rate][None, :, None, None]
        size = (-(-rows // 4), -(-columns // 4))
        numbers = self._hyper_numbers(rate, size)
        z = torch.from_numpy(reader.get(numbers)).double().view(1, -1, *size)

        def carry(_: Tensor, numbers: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(reader.get(numbers)).double()

        y = self._walk(z * hyper_step, rate, None, (rows, columns), carry)
        x = self._network.synthesis(y.float(), torch.tensor([rate])) + 0.5
        levels = (x[0, :, :height, :width].clamp(0, 1) * 255).round().byte()
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())

    def _walk(
        self,
        z: Tensor,
        rate: int,
        y: Tensor | None,
        size: Sequence[int],
        carry: Callable[[Tensor, NDArray[np.int64]], Tensor],
    ) -> Tensor:
        """Go over all latents in the order of coding, the same in encoder and decoder.

        Args:
            z: Decoded side information.
            rate: From 0.
            y: Latents to code; None when decoding.
            size: Rows and columns of the latents.
            carry: Takes the values to code (nothing when decoding) and their tables, both of shape
                ``(n,)``; returns the values that the decoder has.

        Returns:
            Decoded latents, float64.
        """
        steps = self._constants.step[rate][None, :, None, None]
        shifts = self._constants.shift[rate][None, :, None, None]

        def resolve(mean: Tensor, index: Tensor, part: Part) -> Tensor:
            step = steps[:, part.channels].expand_as(mean)
            row = ((index + shifts[:, part.channels]) * INDEX_SPREAD + 0.5).floor()
            row = row.clamp(0, SCALE_COUNT - 1)
            everywhere = torch.ones_like(mean, dtype=torch.bool)
            chosen = everywhere if part.mask is None else everywhere & part.mask
            values = torch.zeros(0)
            if y is not None:
                values = ((y[:, part.channels] - mean) / step).round()[chosen]
            values = carry(values, row[chosen].long().numpy())
            decoded = torch.zeros_like(mean)
            # Of multiples of 2**-12 again, and so is what the next part is predicted from.
            decoded[chosen] = snap(mean[chosen] + values * step[chosen])
            return decoded

        features = self._hyper(z, torch.tensor([rate]), (int(size[0]), int(size[1])))
        decoded: Tensor = self._predictor(features, resolve)
        return decoded

    def _hyper_numbers(self, rate: int, size: Sequence[int]) -> NDArray[np.int64]:
        """Table of every side latent: one for each rate and channel, after the gaussians."""
        channels = self._network.config.hyper_latents
        first = SCALE_COUNT + rate * channels
        return np.repeat(np.arange(first, first + channels), int(size[0]) * int(size[1]))


def _to_padded(rgb: NDArray[np.uint8]) -> Tensor:
    """``(1, 3, H, W)`` in [0, 1], the last row and column repeated up to a multiple of 8."""
    height, width = rgb.shape[:2]
    image = np.pad(rgb, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
