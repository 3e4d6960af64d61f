"""Cheng2020 and ELIC through CompressAI, where a user has installed it.

CompressAI is no dependency and no extra of this package: its plain installation replaces PyTorch
and sets NumPy back. Without its dependencies it works, and that line is what :data:`INSTALL` says.

Weights come from a folder or a Hub repository that the user names, or, for Cheng2020, from
CompressAI's released ones. ELIC has none there.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ucip_adapt.codecs.arithmetic import FIXED, fixed_arithmetic
from ucip_adapt.codecs.base import Availability, CodecSpec, Degraded, check_rgb, require_available
from ucip_adapt.codecs.program import file_sha256
from ucip_adapt.codecs.weights import find_weights, read_state_dict
from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CHENG2020_MSE", "CHENG2020_MSSSIM", "ELIC", "INSTALL", "CompressAICodec"]

INSTALL = "pip install --no-deps compressai einops pytorch-msssim"
"""The line that leaves PyTorch and NumPy alone."""

_OWN_DISTRIBUTIONS = ("compressai", "einops", "pytorch_msssim")
_MULTIPLE = 64  # the networks reduce by 64 in all
_LOCK = threading.RLock()


@dataclass(frozen=True)
class CompressAICodec:
    """A network of CompressAI with weights for several rates.

    The reference is ``compress`` followed by ``decompress``. ``forward`` rounds elsewhere and gives
    other pixels for Cheng2020 (up to 0.05 of the range with untrained weights), so it is used only
    where ``fast`` asks for it, and the fingerprint says so.

    Attributes:
        spec: Name, qualities and range.
        classes: Names in ``compressai.models`` that the weights may belong to.
        zoo: Architecture and metric in CompressAI's list of released weights, or None.
        variable: Environment variable that names the weights: a folder with ``1.pth.tar``,
            ``2.safetensors`` and so on, a Hub repository of such files, or ``zoo``.
        weights: The same as the variable, and stronger.
        fast: Use ``forward`` and estimate the size; see above.

    Example:
        >>> CHENG2020_MSE.spec.qualities
        (1, 2, 3, 4)
        >>> import dataclasses
        >>> dataclasses.replace(ELIC, weights="no/such/folder").available().ok
        False
    """

    spec: CodecSpec
    classes: tuple[str, ...]
    zoo: tuple[str, str] | None
    variable: str
    weights: str | None = None
    fast: bool = False

    def available(self) -> Availability:
        """Whether CompressAI and the weights are there; released ones only if fetched before."""
        library = _library()
        if not library.ok:
            return library
        try:
            self._files()
        except CodecError as error:
            zoo = " 'zoo' fetches the released ones." if self.zoo else ""
            return Availability(
                ok=False,
                version=library.version,
                reason=f"no weights: {error}",
                install=f"Set {self.variable} to a folder or a Hub id with the files "
                f"1.safetensors (or .pth.tar, .pth, .pt) to {max(self.spec.qualities)}.*.{zoo}",
            )
        return library

    def fingerprint(self) -> dict[str, Any]:
        """Versions, checksums of the weights of every quality, and how the pixels are made."""
        import torch

        require_available(self.spec.name, self.available())
        return {
            "codec": self.spec.name,
            "library": "compressai",
            "version": metadata.version("compressai"),
            "torch": torch.__version__,
            "options": {"pad": f"replicate to {_MULTIPLE}", "fast": self.fast, **FIXED},
            "weights": {str(q): file_sha256(file) for q, file in self._files().items()},
        }

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Encode and decode an ``H x W x 3`` uint8 image on the CPU.

        Args:
            rgb: The image.
            quality: Index of the network, 1 is the lowest rate.

        Returns:
            The decoded image. ``num_bytes`` counts the coded strings, as published rates do, or is
            estimated from the likelihoods with ``fast``.

        Raises:
            CodecError: If the library or weights are missing, or the image cannot be coded.
            ConfigError: If the quality is out of range.
        """
        import numpy as np
        import torch

        self.spec.check_quality(quality)
        check_rgb(rgb, self.spec.name)
        require_available(self.spec.name, self.available())
        file = self._files()[quality]
        with fixed_arithmetic():  # its entropy coder's tables are computed too
            network = _network(file, file_sha256(file), self.classes)
        height, width = rgb.shape[:2]
        image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.pad(
            image, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate"
        )
        started = time.perf_counter()
        # One image at a time: the networks' entropy models are not made for several threads.
        with _LOCK, fixed_arithmetic(), torch.no_grad():
            if self.fast:
                decoded, num_bytes = _estimate(network, image)
            else:
                decoded, num_bytes = _code(network, image)
        seconds = time.perf_counter() - started
        levels = decoded[0, :, :height, :width].clamp(0, 1).mul(255).round().to(torch.uint8)
        pixels = levels.permute(1, 2, 0).contiguous().numpy()
        return Degraded(pixels=pixels, num_bytes=num_bytes, seconds=seconds)

    def _files(self) -> dict[int, Path]:
        source = self.weights or os.environ.get(self.variable)
        if source and source != "zoo":
            return find_weights(source, {q: (str(q),) for q in self.spec.qualities})
        if self.zoo is None:
            raise CodecError(f"{self.variable} is not set, and there are no released ones")
        return _zoo_files(*self.zoo, self.spec.qualities, fetch=source == "zoo")


