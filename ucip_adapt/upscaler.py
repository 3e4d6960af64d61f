"""One call that loads a network with its adapter, and one that enlarges a picture with it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, overload

import numpy as np
import torch
from peft import PeftModel
from PIL import Image, ImageOps
from torch import Tensor

from ucip_adapt.data.opening import unmapped
from ucip_adapt.errors import ConfigError, NonFiniteError, unknown_name
from ucip_adapt.hub.library import locate_adapter
from ucip_adapt.imaging.enlarge import check_finite_image, enlarge_picture
from ucip_adapt.imaging.exif import kept
from ucip_adapt.imaging.picture import Picture
from ucip_adapt.imaging.read import from_pillow, read_picture
from ucip_adapt.models import UCIP, self_ensemble, upscale_large
from ucip_adapt.models.config import SCALE
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.tuning import DynamicPromptModel, load_prompt_adapter

if TYPE_CHECKING:
    from ucip_adapt.automatic import AutoUpscaler

__all__ = ["Precision", "Upscaler", "interpolate", "load"]

Precision = Literal["float32", "bfloat16", "float16"]

_DEFAULT_BASE = "ucip-tiny"
_LEAST, _MOST = -0.5, 1.5
"""Values of a tensor beyond these are a mistake in its range, not overshoot."""

_ImageT = TypeVar("_ImageT", Image.Image, np.ndarray, Tensor)


class Upscaler:
    """A base network, with or without an adapter, that enlarges pictures of any kind.

    Args:
        network: The network.
        base: Name of the base, for messages.
        adapter: Name of the adapter; None for the base alone.
        device: Where it runs.
        dtype: Precision of the forward pass, by name or as torch's; less than ``"float32"`` runs
            under autocast.
        max_memory: What the network may add to the process (``"4GB"``); images that need more go
            through it in strips, with the same result. None is no limit.
        sampler: How tokens are fetched: ``"grid"``, ``"gather"``, or ``"fused"``, the compiled
            kernel; the same result to rounding (docs/performance.md). None is the network's own.
        self_ensemble: Whether a picture is restored in eight orientations and the mean taken:
            sharper by some hundredths of a dB, in eight times the time
            (:func:`ucip_adapt.models.self_ensemble`).

    Example:
        >>> from PIL import Image
        >>> model = load()
        >>> model.upscale(Image.new("LA", (9, 7))).size
        (36, 28)
        >>> model.upscale(np.zeros((7, 9, 3), np.uint8)).shape
        (28, 36, 3)
    """

    def __init__(
        self,
        network: UCIP | PeftModel,
        *,
        base: str,
        adapter: str | None = None,
        device: str = "cpu",
        dtype: Precision | torch.dtype = "float32",
        max_memory: str | None = None,
        sampler: Sampler | None = None,
        self_ensemble: bool = False,
    ) -> None:
        precision = _precision(dtype)
        if precision == "float16" and not device.startswith("cuda"):
            raise ConfigError("float16 needs a GPU: half the operations do not exist on a CPU")
        if max_memory is not None and precision != "float32":
            raise ConfigError("max_memory needs dtype float32: strips are exact in it alone")
        self.network = network.to(device).eval()
        self.base = base
        self.adapter = adapter
        self.device = torch.device(device)
        self.dtype: Precision = precision
        self.max_memory = max_memory
        self.sampler = sampler
        self.self_ensemble = self_ensemble
        if sampler is not None:
            _base_of(network).use_sampler(sampler)

    def upscale(self, image: _ImageT) -> _ImageT:
        """Restore and enlarge an image four times.

        Args:
            image: A PIL image (grey, colour, with or without alpha, 8 or 16-bit grey), an array
                ``H x W``, ``H x W x 1`` or ``H x W x 3`` of uint8 or uint16, or a tensor
                ``(B, 3, H, W)`` or ``(3, H, W)`` in [0, 1].

        Returns:
            The same kind, four times as high and wide. A PIL image that has an EXIF orientation
            comes back upright; its ``info`` holds the colour profile and the other EXIF data.

        Raises:
            ConfigError: If the image is none of these, holds no pixel, or is 16-bit grey with a
                level that is transparent; or if a tensor's values reach below -0.5 or above 1.5:
                such are of another range, as [0, 255].
            NonFiniteError: If a tensor holds, or the network gives, NaN or infinite values.
        """
        if isinstance(image, Tensor):
            return self._tensor(image)
        if isinstance(image, np.ndarray):
            return self._array(image)
        if isinstance(image, Image.Image):
            return self._pil(image)
        raise ConfigError(
            f"cannot enlarge a {type(image).__name__}: give a PIL image, array, tensor"
        )

    def upscale_all(self, images: Sequence[_ImageT]) -> list[_ImageT]:
        """Enlarge several images, of any sizes; see :meth:`upscale`."""
        return [self.upscale(image) for image in images]

    def upscale_picture(self, picture: Picture) -> Picture:
        """Enlarge a picture with its transparency, depth and metadata."""
        return enlarge_picture(picture, self._forward)

    def upscale_file(self, source: str | Path | bytes) -> Picture:
        """Enlarge a picture file with its transparency, depth and metadata.

        Args:
            source: The file, or its content.

        Returns:
            The picture; :func:`ucip_adapt.imaging.encode_picture` makes a file of it.

        Raises:
            DataError: If it cannot be read.
            NonFiniteError: If the network gives NaN or infinite values.
        """
        return self.upscale_picture(
            read_picture(source if isinstance(source, bytes) else Path(source))
        )

    def _forward(self, lq: Tensor) -> Tensor:
        return self_ensemble(self._once, lq) if self.self_ensemble else self._once(lq)

    def _once(self, lq: Tensor) -> Tensor:
        base = _base_of(self.network)
        if self.max_memory is not None:
            # The average and an orientation being turned wait beside each result.
            beside = 2 * SCALE**2 * lq.numel() * lq.element_size() if self.self_ensemble else 0
            return upscale_large(
                base, lq.to(self.device), max_memory=self.max_memory, reserve=beside
            )
        precision = (
            contextlib.nullcontext()
            if self.dtype == "float32"
            else torch.autocast(self.device.type, getattr(torch, self.dtype))
        )
        # Without inference_mode: its tensors cannot be changed in place or used with autograd, and
        # the network asks for no graph anyway.
        with precision:
            return base.upscale(lq.to(self.device)).float()

    def _tensor(self, lq: Tensor) -> Tensor:
        if not lq.is_floating_point() or lq.dim() not in (3, 4) or lq.shape[-3] != 3:
            raise ConfigError(
                f"a tensor must be floating-point (B, 3, H, W) or (3, H, W) in [0, 1], got "
                f"{lq.dtype} {tuple(lq.shape)}"
            )
        if not lq.numel():
            raise ConfigError(f"a tensor of shape {tuple(lq.shape)} holds no pixel")
        image = lq.float()
        _check_values(image)
        sr = self._forward(image if lq.dim() == 4 else image[None])
        check_finite_image(sr)
        return (sr if lq.dim() == 4 else sr[0]).to(lq)

    def _array(self, lq: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        try:
            picture = Picture(lq[..., None] if lq.ndim == 2 else lq)
        except ValueError as error:
            raise ConfigError(
                f"an array must be H x W, H x W x 1 or H x W x 3 of uint8 or uint16: {error}"
            ) from error
        sr = self.upscale_picture(picture).colour
        return sr[..., 0] if lq.ndim == 2 else sr

    def _pil(self, image: Image.Image) -> Image.Image:
        if image.mode not in {"L", "LA", "RGB", "RGBA", "I;16"}:
            raise ConfigError(
                f"an image of mode '{image.mode}' has to be converted to L, LA, RGB or RGBA first"
            )
        if 0 in image.size:
            raise ConfigError(f"an image of {image.width} x {image.height} pixels holds none")
        if image.format == "TIFF":
            # It is upright once loaded; a copy would not know what its levels stand for.
            name = getattr(image, "filename", "")
            picture = from_pillow(unmapped(image))
            image.filename = name  # type: ignore[attr-defined]
        else:
            picture = from_pillow(ImageOps.exif_transpose(image))
        if picture.depth == 16 and picture.alpha is not None:
            raise ConfigError(
                "Pillow has no 16-bit grey with alpha, which a transparent level becomes: take out "
                "image.info['transparency'], or give the file to upscale_file"
            )
        sr = self.upscale_picture(dataclasses.replace(picture, exif=_exif_of(image)))
        colour = sr.colour
        if sr.alpha is not None:
            colour = np.concatenate([colour, sr.alpha[..., None]], axis=2)
        result = Image.fromarray(colour[..., 0] if colour.shape[2] == 1 else colour)
        carried = {"icc_profile": sr.icc_profile, "exif": sr.exif}
        result.info.update({name: value for name, value in carried.items() if value is not None})
        return result


@overload
def load(
    adapter: Literal["auto"],
    *,
    base: str | Path | None = None,
    device: str = "cpu",
    dtype: Precision | torch.dtype = "float32",
    max_memory: str | None = None,
    sampler: Sampler | None = None,
    self_ensemble: bool = False,
    pixels: bool = True,
) -> AutoUpscaler: ...


@overload
def load(
    adapter: str | Path | None = None,
    *,
    base: str | Path | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: Precision | torch.dtype = "float32",
    max_memory: str | None = None,
    sampler: Sampler | None = None,
    self_ensemble: bool = False,
    pixels: bool = True,
) -> Upscaler: ...


def load(
    adapter: str | Path | None = None,
    *,
    base: str | Path | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: Precision | torch.dtype = "float32",
    max_memory: str | None = None,
    sampler: Sampler | None = None,
    self_ensemble: bool = False,
    pixels: bool = True,
) -> Upscaler:
    """Load a base and an adapter, ready to enlarge pictures.

    Args:
        adapter: Name of a shipped adapter, a folder, or ``"user/repository"`` on the Hub; None for
            the base alone; ``"auto"`` for whichever shipped one fits a picture's codec.
        base: The base: a shipped name, a folder or a Hub repository. Default: the one that the
            adapter names, or ``"ucip-tiny"``.
        subfolder: Folder of the adapter inside ``adapter``.
        revision: Branch, tag or commit of the adapter on the Hub.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        dtype: See :class:`Upscaler`.
        max_memory: See :class:`Upscaler`.
        sampler: See :class:`Upscaler`.
        self_ensemble: See :class:`Upscaler`.
        pixels: For ``"auto"``: whether to look at the pixels where a file does not say its codec.

    Returns:
        The network with its adapter; for ``"auto"`` an
        :class:`~ucip_adapt.automatic.AutoUpscaler`.

    Raises:
        UnknownNameError: If there is no adapter of that name.
        AdapterError: If the adapter is missing, damaged, or belongs to another base.
        HubError: If the Hub does not give it.
        ConfigError: If there is no such base, the device cannot be used, or a revision or subfolder
            is given that the adapter does not have.

    Example:
        >>> load().upscale(torch.rand(3, 8, 10)).shape
        torch.Size([3, 32, 40])
    """
    if adapter in {None, "auto"} and not (revision is None and subfolder is None):
        raise ConfigError("a revision or subfolder is that of an adapter: name the adapter")
    if adapter == "auto":
        from ucip_adapt.automatic import AutoUpscaler

        return AutoUpscaler(
            base=base,
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            sampler=sampler,
            self_ensemble=self_ensemble,
            pixels=pixels,
        )
    _check_device(device)
    if adapter is None:
        name = str(base or _DEFAULT_BASE)
        return Upscaler(
            UCIP.from_pretrained(name),
            base=name,
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            sampler=sampler,
            self_ensemble=self_ensemble,
        )
    folder = locate_adapter(str(adapter), revision=revision, subfolder=subfolder)
    model = load_prompt_adapter(folder, None if base is None else UCIP.from_pretrained(str(base)))
    name = _base_of(model).name_or_path
    return Upscaler(
        model,
        base=name,
        adapter=str(adapter),
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        sampler=sampler,
        self_ensemble=self_ensemble,
    )


def interpolate(
    first: str | Path,
    second: str | Path,
    t: float,
    *,
    extrapolate: bool = False,
    base: str | Path | None = None,
    device: str = "cpu",
    dtype: Precision | torch.dtype = "float32",
    max_memory: str | None = None,
    sampler: Sampler | None = None,
    self_ensemble: bool = False,
) -> Upscaler:
    """Load a base with an adapter between two others: ``(1 - t) * first + t * second``.

    Parameters are interpolated, not images; docs/adapter_arithmetic.md shows what that does
    between two qualities of a codec.

    Args:
        first: Name, folder or Hub repository of the adapter at ``t = 0``.
        second: The one at ``t = 1``; of the same base, trainable set and number of prompts.
        t: Where between the two, in [0, 1].
        extrapolate: Whether ``t`` may lie outside.
        base: See :func:`load`.
        device: See :func:`load`.
        dtype: See :class:`Upscaler`.
        max_memory: See :class:`Upscaler`.
        sampler: See :class:`Upscaler`.
        self_ensemble: See :class:`Upscaler`.

    Returns:
        The network with the one new adapter.

    Raises:
        ConfigError: If ``t`` is outside [0, 1] without ``extrapolate``, or not finite, or the
            adapters replace different parameters.
        UcipError: As :func:`load`, for either adapter.

    Example:
        >>> halfway = interpolate("webp", "webp", 0.5)
        >>> halfway.upscale(torch.rand(3, 8, 10)).shape
        torch.Size([3, 32, 40])
    """
    if not math.isfinite(t):
        raise ConfigError(f"t={t} must be a finite number")
    if not extrapolate and not 0 <= t <= 1:
        raise ConfigError(
            f"t={t} lies outside [0, 1]: give extrapolate=True if you mean to go beyond the two "
            "adapters, where neither was trained"
        )
    _check_device(device)
    model = load_prompt_adapter(
        locate_adapter(str(first)),
        None if base is None else UCIP.from_pretrained(str(base)),
        adapter_name="first",
    )
    model.load_adapter(str(locate_adapter(str(second))), "second")
    tuner = cast("DynamicPromptModel", model.base_model)
    tuner.add_weighted_adapter(["first", "second"], [1 - t, t], "interpolated")
    tuner.set_adapter("interpolated", inference_mode=True)
    for name in ("first", "second"):
        model.delete_adapter(name)
    return Upscaler(
        model,
        base=_base_of(model).name_or_path,
        adapter=f"{1 - t:g} {first} + {t:g} {second}",
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        sampler=sampler,
        self_ensemble=self_ensemble,
    )


def _base_of(network: UCIP | PeftModel) -> UCIP:
    """The base inside an adapted network; its ``upscale`` runs with the active adapter."""
    return cast("UCIP", network.get_base_model()) if isinstance(network, PeftModel) else network


def _exif_of(image: Image.Image) -> bytes | None:
    """EXIF data of an image that is made upright, as :func:`read_picture` passes them on."""
    try:
        exif = image.getexif()
        if (of_tiff := image.format == "TIFF") or not len(exif):
            return kept(exif, of_tiff=of_tiff)
        # The caller's own object keeps its orientation.
        own = Image.Exif()
        own.load(exif.tobytes())
        return kept(own, of_tiff=False)
    except Exception as error:  # values of wrong types raise nearly anything
        warnings.warn(f"EXIF data that cannot be written are left out: {error}", stacklevel=4)
        return None


def _precision(dtype: object) -> Precision:
    """The name of a precision, which may be given as torch's own."""
    name = str(dtype).removeprefix("torch.")
    if name not in get_args(Precision):
        raise unknown_name("dtype", name, get_args(Precision))
    return cast("Precision", name)


def _check_values(lq: Tensor) -> None:
    """Refuse values of another range; those a little outside, as resizing leaves them, are fine."""
    low, high = (value.item() for value in torch.aminmax(lq.detach()))  # NaN, if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteError("the image holds values that are NaN or infinite")
    if low < _LEAST or high > _MOST:
        hint = "; divide 8-bit levels by 255" if low >= 0 and high <= 255 else ""
        raise ConfigError(
            f"a tensor's values must lie in [0, 1], these reach from {low:.4g} to {high:.4g}{hint}"
        )


def _check_device(device: str) -> None:
    try:
        kind, index = torch.device(device).type, torch.device(device).index
        backend = None if kind == "cpu" else getattr(torch, kind)
        count = 1 if backend is None else backend.device_count() if backend.is_available() else 0
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(f"no device '{device}': give cpu, cuda, cuda:1 or mps") from error
    if not count:
        raise ConfigError(f"device '{device}' is not available here")
    if index is not None and index >= count:
        known = kind if kind == "cpu" else ", ".join(f"{kind}:{i}" for i in range(count))
        raise ConfigError(f"device '{device}' is not available here, but {known}")
