"""Base and adapter as one network without an adapter, and what a file of it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import ModelCard
from peft import PeftModel

from ucip_adapt import __version__
from ucip_adapt.assets import ALIASES
from ucip_adapt.atomic import replaced
from ucip_adapt.errors import BaseFormatError, UcipError
from ucip_adapt.hub.library import locate_adapter
from ucip_adapt.models import SCALE, UCIP
from ucip_adapt.models.pretrained import locate_base
from ucip_adapt.upscaler import load

__all__ = ["Merged", "merge", "write_bytes"]

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Merged:
    """A network and where it came from.

    Attributes:
        network: Base with the adapter written into it.
        base: Name of the base, with its version if it is a shipped one.
        adapter: Name of the adapter; None for the base alone.
        base_fingerprint: Identity of the base without adapter.
        licence: Identifier of the weights' licence, from the adapter's card or, of a base alone,
            the base's; ``"unknown"`` without one.
    """

    network: UCIP
    base: str
    adapter: str | None
    base_fingerprint: str
    licence: str

    def metadata(self, *, cuts_windows: bool = False) -> dict[str, str]:
        """What a file of the network says of itself: names, licence, and how to apply it.

        Args:
            cuts_windows: Whether what loads the file cuts windows by itself, as
                :meth:`UCIP.upscale` does; otherwise the caller has to.

        Example:
            >>> merge().metadata()["scale"]
            '4'
        """
        config = self.network.config
        window, stride = config.window, config.window_stride
        if window is None:
            inference = "whole images"
        else:
            step = stride or max(5 * window // 6, 1)
            inference = (
                f"windows of {window} x {window} input pixels, {step} apart, blended with Hann "
                "weights; "
                + (
                    "UCIP.upscale cuts them"
                    if cuts_windows
                    else "this file computes whole inputs, the caller cuts the windows"
                )
            )
        return {
            "ucip_adapt": __version__,
            "base": self.base,
            "adapter": self.adapter or "none",
            "base_fingerprint": self.base_fingerprint,
            "fingerprint": self.network.fingerprint,
            "licence": self.licence,
            "scale": str(SCALE),
            "input": "RGB, values in [0, 1], shape (batch, 3, height, width)",
            "output": "RGB, to be clipped to [0, 1], shape (batch, 3, 4 height, 4 width)",
            "smallest_side": "8 pixels; repeat the edge of smaller images",
            "inference": inference,
            "window": str(window or 0),
            "window_stride": str((stride or max(5 * window // 6, 1)) if window else 0),
        }


def merge(
    adapter: str | Path | None = None,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
) -> Merged:
    """Load a base and an adapter and make one network of them.

    Args:
        adapter: Name, folder or Hub repository, as for :func:`ucip_adapt.load`; None for the base
            alone.
        base: The base; default the adapter's own, or the default base.
        revision: Branch, tag or commit of the adapter on the Hub.
        subfolder: Folder of the adapter inside ``adapter``.

    Returns:
        The network, in evaluation mode, its parameters frozen.

    Raises:
        UcipError: As :func:`ucip_adapt.load`; ConfigError also if the adapter has another number
            of prompts than the base, which cannot be merged.

    Example:
        >>> merge("webp").adapter
        'webp'
    """
    model = load(adapter, base=base, revision=revision, subfolder=subfolder)
    network = model.network
    alone = cast(UCIP, network.get_base_model()) if isinstance(network, PeftModel) else network
    fingerprint = alone.fingerprint
    # An adapter has terms of its own, which those of its base say nothing about.
    folder = (
        _base_folder(model.base)
        if adapter is None
        else locate_adapter(str(adapter), revision=revision, subfolder=subfolder)
    )
    merged = network.merge_and_unload() if isinstance(network, PeftModel) else network
    return Merged(
        network=cast(UCIP, merged).eval().requires_grad_(False),
        # A path of this machine says nothing elsewhere.
        base=_public_name(ALIASES.get(model.base, model.base)),
        adapter=None if adapter is None else _public_name(str(adapter)),
        base_fingerprint=fingerprint,
        licence=_licence(folder),
    )


def _public_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _base_folder(name: str) -> Path | None:
    try:
        return locate_base(name, local_files_only=True)  # what has just been loaded
    except UcipError:
        return None


def _licence(folder: Path | None) -> str:
    """The identifier on the card in a folder."""
    card = None if folder is None else folder / "README.md"
    if card is None or not card.is_file():
        return _UNKNOWN
    try:
        found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (OSError, ValueError):
        return _UNKNOWN
    return found if isinstance(found, str) else _UNKNOWN


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete before it takes its name.

    Args:
        path: The file.
        content: What it holds.

    Raises:
        BaseFormatError: If it cannot be written; an older file of that name is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder, "a"), b"abc")
        ...     Path(folder, "a").read_bytes()
        b'abc'
    """
    try:
        with replaced(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise BaseFormatError(f"cannot write {path}: {error}") from error