def _zoo_files(
    architecture: str, metric: str, qualities: tuple[int, ...], *, fetch: bool
) -> dict[int, Path]:
    """Released weights in PyTorch's own download folder."""
    import torch

    urls = _compressai("compressai.zoo.image").model_urls[architecture][metric]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = {}
    for quality in qualities:
        file = folder / urls[quality].rpartition("/")[2]
        if not file.is_file():
            if not fetch:
                raise CodecError(f"{file.name} is not in PyTorch's folder of downloads")
            # The last part of the name is the start of the file's sha256.
            start = file.name.partition(".")[0].rpartition("-")[2]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(urls[quality], str(file), start, progress=False)
            except (OSError, RuntimeError) as error:
                raise CodecError(f"cannot fetch {urls[quality]}: {error}") from error
        files[quality] = file
    return files


@functools.lru_cache(maxsize=4)
def _network(file: Path, sha256: str, classes: tuple[str, ...]) -> Any:  # noqa: ANN401 - CompressAI has no types
    """The network of a weight file; which of the classes it is, its tensors tell."""
    del sha256  # a file that changed is loaded again
    state = _compressai("compressai.zoo").load_state_dict(read_state_dict(file))
    models = _compressai("compressai.models")
    reasons = []
    for name in classes:
        try:
            network = getattr(models, name).from_state_dict(dict(state))
        except (KeyError, RuntimeError) as error:
            reasons.append(f"{name}: {str(error).partition(chr(10))[0]}")
            continue
        network.update()  # builds the tables of the entropy coder where the file has none
        return network.eval()
    raise CodecError(f"{file} holds no network of these kinds: {'; '.join(reasons)}")


def _code(network: Any, image: Any) -> tuple[Any, int]:  # noqa: ANN401 - CompressAI has no types
    coded = network.compress(image)
    decoded = network.decompress(coded["strings"], coded["shape"])
    return decoded["x_hat"], sum(map(len, _strings(coded["strings"])))


def _strings(nested: Any) -> Iterator[bytes]:  # noqa: ANN401 - lists in lists, to any depth
    if isinstance(nested, bytes):
        yield nested
    else:
        for part in nested:
            yield from _strings(part)


def _estimate(network: Any, image: Any) -> tuple[Any, int]:  # noqa: ANN401 - CompressAI has no types
    out = network(image)
    bits = -sum(float(part.double().log2().sum()) for part in out["likelihoods"].values())
    return out["x_hat"], max(1, math.ceil(bits / 8))


