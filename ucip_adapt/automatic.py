"""Enlarging each picture with the adapter of its own codec."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ucip_adapt.detection import AUTO, Choice, Detection, choose_adapter, detect_picture
from ucip_adapt.imaging.picture import Picture
from ucip_adapt.imaging.read import read_bytes, read_picture
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.upscaler import Precision, Upscaler, load

__all__ = ["AutoUpscaler"]


class AutoUpscaler(Upscaler):
    """A base with whichever adapter a picture asks for; what ``ucip_adapt.load("auto")`` gives.

    The codec is taken from the file where there is one (:meth:`upscale_file`), else from the
    pixels. Networks are loaded when they are first needed and kept; threads may share an object.

    Args:
        base: The base; None is that of each adapter, and the default one without an adapter.
        device: See :class:`~ucip_adapt.Upscaler`.
        dtype: See :class:`~ucip_adapt.Upscaler`.
        max_memory: See :class:`~ucip_adapt.Upscaler`.
        sampler: See :class:`~ucip_adapt.Upscaler`.
        self_ensemble: See :class:`~ucip_adapt.Upscaler`.
        pixels: Whether the pixels are looked at where a file does not say its codec.

    Example:
        >>> model = AutoUpscaler()
        >>> picture = Picture(np.zeros((9, 7, 1), np.uint8))
        >>> model.upscale_picture(picture).size
        (36, 28)
        >>> model.choose(picture)[1].adapter is None
        True
    """

    def __init__(
        self,
        *,
        base: str | Path | None = None,
        device: str = "cpu",
        dtype: Precision | torch.dtype = "float32",
        max_memory: str | None = None,
        sampler: Sampler | None = None,
        self_ensemble: bool = False,
        pixels: bool = True,
    ) -> None:
        base = None if base is None else str(base)
        self._load = functools.partial(
            load,
            base=base,
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            sampler=sampler,
            self_ensemble=self_ensemble,
        )
        plain = self._load()
        super().__init__(
            plain.network,
            base=plain.base,
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            sampler=sampler,
            self_ensemble=self_ensemble,
        )
        self.pixels = pixels
        self._asked_base = base
        self._loaded: dict[str | None, Upscaler] = {None: plain}
        self._lock = threading.Lock()

    def choose(self, picture: Picture, data: bytes | None = None) -> tuple[Detection, Choice]:
        """Say which adapter a picture gets, and why.

        Args:
            picture: The picture.
            data: Its file, if there is one.

        Returns:
            What is known of its coding, and the adapter.
        """
        detection = detect_picture(picture, data, pixels=self.pixels)
        return detection, choose_adapter(AUTO, detection, base=self._asked_base)

    def using(self, adapter: str | None) -> Upscaler:
        """The base with one adapter, loaded once.

        Args:
            adapter: Its name; None is the base alone.
        """
        with self._lock:
            if adapter not in self._loaded:
                self._loaded[adapter] = self._load(adapter)
            return self._loaded[adapter]

    def upscale_file(self, source: str | Path | bytes) -> Picture:
        """Enlarge a picture file with the adapter that it asks for.

        Args:
            source: The file, or its content.

        Returns:
            The picture, four times as high and wide.

        Raises:
            DataError: If it cannot be read.
        """
        data = source if isinstance(source, bytes) else read_bytes(Path(source))
        picture = read_picture(data)
        return self.using(self.choose(picture, data)[1].adapter).upscale_picture(picture)

    def upscale_picture(self, picture: Picture) -> Picture:
        """Enlarge a picture with the adapter that its pixels ask for."""
        return self.using(self.choose(picture)[1].adapter).upscale_picture(picture)

    def _forward(self, lq: Tensor) -> Tensor:
        """Each image of a batch by its own pixels."""
        results = []
        for image in lq:
            colour = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            _, choice = self.choose(Picture(np.ascontiguousarray(colour)))
            results.append(self.using(choice.adapter).upscale(image[None]))
        return torch.cat(results)
