"""UCIP: a universal network for compressed image super-resolution (arXiv 2407.13108)."""

# No `from __future__ import annotations` here: the Hub mixin reads the annotation of `config` at
# run time.

from collections.abc import Iterable
from pathlib import Path
from typing import Self, cast, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.models.config import SCALE, UCIPConfig
from ucip_adapt.models.fingerprint import Fingerprinted
from ucip_adapt.models.folding import needs_graph
from ucip_adapt.models.modulation import convolve
from ucip_adapt.models.pretrained import load_weights, locate_base, save_weights
from ucip_adapt.models.prompts import build_prompt
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.models.token_mixer import PTMM, to_channels_first, to_channels_last
from ucip_adapt.models.upsampler import UpsamplingHead, bicubic_x4
from ucip_adapt.models.windows import upscale_windows

__all__ = ["PTMB", "UCIP"]

_SMALLEST_SIDE = 8


class PTMB(nn.Module):
    """Prompt-guided token mixer block: one prompt, PTMMs that share it, and a residual (Sec. 3.2).

    Args:
        config: Architecture of the network that the block belongs to.

    Example:
        >>> PTMB(UCIPConfig.preset("nano"))(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 5, 7, 16])
    """

    def __init__(self, config: UCIPConfig) -> None:
        super().__init__()
        self.prompt = build_prompt(
            config.prompt,
            dim=config.embed_dim,
            prompt_dim=config.prompt_dim,
            num_prompts=config.num_prompts,
            num_slots=config.num_slots,
            prompt_size=config.prompt_size,
        )
        # Position encoding generator: one depth-wise convolution, used before every PTMM that
        # predicts offsets.
        self.peg = nn.Conv2d(
            config.embed_dim, config.embed_dim, 3, padding=1, groups=config.embed_dim
        )
        self.layers = nn.ModuleList(
            PTMM(
                config.embed_dim,
                config.prompt_dim,
                mlp_ratio=config.mlp_ratio,
                share=config.share,
                has_offset=index % 2 == 0,
                local=config.local,
                sampler=config.sampler,
            )
            for index in range(config.num_layers)
        )

    def forward(self, features: Tensor, slot: Tensor | None = None) -> Tensor:
        """Map ``(B, H, W, C)`` to the same shape; ``slot`` is one prompt slot per image."""
        prompt = self.prompt(features, slot)
        x = features
        offset: Tensor | None = None
        for layer in cast("Iterable[PTMM]", self.layers):
            if layer.offset is not None:
                x = x + to_channels_last(convolve(self.peg, to_channels_first(x)))
                offset = layer.offset(x, prompt)
            x = layer(x, prompt, offset)
        return x + features


