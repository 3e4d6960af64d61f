"""The features of a whole image, one pass over strips after the other.

A PTMM takes three passes, each over all strips:

1. *rows*: apply the SPADE of the PTMM before, whose statistics are now complete, and the PEG;
   predict offsets; gather the mean of the horizontally sampled tokens;
2. *columns*: sample vertically, along whole columns, and keep the result; gather the means of the
   vertical and the local branch;
3. *rows*: the fusion weights are now known: sample horizontally, convolve locally, fuse, apply the
   MLP; gather the statistics for the next SPADE.

Five maps of the image live between the passes: the block's input, the tokens, their horizontal and
vertical offsets, and one that holds first what was sampled vertically and then the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.models.bounded.lines import Strip, strips
from ucip_adapt.models.bounded.moments import Means, Moments
from ucip_adapt.models.bounded.prompts import StripPrompt, active_module
from ucip_adapt.models.bounded.store import FeatureMap, Store
from ucip_adapt.models.sampling import deform_sample_1d
from ucip_adapt.models.token_mixer import (
    PTMM,
    SPADE,
    TokenMixer,
    to_channels_first,
    to_channels_last,
)
from ucip_adapt.models.ucip import PTMB, UCIP

__all__ = ["Body", "ReadRows", "number_of_passes"]

_PIXELS = 2048
"""Pixels that go through an MLP at once: its wide tensor then stays in the cache."""

ReadRows = Callable[[int, int], Tensor]
"""Rows ``first`` to ``last`` (exclusive) of the image as ``(1, 3, h, W)`` in [0, 1]."""


def number_of_passes(network: UCIP) -> int:
    """Passes over the image until its features are complete."""
    return 1 + network.config.num_blocks * (3 * network.config.num_layers + 1)


class Body:
    """Computes the features of one image.

    Args:
        network: The network, its adapters included.
        read: Reads rows of the image.
        height: Rows of the image.
        width: Columns of the image.
        rows: Rows of a strip of rows.
        columns: Columns of a strip of columns.
        store: Makes the feature maps.
        tick: Called after every strip with the share of a pass that it was.
    """

    def __init__(
        self,
        network: UCIP,
        read: ReadRows,
        height: int,
        width: int,
        *,
        rows: int,
        columns: int,
        store: Store,
        tick: Callable[[float], None],
    ) -> None:
        config = network.config
        self._network = network
        self._read = read
        self._height, self._width = height, width
        self._rows, self._columns = rows, columns
        self._tick = tick
        shape = (height, width, config.embed_dim)
        # What passes read and write most comes first: maps beyond the memory go to files.
        self._tokens = store.new(shape)
        self._result = store.new(shape)
        self._input = store.new(shape)
        shape = (height, width, config.embed_dim // config.share)
        self._offset_h = store.new(shape)
        self._offset_v = store.new(shape)
        self._store = store
        self._kept_prompt: FeatureMap | None = None
        self._prompt: StripPrompt | None = None

    def run(self) -> FeatureMap:
        """The features after the last block."""
        blocks = list(cast("Iterable[PTMB]", self._network.blocks))
        self._prompt = self._new_prompt(blocks[0])
        for strip in self._row_strips():
            self._put_input(strip, to_channels_last(self.shallow(strip.first, strip.last)))
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            self._run_block(block, following)
        return self._input

    def shallow(self, first: int, last: int) -> Tensor:
        """Rows of the shallow features F_S, shape ``(1, C, last - first, W)``."""
        low, high = max(first - 2, 0), min(last + 2, self._height)
        image = self._read(low, high).contiguous(memory_format=torch.channels_last)
        rows: Tensor = self._network.embed(image)[:, :, first - low : last - low]
        return rows

    # -- passes --------------------------------------------------------------------------------

    def _run_block(self, block: PTMB, following: PTMB | None) -> None:
        prompt = cast(StripPrompt, self._prompt)
        before: PTMM | None = None
        moments = Moments()
        for layer in cast("Iterable[PTMM]", block.layers):
            mean_h = self._begin(block, layer, prompt, before, moments)
            mean_v, mean_local = self._sample_vertically(layer)
            moments = self._mix(layer, [mean_h, mean_v, *mean_local])
            before = layer
        self._prompt = None if following is None else self._new_prompt(following)
        self._end(cast(PTMM, before), prompt, moments)

    def _begin(
        self,
        block: PTMB,
        layer: PTMM,
        prompt: StripPrompt,
        before: PTMM | None,
        moments: Moments,
    ) -> Tensor:
        """First pass: tokens and offsets of a PTMM; the mean of what is sampled horizontally."""
        sampled = Means()
        for strip in self._row_strips(halo=1 if layer.offset is not None else 0):
            around = prompt.rows(*self._spade_rows(strip.low, strip.high))
            if before is None:
                x = self._input.read_rows(strip.low, strip.high)
            else:
                x = self._result.read_rows(strip.low, strip.high)
                x = self._modulate(before.spade, x, around, strip.low, moments)
            if layer.offset is not None:
                x = (x + to_channels_last(block.peg(to_channels_first(x))))[:, strip.own]
                start = strip.first - self._spade_rows(strip.low, strip.high)[0]
                own = around[:, start : start + strip.last - strip.first]
                offset_h, offset_v = to_channels_last(layer.offset(x, own)).chunk(2, dim=-1)
                self._offset_h.write_rows(strip.first, offset_h)
                self._offset_v.write_rows(strip.first, offset_v)
            else:
                offset_h = self._offset_h.read_rows(strip.first, strip.last)
            self._tokens.write_rows(strip.first, x)
            planes = to_channels_first(layer.norm1(x))
            sampled.add(_sample(layer.mixer, planes, offset_h, axis="horizontal"))
            self._done(strip, self._height)
        return sampled.mean

    def _sample_vertically(self, layer: PTMM) -> tuple[Tensor, list[Tensor]]:
        """Second pass: what is sampled vertically; its mean and that of the local branch."""
        mixer = layer.mixer
        sampled, local = Means(), Means()
        for strip in strips(self._width, self._columns, halo=0 if mixer.local is None else 2):
            planes = to_channels_first(
                layer.norm1(self._tokens.read_columns(strip.low, strip.high))
            )
            if mixer.local is not None:
                local.add(to_channels_last(mixer.local(planes)[..., strip.own]))
            offset = self._offset_v.read_columns(strip.first, strip.last)
            moved = _sample(mixer, planes[..., strip.own], offset, axis="vertical")
            sampled.add(moved)
            self._result.write_columns(strip.first, moved)
            self._done(strip, self._width)
        return sampled.mean, [] if mixer.local is None else [local.mean]

    def _mix(self, layer: PTMM, means: list[Tensor]) -> Moments:
        """Third pass: fuse the branches, add, apply the MLP; statistics of the result."""
        mixer = layer.mixer
        matrices, bias = fused_matrices(mixer, [mean.to(self._like(mixer)) for mean in means])
        moments = Moments()
        for strip in self._row_strips(halo=0 if mixer.local is None else 2):
            tokens = self._tokens.read_rows(strip.low, strip.high)
            planes = to_channels_first(layer.norm1(tokens))
            offset = self._offset_h.read_rows(strip.first, strip.last)
            branches = [
                _sample(mixer, planes[:, :, strip.own], offset, axis="horizontal"),
                self._result.read_rows(strip.first, strip.last),
            ]
            if mixer.local is not None:
                branches.append(to_channels_last(mixer.local(planes)[:, :, strip.own]))
            own = tokens[:, strip.own]
            x = (own + bias).view(-1, mixer.dim)
            for branch, matrix in zip(branches, matrices, strict=True):
                x.addmm_(branch.reshape(-1, mixer.dim), matrix)
            for start in range(0, len(x), _PIXELS):
                piece = x[start : start + _PIXELS]
                piece.add_(layer.mlp(layer.norm2(piece)))
            x = x.view_as(own)
            moments.add(x)
            self._result.write_rows(strip.first, x)
            self._done(strip, self._height)
        return moments

    def _end(self, last: PTMM, prompt: StripPrompt, moments: Moments) -> None:
        """Last pass of a block: the last SPADE, the residual, and the next block's prompt."""
        source, self._input, self._tokens = self._input, self._tokens, self._input
        for strip in self._row_strips():
            around = prompt.rows(*self._spade_rows(strip.low, strip.high))
            x = self._result.read_rows(strip.first, strip.last)
            x = self._modulate(last.spade, x, around, strip.first, moments)
            self._put_input(strip, x + source.read_rows(strip.first, strip.last))

    # -- parts ---------------------------------------------------------------------------------

    def _new_prompt(self, block: PTMB) -> StripPrompt:
        return StripPrompt(block.prompt, self._prompt_map, self._input.shape)

    def _prompt_map(self) -> FeatureMap:
        if self._kept_prompt is None:
            shape = (self._height, self._width, self._network.config.prompt_dim)
            self._kept_prompt = self._store.new(shape)
        return self._kept_prompt

    def _put_input(self, strip: Strip, features: Tensor) -> None:
        self._input.write_rows(strip.first, features)
        if self._prompt is not None:
            # It replaces the prompt of the block before, of which the next strip reads two rows
            # that lie above it.
            end = strip.last if strip.last == self._height else strip.last - 2
            start = max(strip.first - 2, 0)
            if end > start:
                self._prompt.add(start, self._input.read_rows(start, end))
        self._done(strip, self._height)

    def _spade_rows(self, low: int, high: int) -> tuple[int, int]:
        """Rows of the prompt that the two 3 x 3 convolutions of SPADE read."""
        return max(low - 2, 0), min(high + 2, self._height)

    def _modulate(
        self, module: nn.Module, x: Tensor, prompt: Tensor, first: int, moments: Moments
    ) -> Tensor:
        """SPADE of rows from ``first`` on, with the image's statistics; see there."""
        spade = cast(SPADE, active_module(module))
        start = first - self._spade_rows(first, first + x.shape[1])[0]
        own = slice(start, start + x.shape[1])
        activation = F.relu(spade.shared(to_channels_first(prompt)))
        gamma = to_channels_last(spade.gamma(activation))[:, own]
        beta = to_channels_last(spade.beta(activation))[:, own]
        scale = torch.rsqrt(moments.variance + spade.eps)
        normalised = (x - moments.mean.to(x)).mul_(scale.to(x))
        return (normalised + beta).addcmul_(normalised, gamma)

    def _row_strips(self, *, halo: int = 0) -> list[Strip]:
        return strips(self._height, self._rows, halo=halo)

    def _done(self, strip: Strip, size: int) -> None:
        self._tick((strip.last - strip.first) / size)

    @staticmethod
    def _like(module: nn.Module) -> Tensor:
        return next(module.parameters())


