"""Add, load and save a prompt adapter in one call each."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import PeftModel, get_peft_model
from safetensors import SafetensorError

from ucip_adapt.assets import shipped_bases
from ucip_adapt.errors import AdapterError, ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning.config import CONFIG_FILE, WEIGHTS_FILE, DynamicPromptConfig
from ucip_adapt.tuning.register import register

__all__ = ["add_prompt_adapter", "load_prompt_adapter", "save_prompt_adapter"]


def add_prompt_adapter(
    model: UCIP, config: DynamicPromptConfig | None = None, *, adapter_name: str = "default"
) -> PeftModel:
    """Put a new, trainable adapter on a base and freeze the base.

    On a base with prompts the network computes just what it did before. On a prompt-free one the
    prompts start near zero.

    Args:
        model: The base; its modules are replaced in place.
        config: What to train, and for which codec; it is copied. Default: the set ``dpm``.
        adapter_name: Name inside the model.

    Returns:
        The base with its adapter; in ``peft_config`` the base's fingerprint and name are filled in,
        of a base in a folder the folder's own name.

    Raises:
        ConfigError: If the base cannot take the adapter.

    Example:
        >>> from ucip_adapt.models import UCIP, UCIPConfig
        >>> from ucip_adapt.tuning import count_parameters
        >>> base = UCIP(UCIPConfig.preset("tiny"))
        >>> model = add_prompt_adapter(base, DynamicPromptConfig(codec="webp"))
        >>> count_parameters(model).trainable
        1312
    """
    register()
    config = copy.deepcopy(config) if config is not None else DynamicPromptConfig()
    config.base_model_name_or_path = model.name_or_path or None
    return get_peft_model(model, config, adapter_name=adapter_name)


def load_prompt_adapter(
    path_or_id: str | Path,
    base: UCIP | None = None,
    *,
    adapter_name: str = "default",
    is_trainable: bool = False,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> PeftModel:
    """Load an adapter together with its base.

    Args:
        path_or_id: The adapter's folder, or ``"user/repository"`` on the Hub.
        base: The base, its modules are replaced in place; None fetches the one that the adapter
            names, if that is a shipped base or one on the Hub.
        adapter_name: Name inside the model.
        is_trainable: Whether the adapter is to be trained on.
        subfolder: Folder of the adapter inside ``path_or_id``.
        revision: Branch, tag or commit of the adapter on the Hub.
        cache_dir: Folder of the Hub's cache.
        token: Hub token.

    Returns:
        The network with its adapter, in evaluation mode unless ``is_trainable``.

    Raises:
        AdapterError: If the adapter is missing, damaged or belongs to another base; ``base`` is
            then as it was.
        ConfigError: If the base is not given and cannot be fetched by its name.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ucip_adapt import UCIP, UCIPConfig
        >>> model = add_prompt_adapter(UCIP(UCIPConfig.preset("nano")))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_prompt_adapter(model, folder)
        ...     model = load_prompt_adapter(folder, model.unload())
        >>> model.get_base_model().upscale(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 32, 32])
    """
    register()
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
    config = DynamicPromptConfig.from_pretrained(path_or_id, subfolder=subfolder, **where)
    if base is None:
        base = _named_base(config, str(path_or_id), cache_dir=cache_dir, token=token)
    return PeftModel.from_pretrained(
        base,
        str(path_or_id),
        adapter_name=adapter_name,
        is_trainable=is_trainable,
        config=config,
        subfolder=subfolder,
        **where,
    )


def _named_base(
    config: DynamicPromptConfig,
    source: str,
    *,
    cache_dir: str | Path | None,
    token: str | bool | None,
) -> UCIP:
    name = config.base_model_name_or_path
    if not name:
        raise AdapterError(f"adapter '{source}' does not name its base: give it as base=...")
    # A downloaded file must not choose which folder of this machine is opened.
    if name not in shipped_bases() and (Path(name).exists() or Path(name).is_absolute()):
        raise ConfigError(
            f"adapter '{source}' names a folder as its base: '{name}'. If you trust it, give the "
            f"base yourself: base=UCIP.from_pretrained({name!r})"
        )
    if name not in shipped_bases() and "/" not in name:
        raise ConfigError(
            f"adapter '{source}' names as its base '{name}', which is no shipped one and not on "
            "the Hub, but a folder of whoever made it: give that yourself, as "
            'base=UCIP.from_pretrained("path/to/the/base")'
        )
    return UCIP.from_pretrained(name, cache_dir=cache_dir, token=token)


def save_prompt_adapter(
    model: PeftModel, folder: str | Path, *, adapter_name: str = "default"
) -> Path:
    """Write an adapter in PEFT's layout, ``adapter_config.json`` and ``adapter_model.safetensors``.

    Unlike ``PeftModel.save_pretrained``, it writes whatever the adapter's name straight into the
    folder, adds no model card, and never asks the Hub about the base. Each file is complete
    before it replaces an older one.

    Args:
        model: The network with its adapter.
        folder: Made if it does not exist.
        adapter_name: Which adapter.

    Returns:
        The folder.

    Raises:
        ConfigError: If there is no such adapter.
        BaseMismatchError: If parameters of the base itself were changed since the adapter was put
            on it; merging changes none.
        AdapterError: If the files cannot be written; older ones are as they were.

    Example:
        >>> import tempfile
        >>> from ucip_adapt import UCIP, UCIPConfig
        >>> model = add_prompt_adapter(UCIP(UCIPConfig.preset("nano")))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(file.name for file in save_prompt_adapter(model, folder).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    if adapter_name not in model.peft_config:
        raise ConfigError(f"no adapter '{adapter_name}'; there are: {', '.join(model.peft_config)}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
            model.save_pretrained(
                temporary,
                selected_adapters=[adapter_name],
                # "auto" asks the Hub whether the base's vocabulary has grown.
                save_embedding_layers=False,
            )
            written = Path(temporary, "" if adapter_name == "default" else adapter_name)
            # safetensors makes files that only their owner can read.
            shutil.copymode(written / CONFIG_FILE, written / WEIGHTS_FILE)
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                (written / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"cannot write the adapter to {folder}: {error}. What was there before is unchanged: "
            "make room or choose another folder, and save again"
        ) from error
    return folder
