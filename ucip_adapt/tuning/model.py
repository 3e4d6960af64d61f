"""DynamicPromptModel: the PEFT tuner that puts prompt adapters into a UCIP network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from ucip_adapt.errors import AdapterValueError, BaseMismatchError, ConfigError, unknown_name
from ucip_adapt.models import DPM, PTMB, UCIP
from ucip_adapt.tuning import checks, targets
from ucip_adapt.tuning import combine as combining
from ucip_adapt.tuning.base_names import public_base_name
from ucip_adapt.tuning.config import DynamicPromptConfig
from ucip_adapt.tuning.layer import BASE, DynamicLayer
from ucip_adapt.tuning.register import PREFIX, register

__all__ = ["DynamicPromptModel"]


class DynamicPromptModel(BaseTuner):
    """Prompt adapters on a UCIP network, in the shape that PEFT expects of a method.

    Made by ``get_peft_model`` and ``PeftModel.from_pretrained``; the ``base_model`` of the
    ``PeftModel`` that :func:`add_prompt_adapter` and :func:`load_prompt_adapter` return, and its
    methods can be called on either.

    Stricter than PEFT's own methods: an adapter is loaded completely and onto its own base, or a
    typed error is raised and the model is as it was before. (Over an existing adapter PEFT loads a
    file without reading its configuration: there names, shapes and values are checked, the base
    is not.)

    Attributes:
        model: The base network, its modules replaced in place.
        peft_config: Configuration of each adapter.

    Example:
        >>> from ucip_adapt import UCIP, UCIPConfig, add_prompt_adapter
        >>> model = add_prompt_adapter(UCIP(UCIPConfig.preset("nano")), adapter_name="webp")
        >>> model.add_adapter("jpeg", DynamicPromptConfig(codec="jpeg"))
        >>> model.set_adapter("jpeg")
        >>> model.add_weighted_adapter(["webp", "jpeg"], [0.5, 0.5], "both")
        >>> list(model.peft_config)
        ['webp', 'jpeg', 'both']
    """

    prefix = PREFIX
    tuner_layer_cls = DynamicLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # as PEFT declares it
    model: UCIP
    peft_config: dict[str, DynamicPromptConfig]  # type: ignore[assignment]

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig | dict[str, PeftConfig],
        adapter_name: str,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            # PEFT would mix the parts of both adapters, with a warning.
            raise ConfigError(
                "this network carries adapters already: add others with add_adapter or "
                "load_adapter of its PeftModel, or call unload() there first"
            )
        super().__init__(model, peft_config, adapter_name, low_cpu_mem_usage, state_dict)

    # -- adding an adapter ---------------------------------------------------------------------

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        # Called once, before the first adapter: what to restore if its weights turn out unusable.
        self._base_trainable = [(p, p.requires_grad) for p in model.parameters()]
        self._unfilled: set[str] = set()
        self._targets: dict[str, nn.Module] = {}
        self._prompt_free: list[tuple[DPM, Tensor]] = []

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        *args: Any,  # noqa: ANN401  # PEFT's signature
        **kwargs: Any,  # noqa: ANN401  # PEFT's signature
    ) -> None:
        """Put the layers of an adapter into the network; its configuration is copied.

        What is filled in says which base the adapter belongs to, and the caller may use the same
        configuration for another one.

        Args:
            model: The base.
            adapter_name: The adapter, whose configuration is in ``peft_config``.
            *args: As for PEFT.
            **kwargs: As for PEFT.
        """
        self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        """Check everything that can be known of an adapter, before the model is touched.

        Raises:
            AdapterError: If the adapter belongs to another base or its file is not as it must be.
            ConfigError: If the base cannot take it.
        """
        super()._check_new_adapter_config(config)
        if not isinstance(config, DynamicPromptConfig):
            raise ConfigError(f"a DynamicPromptConfig is needed, not a {type(config).__name__}")
        name = [key for key, value in self.peft_config.items() if value is config][-1]
        _check_name(name, self.model)
        if self._merged():
            raise ConfigError(
                f"adapter '{self._merged()}' is merged into the base: call unmerge_adapter() first"
            )
        model = targets.check_base(self.model, config)
        found = targets.find_targets(model, config)
        if config._weights_path is not None:
            checks.check_file(
                config._weights_path, targets.tensor_table(found, config), config=config
            )
        if config.base_fingerprint is None:
            config.base_fingerprint = model.fingerprint
            # Now, while a folder is there. A name without a version moves on to the next base; the
            # adapter does not.
            source = model.name_or_path
            config.base_model_name_or_path = public_base_name(source) if source else None
        if config.num_prompts is None:
            config.num_prompts = model.config.num_prompts
        self._targets = found
        if config._weights_path is not None or config.inference_mode:
            self._unfilled.add(name)

    def _prepare_adapter_config(
        self, peft_config: PeftConfig, model_config: dict[str, Any]
    ) -> PeftConfig:
        return peft_config  # `target_modules=None` means the whole set and needs no table.

    def _check_target_module_exists(  # type: ignore[override]
        self, peft_config: PeftConfig, key: str
    ) -> bool:
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, DynamicLayer):
            layer = target
        else:
            layer = targets.layer_class(target)(target)
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, cast(DynamicPromptConfig, peft_config))

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's own version wants the replaced module to have a weight of its own.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # In place, unlike PEFT's own version: new parameters would all require gradients.
        if autocast_adapter_dtype:
            for _, layer in self.layers():
                layer.cast(adapter_name)

    @property
    def name_or_path(self) -> str:
        """The base's name without folders of this machine; PEFT writes it into its model card."""
        source = self.model.name_or_path
        return public_base_name(source) if source else ""

    def layers(self) -> Iterator[tuple[str, DynamicLayer]]:
        """All layers that stand for modules of the base, by name."""
        for name, module in self.model.named_modules():
            if isinstance(module, DynamicLayer):
                yield name, module

    # -- saving --------------------------------------------------------------------------------

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Select an adapter's tensors; what saves or copies an adapter comes here first.

        Raises:
            BaseMismatchError: If the base was changed since the adapter was put on it.
        """
        tuner = getattr(model, "base_model", None)
        if isinstance(tuner, cls):
            tuner._check_base_unchanged(adapter_name)
        selected: dict[str, Tensor] = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        return selected

    def _check_base_unchanged(self, adapter_name: str) -> None:
        """Compare the base with the one that the adapter's configuration names.

        Raises:
            BaseMismatchError: If it is another one by now.
        """
        config, found = self.peft_config[adapter_name], self._unmerged_fingerprint()
        if config.base_fingerprint is None:  # the user's own words: it belongs to this base
            config.base_fingerprint = found
        if config.base_fingerprint != found:
            where = f"peft_config['{adapter_name}']"
            raise BaseMismatchError(
                f"adapter '{adapter_name}' was put on base '{config.base_model_name_or_path}' with "
                f"fingerprint {config.base_fingerprint[:12]}, and parameters of the base itself "
                f"have changed since (now {found[:12]}): on the unchanged base the adapter would "
                "give other images. Put them back as they were; or, to keep them, save this base "
                "with get_base_model().save_pretrained(folder), set "
                f"{where}.base_model_name_or_path to that folder and {where}.base_fingerprint to "
                "None, and save the adapter again"
            )

    def _unmerged_fingerprint(self) -> str:
        """The base's fingerprint; while an adapter is merged, what it will be afterwards."""
        tensors, config = self.model.base_tensors(), self.model.config
        for name, layer in self.layers():
            tensors |= {f"{name}.{key}": old for key, old in layer.unmerged_tensors().items()}
        for i, (_, basis) in enumerate(self._prompt_free):
            tensors[f"blocks.{i}.prompt.basis"] = basis
            config = config.replace(prompt="none")
        return self.model._identity_of(tensors, config)

    # -- loading weights -----------------------------------------------------------------------

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Check a whole state dict and give its tensors their names in the model.

        Raises:
            AdapterError: If it is not exactly what the adapter needs. An adapter that was made
                just to receive these weights is removed again.
        """
        config = cast(DynamicPromptConfig, config)
        places = {
            f"{layer_name}.{key}": (layer_name, key, parameter)
            for layer_name, layer in model.named_modules()
            if isinstance(layer, DynamicLayer)
            for key, parameter in layer.adapter_parameters(adapter_name)
        }
        tuner = getattr(model, "base_model", None)
        try:
            tensors = checks.check_tensors(
                state_dict,
                {
                    name.removeprefix(checks.KEY_PREFIX): place[2].shape
                    for name, place in places.items()
                },
                source=str(config._weights_path or f"state dict for adapter '{adapter_name}'"),
                config=config,
            )
        except Exception:
            if isinstance(tuner, cls) and adapter_name in tuner._unfilled:
                tuner._discard(adapter_name)
            raise
        if isinstance(tuner, cls):
            tuner.mark_filled(adapter_name)
        config._weights_path = None
        return {
            f"{layer_name}.{_with_adapter(key, adapter_name)}": tensors[
                name.removeprefix(checks.KEY_PREFIX)
            ]
            for name, (layer_name, key, _) in places.items()
        }

    def _discard(self, adapter_name: str) -> None:
        """Remove an adapter without a trace; with the last one, PEFT's marks on the base too."""
        for name, layer in list(self.layers()):
            layer.remove(adapter_name)
            if not layer._replacements:
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.base_layer)
        self.peft_config.pop(adapter_name, None)
        self._unfilled.discard(adapter_name)
        if not self.peft_config:
            for parameter, trainable in self._base_trainable:
                parameter.requires_grad_(trainable)
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config

    # -- choosing adapters ---------------------------------------------------------------------

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter the active one; it becomes trainable unless ``inference_mode``.

        Args:
            adapter_name: Its name, alone or as a list of one.
            inference_mode: Leave it frozen.

        Raises:
            ConfigError: If there is no such adapter, or several are named: each replaces the same
                parameters.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        if len(names) > 1:
            raise ConfigError(
                f"adapters {names} cannot be active together, each replaces the same parameters: "
                "combine them with add_weighted_adapter, or give each image of a batch its own "
                "with forward(..., adapter_names=[...])"
            )
        # PEFT would compute with the base alone, since no layer has an adapter of that name.
        self._require_known(names)
        if self._merged():
            self.unmerge_adapter()
        super().set_adapter(names, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; if it was active, the oldest remaining one takes its place.

        Args:
            adapter_name: Its name.

        Raises:
            ConfigError: If there is no such adapter, or it is merged.
        """
        self._require_known([adapter_name])
        if self._merged() == adapter_name:
            raise ConfigError(f"adapter '{adapter_name}' is merged: call unmerge_adapter() first")
        was_active = adapter_name in self.active_adapters
        for _, layer in self.layers():
            layer.remove(adapter_name)
        del self.peft_config[adapter_name]
        self._unfilled.discard(adapter_name)
        if not was_active:
            return
        # One choice for all layers: left to itself, each would choose among its own adapters.
        remaining = next(iter(self.peft_config), None)
        if remaining is None:
            self.set_adapter([])
            return
        warnings.warn(
            f"adapter '{adapter_name}' was active and is deleted; '{remaining}' is active now",
            stacklevel=3,
        )
        self.set_adapter(remaining, inference_mode=self.peft_config[remaining].inference_mode)

    def _require_known(self, names: list[str], *, base: bool = False) -> None:
        known = [*self.peft_config, *([BASE] if base else [])]
        for name in names:
            if name not in known:
                raise unknown_name("adapter", name, known)

    @contextmanager
    def _enable_peft_forward_hooks(
        self,
        *args: Any,  # noqa: ANN401  # PEFT's signature
        **kwargs: Any,  # noqa: ANN401  # PEFT's signature
    ) -> Iterator[None]:
        """Let each image of a batch go through its own adapter, if ``adapter_names`` says so."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        names = tuple(names)
        self._require_known(list(names), base=True)
        if self._merged():
            raise ConfigError("adapter_names cannot be used while an adapter is merged")
        if self.training or (self.model.gradient_checkpointing and torch.is_grad_enabled()):
            raise ConfigError(
                "adapter_names is for inference: call model.eval(), and with gradient "
                "checkpointing also torch.no_grad()"
            )
        for _, layer in self.layers():
            layer.sample_adapters = names
        try:
            yield
        finally:
            for _, layer in self.layers():
                layer.sample_adapters = None

    def mark_filled(self, adapter_name: str) -> None:
        """Note that an adapter has its values: a later failure to load others keeps it."""
        self._unfilled.discard(adapter_name)

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
    ) -> None:
        """Add an adapter made of others, which stay; it is not made the active one.

        ``"linear"`` adds up the weighted parameters; weights that sum to 1 keep their scale.

        ``"cat"`` puts all basic prompts side by side and weighs them by one softmax, with the
        logarithm of an adapter's weight added to its logits. At a pixel where the logits of
        adapter k have the sum of exponentials Z_k, its prompt enters with the share
        w_k Z_k / sum_j w_j Z_j: in proportion to the weights where the adapters have the same
        coefficient MLPs (always for ``basis``), and more where its own MLP is more certain.

        Args:
            adapters: Names of the adapters to combine.
            weights: One per adapter; positive for ``"cat"``.
            adapter_name: Name of the new adapter.
            combination_type: ``"linear"`` or ``"cat"``.

        Raises:
            ConfigError: If a name, a weight or the kinds of the adapters do not fit.
        """
        self._require_known(list(adapters))
        combining.combine(self, adapters, weights, adapter_name, combination_type)

    # -- merging -------------------------------------------------------------------------------

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Write one adapter over the base's own parameters; :meth:`unmerge_adapter` undoes it.

        Of a base with several prompt slots, slot 0 is written: the one used when no slot is
        given. A prompt-free base becomes one with prompts, ``config.prompt`` included; in blocks
        that the adapter does not cover, and in further slots, its prompts are zero.

        Args:
            adapter_names: The one adapter to merge; default: the active one.
            safe_merge: Refuse NaN and infinite values.

        Raises:
            ConfigError: If there is not one adapter to merge, or it does not fit the base's shape.
            AdapterValueError: If ``safe_merge`` finds such values.
        """
        names = list(self.active_adapters if adapter_names is None else adapter_names)
        self._require_known(names)
        if len(names) != 1:
            raise ConfigError(
                f"cannot merge adapters {names}: name one (add_weighted_adapter makes one of many)"
            )
        merged, name = self._merged(), names[0]
        if merged:
            raise ConfigError(f"adapter '{merged}' is merged already: call unmerge_adapter() first")
        number = self.peft_config[name].num_prompts
        if number != self.model.config.num_prompts:
            raise ConfigError(
                f"adapter '{name}' has {number} prompts per block, the base "
                f"{self.model.config.num_prompts}: it cannot be merged, only used beside the base"
            )
        layers = [layer for _, layer in self.layers()]
        values = [p for layer in layers for _, p in layer.adapter_parameters(name)]
        if safe_merge and not all(torch.isfinite(value).all() for value in values):
            raise AdapterValueError(f"adapter '{name}' holds NaN or infinite values: not merged")
        self._switch_prompts_on()
        for layer in layers:
            layer.merge(adapter_names=[name])

    def _switch_prompts_on(self) -> None:
        if self.model.config.prompt != "none":
            return
        for block in cast(Iterable[PTMB], self.model.blocks):
            prompt = block.prompt
            dpm = cast(DPM, prompt.base_layer if isinstance(prompt, DynamicLayer) else prompt)
            self._prompt_free.append((dpm, dpm.basis.detach().clone()))
            with torch.no_grad():
                dpm.basis.zero_()
            dpm.enabled = True
        self.model.config = self.model.config.replace(prompt="dynamic")

    def unmerge_adapter(self) -> None:
        """Give the base its own parameters back, bit for bit."""
        for _, layer in self.layers():
            layer.unmerge()
        if not self._prompt_free:
            return
        for dpm, basis in self._prompt_free:
            with torch.no_grad():
                dpm.basis.copy_(basis)
            dpm.enabled = False
        self._prompt_free.clear()
        self.model.config = self.model.config.replace(prompt="none")

    def disable_adapter_layers(self) -> None:
        """Compute as the base alone; a merged adapter is taken out first."""
        if self._merged():
            self.unmerge_adapter()
        super().disable_adapter_layers()

    def _unload_and_optionally_merge(  # type: ignore[override]
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> UCIP:
        if not merge:
            self.unmerge_adapter()
        elif adapter_names is not None or not self._merged():
            self.merge_adapter(adapter_names, safe_merge)
        for name, layer in list(self.layers()):
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.base_layer)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        if merge:
            self.model.name_or_path = ""  # It is not the base of that name any more.
        return self.model

    def _merged(self) -> str:
        return next((layer.merged_adapters[0] for _, layer in self.layers() if layer.merged), "")


def _with_adapter(key: str, adapter_name: str) -> str:
    """Put the adapter's name into a name of :meth:`DynamicLayer.adapter_parameters`."""
    container, dot, rest = key.partition(".")
    return f"{container}.{adapter_name}{dot}{rest}"


def _check_name(name: str, model: nn.Module) -> None:
    """Refuse adapter names that PEFT or PyTorch would confuse with something else.

    Raises:
        ConfigError: With the reason.
    """
    # PEFT leaves out of a saved adapter every key with the name of another adapter between dots.
    parts = {part for key in model.state_dict() for part in key.split(".")}
    taken = parts | {"base_model", "base_layer", "model"}
    reason = ""
    if not name or "." in name or "/" in name or "\\" in name:
        reason = "is empty or holds a dot or a slash"
    elif name == BASE:
        reason = "stands for the base without adapter"
    elif name in PREFIX:
        reason = f"is part of the method's prefix '{PREFIX}'"
    elif name in taken:
        reason = "is also the name of a part of the network"
    elif hasattr(nn.ParameterDict, name) or hasattr(nn.ModuleDict(), name):
        reason = "is also the name of a method of PyTorch's containers"
    if reason:
        raise ConfigError(f"adapter name '{name}' {reason}: choose another, such as 'webp'")


register()
