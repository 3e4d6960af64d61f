"""Make the method ``DYNAMIC_PROMPT`` known to PEFT; the only place that touches PEFT's registries.

PEFT has no plug-in hook, and its ``register_peft_method`` refuses names that are not members of
the enum ``PeftType``; so the enum gets one more member at run time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["METHOD", "PREFIX", "register", "register_when_peft_is_imported"]

METHOD = "DYNAMIC_PROMPT"
"""The method's name in ``adapter_config.json`` (``peft_type``)."""

PREFIX = "dynprompt_"
"""What the names of all parameters of the method's adapters start with."""

# What these modules define last; each calls `register` on its last line. The others of this folder
# may be imported first as well: `model` reaches into them only when its methods run.
_PARTS = {
    "config": "DynamicPromptConfig",
    "layer": "LAYERS",
    "model": "DynamicPromptModel",
}


def register() -> None:
    """Register ``DYNAMIC_PROMPT`` in PEFT; calling it again changes nothing.

    Example:
        >>> register()
        >>> from peft import PeftType
        >>> PeftType("DYNAMIC_PROMPT").value
        'DYNAMIC_PROMPT'
    """
    for name, last in _PARTS.items():
        module = sys.modules.get(f"ucip_adapt.tuning.{name}")
        if module is not None and not hasattr(module, last):
            return  # It is being imported just now, and its last line comes back here.
    from peft.mapping import (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    )
    from peft.utils import PeftType, register_peft_method

    if METHOD in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    from ucip_adapt.tuning.config import DynamicPromptConfig
    from ucip_adapt.tuning.model import DynamicPromptModel

    if METHOD in PEFT_TYPE_TO_TUNER_MAPPING:
        return  # Importing the two has done it.
    try:
        _add_member(PeftType, METHOD)
        register_peft_method(
            name=METHOD.lower(),
            config_cls=DynamicPromptConfig,
            model_cls=DynamicPromptModel,
            prefix=PREFIX,
        )
    except (AttributeError, TypeError, ValueError):
        # Another Python or PEFT than those known here: its tables still work with plain strings,
        # which equal the members of PEFT's string enum.
        tables: tuple[tuple[dict[Any, Any], object], ...] = (
            (PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
            (PEFT_TYPE_TO_CONFIG_MAPPING, DynamicPromptConfig),
            (PEFT_TYPE_TO_TUNER_MAPPING, DynamicPromptModel),
        )
        for table, value in tables:
            table[METHOD] = value


def _add_member(enum_class: Any, name: str) -> None:  # noqa: ANN401  # a string enum's class
    """Give a string enum one more member, whose value is its name."""
    if name in enum_class.__members__:
        return
    member = str.__new__(enum_class, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = enum_class
    member._sort_order_ = len(enum_class._member_names_)
    type.__setattr__(enum_class, name, member)
    enum_class._member_names_.append(name)
    enum_class._member_map_[name] = member
    enum_class._value2member_map_[name] = member


def register_when_peft_is_imported() -> None:
    """Register now if PEFT is there already, otherwise as soon as somebody imports it.

    So ``import ucip_adapt`` costs no import of PEFT (seconds), and plain
    ``PeftModel.from_pretrained`` knows the method whichever of the two was imported first.
    """
    if "peft" in sys.modules:
        register()
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(MetaPathFinder):
    """Finds nothing itself; lets PEFT be found by the others and registers after its import."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The real spec of ``peft`` with a loader that registers afterwards; None for the rest."""
        if fullname != "peft":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(Loader):
    """The real loader of ``peft``, with one more step after the module has run."""

    def __init__(self, loader: Loader, finder: _PeftFinder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the real loader offers
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run ``peft``, then register; the finder stays in place if ``peft`` fails."""
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        register()
