"""DynamicPromptConfig: what ``adapter_config.json`` says about a prompt adapter."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from huggingface_hub import hf_hub_download
from peft import PeftConfig

from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import AdapterError, ConfigError, unknown_name
from ucip_adapt.formats import check_format_version
from ucip_adapt.tuning.base_names import public_base_name
from ucip_adapt.tuning.register import METHOD, register

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "DynamicPromptConfig", "TrainableSet"]

TrainableSet = Literal["basis", "dpm", "dpm+offset", "dpm+offset+spade"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_FORMAT_VERSION = "1.0"
_BLOCKS = re.compile(r"all|last:[1-9][0-9]{0,3}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What PEFT writes for `AutoPeftModel`, which imports the library that it names: of a downloaded
# file, only this value is let through.
_AUTO_MAPPING = {"base_model_class": "UCIP", "parent_library": "ucip_adapt.models.ucip"}


@dataclass
class DynamicPromptConfig(PeftConfig):
    """Configuration of a prompt adapter.

    All text here is only shown, never imported, run or opened.

    Attributes:
        codec: Name of the codec that the adapter was trained for.
        qualities: The codec's quality settings seen in training.
        trainable_set: Which of the base's parameters the adapter replaces: ``"basis"``, the prompts
            alone; ``"dpm"``, also the layers that choose and mix them; ``"dpm+offset"``, also those
            that turn them into sampling offsets; ``"dpm+offset+spade"``, also the modulation.
        trainable_blocks: ``"all"`` PTMBs, or the ``"last:N"``.
        target_modules: Names or name endings of the modules to replace, among those of the
            trainable set; None is all of them.
        num_prompts: Basic prompts D of each PTMB; None is the base's number. With another number
            the adapter cannot start as a copy of the base: bases and coefficients start at random.
        base_fingerprint: Hash of the base that the adapter belongs to; filled in when a new
            adapter is added to a base.
        metrics: Summary of scores, as JSON-able values.
        weights_sha256: Hash of ``adapter_model.safetensors`` as it was saved.
        format_version: Version of this format.

    Example:
        >>> DynamicPromptConfig(codec="webp", qualities=[10, 20, 30, 40]).trainable_set
        'dpm'
        >>> DynamicPromptConfig(trainable_set="dpm+offsets")
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.UnknownNameError: unknown trainable set 'dpm+offsets'; did you mean \
'dpm+offset'? Known: basis, dpm, dpm+offset, dpm+offset+spade
    """

    codec: str | None = field(default=None, metadata={"help": "Codec of the training images."})
    qualities: list[int] | None = field(default=None, metadata={"help": "The codec's qualities."})
    trainable_set: str = field(default="dpm", metadata={"help": "Which parameters are replaced."})
    trainable_blocks: str = field(default="all", metadata={"help": "'all' or 'last:N' PTMBs."})
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of modules to replace; None is the whole set."}
    )
    num_prompts: int | None = field(default=None, metadata={"help": "Basic prompts per PTMB."})
    base_fingerprint: str | None = field(default=None, metadata={"help": "Hash of the base."})
    metrics: dict[str, Any] | None = field(default=None, metadata={"help": "Summary of scores."})
    weights_sha256: str | None = field(default=None, metadata={"help": "Hash of the weights."})
    format_version: str = field(default=_FORMAT_VERSION, metadata={"help": "Of this file."})

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: If a value is out of range; the message names the field.
            AdapterError: If a newer major format version is asked for.
        """
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = METHOD
        # Where `from_pretrained` found the weights: checked before they touch a model. No field,
        # so that it is neither compared nor saved.
        self._weights_path: Path | None = None
        if self.auto_mapping != _AUTO_MAPPING:
            self.auto_mapping = None
        check_format_version(
            self.format_version, _FORMAT_VERSION, what="this configuration", error=AdapterError
        )
        if self.trainable_set not in get_args(TrainableSet):
            raise unknown_name("trainable set", str(self.trainable_set), get_args(TrainableSet))
        if isinstance(self.qualities, tuple | range):
            self.qualities = list(self.qualities)
        if isinstance(self.target_modules, set | tuple):
            self.target_modules = sorted(self.target_modules)
        self._require("codec", _is_text(self.codec), "must be text")
        self._require("qualities", _is_list(self.qualities, int), "must be a list of integers")
        self._require(
            "trainable_blocks",
            isinstance(self.trainable_blocks, str)
            and bool(_BLOCKS.fullmatch(self.trainable_blocks)),
            "must be 'all' or 'last:N' with N from 1",
        )
        self._require(
            "target_modules",
            _is_list(self.target_modules, str) and self.target_modules != [],
            "must be a list of module names (patterns are not supported)",
        )
        self._require(
            "num_prompts",
            self.num_prompts is None
            or (_is_int(self.num_prompts) and 1 <= self.num_prompts <= 4096),
            "must be an integer from 1 to 4096",
        )
        for name in ("base_fingerprint", "weights_sha256"):
            value = getattr(self, name)
            valid = value is None or (isinstance(value, str) and bool(_DIGEST.fullmatch(value)))
            self._require(name, valid, "must be 64 hexadecimal digits")
        self._require(
            "metrics", self.metrics is None or isinstance(self.metrics, dict), "must be a table"
        )
        self._require(
            "base_model_name_or_path", _is_text(self.base_model_name_or_path), "must be text"
        )

    def _require(self, name: str, condition: bool, rule: str) -> None:
        if not condition:
            raise ConfigError(f"{name}={getattr(self, name)!r}: {name} {rule}")

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401  # PEFT's signature
        """Check what a file says before it becomes a configuration; PEFT calls this in loading.

        Unknown keys are ignored with a warning: a newer minor version may have written them.

        Raises:
            AdapterError: If the file has no format version, a newer major one, or names no base.
        """
        kind = getattr(kwargs.get("peft_type"), "value", kwargs.get("peft_type"))
        if kind not in (None, METHOD):
            raise AdapterError(
                f"{CONFIG_FILE} says that this is an adapter of the kind {kind}, not of prompts: "
                "put it on its base with PEFT's own PeftModel.from_pretrained, as its card shows; "
                "recipes/evaluate.py measures it"
            )
        version = kwargs.get("format_version")
        check_format_version(version, _FORMAT_VERSION, what=CONFIG_FILE, error=AdapterError)
        if not kwargs.get("base_fingerprint"):
            raise AdapterError(
                f"{CONFIG_FILE} has no base_fingerprint: it does not say which base network the "
                "adapter belongs to, and would give wrong images on any other; save the adapter "
                "again from the model it was trained in"
            )
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(kwargs) - known)
        if unknown:
            warnings.warn(
                f"{CONFIG_FILE} (format_version {version}): unknown keys ignored: "
                f"{', '.join(unknown)}",
                stacklevel=2,
            )
        return {key: value for key, value in kwargs.items() if key in known}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        **kwargs: Any,  # noqa: ANN401  # PEFT's signature
    ) -> Self:
        """Read an adapter's configuration from a folder or a repository on the Hub.

        Also finds the weights beside it, so that loading can check them before they touch a
        model, by plain ``PeftModel.from_pretrained`` too.

        Args:
            pretrained_model_name_or_path: Folder or ``"user/repository"``.
            subfolder: Folder inside of it.
            **kwargs: As for PEFT: ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

        Raises:
            AdapterError: If a file is missing, damaged, or of an unknown format.
        """
        source = str(pretrained_model_name_or_path)
        try:
            config: Self = super().from_pretrained(source, subfolder=subfolder, **kwargs)
        except AdapterError as error:
            raise AdapterError(f"{source}: {error}") from error
        except ConfigError as error:
            raise AdapterError(f"{source}: {CONFIG_FILE} is not valid: {error}") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AdapterError(
                f"cannot read {CONFIG_FILE} of adapter '{source}': {error}. It must be a folder "
                "with that file, or a repository on the Hub (user/repository) that can be reached"
            ) from error
        download, _, _ = cls._split_kwargs(kwargs)  # type: ignore[no-untyped-call]
        config._weights_path = _find_weights(source, subfolder, download)
        return config

    def save_pretrained(
        self,
        save_directory: str | Path,
        **kwargs: Any,  # noqa: ANN401  # PEFT's signature
    ) -> None:
        """Write ``adapter_config.json``, with the hash of the weights that lie beside it.

        PEFT saves the weights first, so the hash is the one of this very adapter. Of a base in a
        folder, it also fills in where on this machine that is: only the name goes into the file.
        """
        name = self.base_model_name_or_path
        self.base_model_name_or_path = public_base_name(name) if name else None
        weights = Path(save_directory) / WEIGHTS_FILE
        self.weights_sha256 = sha256_of(weights) if weights.is_file() else None
        super().save_pretrained(str(save_directory), **kwargs)


def _find_weights(source: str, subfolder: str | None, download: dict[str, Any]) -> Path:
    """The weights of an adapter whose configuration could be read: local, or in the Hub's cache."""
    folder = Path(source, subfolder or "")
    if (folder / WEIGHTS_FILE).is_file():
        return folder / WEIGHTS_FILE
    if (folder / CONFIG_FILE).is_file():
        raise AdapterError(
            f"{folder} has no {WEIGHTS_FILE}: the adapter is incomplete (other formats, such as "
            "adapter_model.bin, are not read)"
        )
    try:
        return Path(hf_hub_download(source, WEIGHTS_FILE, subfolder=subfolder, **download))
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot get {WEIGHTS_FILE} of '{source}': {error}") from error


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_list(value: object, kind: type) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


register()