# -- importing CompressAI ------------------------------------------------------------------------


@functools.cache
def _library() -> Availability:
    """Whether CompressAI can be imported; found out once per process."""
    try:
        _compressai("compressai.zoo")
        return Availability(ok=True, version=f"compressai {metadata.version('compressai')}")
    except ModuleNotFoundError as error:
        name = error.name or "compressai"
        own = name in _OWN_DISTRIBUTIONS
        return Availability(
            ok=False,
            reason=f"{name} is not installed" + ("" if own else ", which compressai needs"),
            install=INSTALL if own else f"pip install {name}",
        )
    except Exception as error:  # a binary wheel of another system raises nearly anything
        return Availability(
            ok=False, reason=f"compressai cannot be imported: {error}", install=INSTALL
        )


def _compressai(module: str) -> ModuleType:
    """Import a module of CompressAI without the two large libraries that it only mentions.

    It imports torchvision and torch_geometric for data sets and point clouds. Beside a CPU build of
    PyTorch the first is often broken, and the second is seldom there.
    """
    with _LOCK:
        if "compressai" in sys.modules:
            return importlib.import_module(module)
        with _stand_ins():
            importlib.import_module("compressai")
            importlib.import_module("compressai.zoo")
            return importlib.import_module(module)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put empty modules in the place of those that do not work, for as long as this lasts."""
    added: list[str] = []
    try:
        for library, make in (("torchvision", _torchvision), ("torch_geometric", _torch_geometric)):
            if _works(library):
                continue
            for module in make():
                sys.modules[module.__name__] = module
                added.append(module.__name__)
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _works(library: str) -> bool:
    before = set(sys.modules)
    try:
        importlib.import_module(library)
    except (
        Exception
    ):  # torchvision beside another PyTorch: "operator torchvision::nms does not exist"
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == library:
                del sys.modules[name]
        return False
    return True


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name, "Stands in for a library that is not used.")
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    vars(module).update(content)
    return module


def _torchvision() -> tuple[ModuleType, ...]:
    transforms = _module("torchvision.transforms")
    return _module("torchvision", transforms=transforms), transforms


def _torch_geometric() -> tuple[ModuleType, ...]:
    def functional_transform(name: str) -> Any:  # noqa: ANN401 - a decorator of any class
        del name
        return lambda cls: cls

    names = ("BaseTransform", "Center")
    transforms = _module(
        "torch_geometric.transforms", **{name: type(name, (), {}) for name in names}
    )
    pipes = _module("torch_geometric.data.datapipes", functional_transform=functional_transform)
    data = _module("torch_geometric.data", Data=type("Data", (), {}), datapipes=pipes)
    whole = _module("torch_geometric", transforms=transforms, data=data)
    return whole, transforms, data, pipes


# -- the codecs ----------------------------------------------------------------------------------


def _codec(
    name: str, family: str, variable: str, classes: tuple[str, ...], zoo: tuple[str, str] | None
) -> CompressAICodec:
    spec = CodecSpec(name, family, "model index", (1, 2, 3, 4), (1, 4))
    return CompressAICodec(spec, classes, zoo, variable)


_CHENG2020 = ("Cheng2020Attention", "Cheng2020Anchor")

CHENG2020_MSE = _codec(
    "cheng2020-mse",
    "learned-mse",
    "UCIP_CHENG2020_MSE",
    _CHENG2020,
    ("cheng2020-attn", "mse"),
)

CHENG2020_MSSSIM = _codec(
    "cheng2020-msssim",
    "learned-msssim",
    "UCIP_CHENG2020_MSSSIM",
    _CHENG2020,
    ("cheng2020-attn", "ms-ssim"),
)

ELIC = _codec("elic", "learned-elic", "UCIP_ELIC", ("Elic2022Official", "Elic2022Chandelier"), None)
