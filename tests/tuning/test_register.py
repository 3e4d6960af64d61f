"""The method is known to PEFT whatever is imported first, and importing it costs nothing early."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from ucip_adapt.tuning import DynamicPromptConfig, DynamicPromptModel, register
from ucip_adapt.tuning.register import _add_member

MODULES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "ucip_adapt" / "tuning").glob("*.py")
    if path.stem != "__init__"
)
KNOWN = "from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as m; assert 'DYNAMIC_PROMPT' in m"
INSTALL = "from ucip_adapt.tuning import register_when_peft_is_imported as r; r(); r()"


def assert_runs(*lines: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_registered_once() -> None:
    members = list(PeftType)
    register()
    register()
    assert list(PeftType) == members
    assert [str(member.value) for member in members].count("DYNAMIC_PROMPT") == 1
    assert PEFT_TYPE_TO_CONFIG_MAPPING["DYNAMIC_PROMPT"] is DynamicPromptConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["DYNAMIC_PROMPT"] is DynamicPromptModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["DYNAMIC_PROMPT"] == "dynprompt_"


def test_the_member_is_a_member() -> None:
    _add_member(PeftType, "DYNAMIC_PROMPT")  # Again: no second one.
    member = PeftType("DYNAMIC_PROMPT")
    assert member is PeftType["DYNAMIC_PROMPT"] is PeftType.DYNAMIC_PROMPT  # type: ignore[attr-defined]
    assert isinstance(member, PeftType)
    assert member.name == member.value == member == "DYNAMIC_PROMPT"
    assert "DYNAMIC_PROMPT" in PeftType.__members__
    assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301


def test_early_import_is_cheap_and_a_late_one_registers() -> None:
    assert_runs(
        "import sys",
        INSTALL,
        "assert not {'peft', 'torch', 'transformers'} & set(sys.modules)",
        "import peft",
        KNOWN,
        "assert not any('Peft' in type(f).__name__ for f in sys.meta_path)",
        "assert type(peft.__spec__.loader).__name__ == 'SourceFileLoader'",
    )


@pytest.mark.slow
def test_peft_first() -> None:
    assert_runs("import peft", INSTALL, KNOWN)


@pytest.mark.slow
def test_a_failing_peft_can_be_imported_again(tmp_path: Path) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("raise ImportError('half installed')\n")
    assert_runs(
        INSTALL,
        "import sys",
        f"sys.path.insert(0, {str(tmp_path)!r})",
        "try:\n    import peft\nexcept ImportError:\n    sys.path.pop(0)",
        "import importlib; importlib.invalidate_caches()",
        "import peft",
        KNOWN,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork to start from one import")
def test_any_module_may_come_first() -> None:
    assert len(MODULES) > 5
    assert_runs(
        "import importlib, os, ucip_adapt.models",
        "from transformers import PreTrainedModel",  # What takes long in importing PEFT.
        INSTALL,
        f"for name in {MODULES}:",
        "    child = os.fork()",
        "    if child == 0:",
        "        importlib.import_module(f'ucip_adapt.tuning.{name}')",
        "        import peft",
        f"        {KNOWN}",
        "        os._exit(0)",
        "    assert os.waitpid(child, 0)[1] == 0, name",
    )