class UCIP(
    Fingerprinted, nn.Module, PyTorchModelHubMixin, library_name="ucip_adapt", license="apache-2.0"
):
    r"""UCIP: shallow features, prompt-guided token mixer blocks, a x4 head.

    Li et al., "UCIP: A Universal Framework for Compressed Image Super-Resolution using Dynamic
    Prompt", ECCV 2024. An independent implementation from the paper; ``docs/reproduction.md`` lists
    each choice.

    Args:
        config: The architecture; default ``UCIPConfig()``, the paper's network.

    Attributes:
        config: The architecture, frozen.
        name_or_path: Where the weights came from; an adapter records it as its base.

    Example:
        >>> model = UCIP(UCIPConfig.preset("nano"))
        >>> model(torch.rand(1, 3, 13, 31)).shape
        torch.Size([1, 3, 52, 124])
    """

    def __init__(self, config: UCIPConfig | None = None) -> None:
        super().__init__()
        self.config = config or UCIPConfig()
        self.name_or_path = ""
        self.gradient_checkpointing = False
        dim = self.config.embed_dim
        self.embed = nn.Conv2d(3, dim, 5, padding=2)
        self.blocks = nn.ModuleList(PTMB(self.config) for _ in range(self.config.num_blocks))
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.head = UpsamplingHead(dim, self.config.head_dim)
        self._initialise()
        self.remember_base_keys()

    def _initialise(self) -> None:
        """Initial weights of the released code (``docs/reproduction.md``)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = (
                    module.kernel_size[0]
                    * module.kernel_size[1]
                    * module.out_channels
                    // module.groups
                )
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.conv_last.weight.mul_(self.config.last_conv_scale)
        if self.config.prompt == "none":
            # DDP stops on parameters that ask for a gradient and never get one.
            for block in self.blocks:
                block.prompt.requires_grad_(False)

    def forward(self, lq: Tensor, slot: Tensor | None = None) -> Tensor:
        """Restore and enlarge whole images, whose statistics are global.

        Args:
            lq: Compressed low-resolution RGB images, shape ``(B, 3, H, W)``, values in [0, 1]; any
                size but 1 x 1.
            slot: Prompt slot of each image, shape ``(B,)``, for networks with several; default slot
                0.

        Returns:
            Images, shape ``(B, 3, 4H, 4W)``; not clipped.

        Raises:
            ValueError: If the input is not ``(B, 3, H, W)``, or is a single pixel.
            ConfigError: If the weights were cast to less than 32 bits.
        """
        _check_shape(lq)
        if lq.shape[2] * lq.shape[3] <= 1:
            raise ValueError(
                f"lq is {lq.shape[2]} x {lq.shape[3]} pixels: a single pixel has no statistics to "
                "normalise by; UCIP.upscale repeats the edge of such small images"
            )
        if (dtype := next(self.parameters()).dtype).itemsize < 4:
            raise ConfigError(
                f"the network's weights are {dtype}, in which offsets and statistics would lose "
                "digits: keep them in float32 (model.float()), and for speed run the network under "
                f"torch.autocast({lq.device.type!r}, {dtype})"
            )
        shallow = self.embed(lq.contiguous(memory_format=torch.channels_last))
        # A no-op, but for an image that is a permuted (H, W, 3) array: its batch stride makes the
        # convolution write planes, and oneDNN may have only its slow reference product into planes.
        features = to_channels_last(shallow).contiguous()
        for block in self.blocks:
            features = self._run(block, features, slot)
        deep = convolve(self.conv_after_body, to_channels_first(self.norm(features))) + shallow
        sr = self._run(self.head, deep)
        if self.config.global_skip == "bicubic":
            sr = sr + bicubic_x4(lq)
        return sr

    def _run(self, part: nn.Module, x: Tensor, *more: Tensor | None) -> Tensor:
        """Call a part of the network, with its activations kept or made again in backward.

        What comes before the first trained part has no graph: its activations are gone either way.
        """
        if self.gradient_checkpointing and needs_graph(part, x):
            return cast(Tensor, checkpoint(part, x, *more, use_reentrant=False))
        return cast(Tensor, part(x, *more))

    @torch.no_grad()
    def upscale(
        self, lq: Tensor, *, window: int | str | None = "config", batch_size: int | None = None
    ) -> Tensor:
        """Restore and enlarge images as this base's configuration says: whole, or in windows.

        Args:
            lq: Images, shape ``(B, 3, H, W)``, values in [0, 1], any size.
            window: ``"config"`` follows ``config.window``; None is the whole image; a number is a
                window's side.
            batch_size: Windows that go through the network at once; see :func:`upscale_windows`.

        Returns:
            Images, shape ``(B, 3, 4H, 4W)``, clipped to [0, 1].

        Raises:
            ValueError: If ``lq`` is not ``(B, 3, H, W)`` or holds no pixel, or ``window`` is none
                of the three.
        """
        _check_shape(lq)
        if not lq.numel():
            raise ValueError(f"lq of shape {tuple(lq.shape)} holds no pixel")
        height, width = lq.shape[-2:]
        padding = (0, max(_SMALLEST_SIDE - width, 0), 0, max(_SMALLEST_SIDE - height, 0))
        # Only sides under 8 pixels are padded: padding changes the global statistics.
        padded = F.pad(lq, padding, mode="replicate") if any(padding) else lq
        side, stride = (
            (self.config.window, self.config.window_stride)
            if window == "config"
            else (window, None)
        )
        if side is None:
            sr: Tensor = self(padded)
        elif isinstance(side, int):
            sr = upscale_windows(self, padded, window=side, stride=stride, batch_size=batch_size)
        else:
            raise ValueError(f"window={window!r}: give 'config', None or a number of LQ pixels")
        return sr[..., : SCALE * height, : SCALE * width].clamp(0, 1)

    def enable_gradient_checkpointing(self) -> None:
        """Compute each PTMB and the head again in backward instead of keeping activations."""
        self.gradient_checkpointing = True

    def use_sampler(self, sampler: Sampler) -> None:
        """Fetch tokens by another implementation from now on; the same function to rounding.

        Says nothing about the weights: ``config``, and what is saved, stay as they are.

        Args:
            sampler: See :class:`UCIPConfig`.

        Raises:
            UnknownNameError: If there is no such implementation; those that there are are listed.

        Example:
            >>> model, lq = UCIP(UCIPConfig.preset("nano")).eval(), torch.rand(1, 3, 13, 31)
            >>> before = model.upscale(lq)
            >>> model.use_sampler("gather")
            >>> torch.allclose(model.upscale(lq), before, atol=1e-5)
            True
        """
        if sampler not in get_args(Sampler):
            raise unknown_name("sampler", sampler, get_args(Sampler))
        for module in self.modules():
            if isinstance(module, PTMM):
                module.use_sampler(sampler)

    def num_parameters(self, *, trainable_only: bool = False) -> int:
        """Number of parameter values.

        Args:
            trainable_only: Count only those that require a gradient.

        Returns:
            The number, adapters included.
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    def prompt_modules(self) -> list[nn.Module]:
        """The prompt module of each PTMB, in order; of adapters, the wrapper."""
        return [block.prompt for block in cast("Iterable[PTMB]", self.blocks)]

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(self, save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a base network: a shipped name, else a local folder, else a Hub repository.

        Args:
            pretrained_model_name_or_path: ``"ucip-tiny-v3"``, ``"path/to/folder"`` or
                ``"user/repository"``.
            revision: Branch, tag or commit on the Hub.
            cache_dir: Folder of the Hub's cache.
            local_files_only: Never ask the network.
            force_download: Fetch again what the cache holds.
            token: Hub token.

        Returns:
            The network in evaluation mode, its :attr:`fingerprint` known.

        Raises:
            ConfigError: If there is no base of that name; the shipped ones are listed.
            BaseFormatError: If the folder is incomplete or damaged, or its tensors do not fit its
                configuration.
        """
        folder = locate_base(
            str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            token=token,
        )
        model = cls(UCIPConfig.from_file(folder / "config.json"))
        load_weights(model, folder / "model.safetensors")
        model.name_or_path = str(pretrained_model_name_or_path)
        return model.eval()


def _check_shape(lq: Tensor) -> None:
    if lq.dim() != 4 or lq.shape[1] != 3:
        raise ValueError(f"lq must have shape (B, 3, H, W), got {tuple(lq.shape)}")