def _sample(mixer: TokenMixer, planes: Tensor, offset: Tensor, *, axis: str) -> Tensor:
    """Sample ``(1, C, h, w)`` at offsets ``(1, h, w, C/S)``; returns ``(1, h, w, C)``."""
    moved = deform_sample_1d(
        planes.contiguous(),
        to_channels_first(offset).contiguous(),
        axis="horizontal" if axis == "horizontal" else "vertical",
        method=mixer.sampler,
    )
    return to_channels_last(moved)


def fused_matrices(mixer: TokenMixer, means: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """What a mixer does to its sampled branches, given their means over the image.

    The mean of a linear map's output is the map of the mean, so that the fusion weights (Eq. 4) are
    known before any pixel is mapped. Given the weights, the rest is one affine map of the branches.
    It is found by asking the modules for their answers to unit vectors and not by reading weights,
    so that any adapter around them counts.

    Args:
        mixer: The mixer.
        means: Means of the horizontal, the vertical and (if there is one) the local branch, before
            the linear maps, shape ``(C,)`` each.

    Returns:
        One matrix ``(C, C)`` per branch, to be multiplied from the right, and the bias ``(C,)``.
    """
    mapped = [mixer.horizontal(means[0]), mixer.vertical(means[1]), *means[2:]]
    pooled = torch.stack(mapped).sum(dim=0)
    weights = mixer.fusion(pooled[None]).view(mixer.dim, mixer.branches).softmax(dim=-1)
    # Row 0 is the answer to zero, the others to the unit vectors.
    probes = torch.eye(mixer.dim + 1, mixer.dim, device=pooled.device, dtype=pooled.dtype).roll(
        1, 0
    )
    probes[0] = 0
    zero = torch.zeros_like(probes)
    matrices = []
    bias: Tensor | None = None
    for branch in range(mixer.branches):
        given = [probes if k == branch else zero for k in range(mixer.branches)]
        parts = [mixer.horizontal(given[0]), mixer.vertical(given[1]), *given[2:]]
        mixed = sum(part * weights[:, k] for k, part in enumerate(parts))
        answer = mixer.proj(mixed)
        matrices.append(answer[1:] - answer[0])
        bias = answer[0]
    return matrices, cast(Tensor, bias)
