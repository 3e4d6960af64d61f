"""Fixtures that run recipes in process: nano bases, a few small CC0 crops, and a runner."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from ucip_adapt.assets import image_folder
from ucip_adapt.config import run_recipe
from ucip_adapt.data import read_rgb
from ucip_adapt.data.images import save_png
from ucip_adapt.models import UCIP, UCIPConfig

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BASES = {
    "prompted": {},
    "prompt-free": {"prompt": "none"},
    "two blocks": {"num_blocks": 2},
    "other": {},  # the architecture of the first, other values
}


@pytest.fixture(scope="session")
def recipes() -> Callable[[str], ModuleType]:
    """``recipes("tune_prompts")`` is the module of ``recipes/tune_prompts.py``."""

    def load(name: str) -> ModuleType:
        key = f"ucip_test_recipe_{name}"
        if key not in sys.modules:
            spec = importlib.util.spec_from_file_location(key, RECIPES / f"{name}.py")
            sys.modules[key] = importlib.util.module_from_spec(spec)  # dataclasses look it up
            spec.loader.exec_module(sys.modules[key])
        return sys.modules[key]

    return load


def make_base(folder: Path, seed: int, **changes: Any) -> None:
    """A base whose every value matters: zero biases and unit norms would hide a forgotten one."""
    torch.manual_seed(seed)
    base = UCIP(UCIPConfig.preset("nano", **changes))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    base.save_pretrained(folder)


def crop(split: str, name: str, folder: Path, height: int, width: int) -> None:
    """Cut a busy part out of an embedded image."""
    image = read_rgb(image_folder(split) / f"{name}.webp")
    folder.mkdir(exist_ok=True)
    save_png(folder / f"{name}.png", image[232 : 232 + height, 232 : 232 + width])


@dataclass(frozen=True)
class World:
    """Folders that all runs share.

    Attributes:
        train: Two training images of 96 x 112 pixels.
        validation: Two validation images of 80 x 96 pixels.
        cache: Decoded images.
        bases: Nano bases by name.
    """

    train: Path
    validation: Path
    cache: Path
    bases: dict[str, Path]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    for name in ("city", "flowers"):
        crop("train", name, root / "train", 96, 112)
    for name in ("girl", "nyc"):
        crop("validation", name, root / "validation", 80, 96)
    bases = {name: root / name.replace(" ", "-") for name in BASES}
    for seed, (name, changes) in enumerate(BASES.items()):
        make_base(bases[name], seed, **changes)
    return World(root / "train", root / "validation", root / "cache", bases)


@dataclass
class Run:
    """What a run returned and what could be seen of it from outside.

    Attributes:
        folder: Its output folder.
        record: What ``main`` returned.
        lines: What it printed.
        logs: Values that it logged, each with its step.
        model: What it published: an adapted or a whole network.
        optimizer: Its prepared optimizer.
        batches: What its loader gave, in order.
    """

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    logs: list[dict[str, float]] = field(default_factory=list)
    model: nn.Module | None = field(default=None, repr=False)
    optimizer: torch.optim.Optimizer | None = field(default=None, repr=False)
    batches: list[dict[str, torch.Tensor]] = field(default_factory=list, repr=False)

    @property
    def losses(self) -> list[float]:
        return [values["train_loss"] for values in self.logs if "learning_rate" in values]

    def bytes(self, name: str = "adapter_model.safetensors") -> bytes:
        return (self.folder / name).read_bytes()


class Runner:
    """``run("tune_prompts", folder, max_train_steps=3, ...)`` calls the recipe's ``main``."""

    def __init__(self, world: World, recipes: Callable[[str], ModuleType]) -> None:
        self.world = world
        self.recipes = recipes

    def options(self, name: str, folder: Path, /, **changes: Any) -> Any:
        """Options of a tiny run."""
        world = self.world
        shared = {"output_dir": folder, "cache_dir": world.cache}
        training = {
            "train_data_dir": (str(world.train),),
            "validation_data_dir": str(world.validation),
            "patch_size": 12,
            "train_batch_size": 2,
            "max_train_steps": 3,
            "lr_warmup_steps": 1,
        }
        base = {"pretrained_model_name_or_path": str(world.bases["prompted"])}
        codec = {"qualities": (10,), "evaluate_on": (str(world.validation),)}
        suite = {"suite", "suite_dir"} & changes.keys()
        damage = {} if suite else {"settings": ("jpeg:40",)}
        known = {
            "pretrain_base": {**training, "preset": "nano", **damage},
            "tune_prompts": {**training, **base, **codec},
            "tune_full": {**training, **base, **codec},
            "evaluate": {**base, **codec},
        }
        return self.recipes(name).Options(**{**shared, **known[name], **changes})

    def __call__(
        self,
        name: str,
        folder: Path,
        /,
        *,
        at: dict[int, Callable[[Run], object]] | None = None,
        **changes: Any,
    ) -> Run:
        """Run; ``at[step](run)`` is called when that step has been made."""
        run = Run(folder)
        options = self.options(name, folder, **changes)
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setenv("ACCELERATE_USE_CPU", "1")
            self._watch(patch, self.recipes(name), run, at or {})
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            try:
                run.record = self.recipes(name).main(options)
            finally:
                run.lines += printed.getvalue().splitlines()
        return run

    @staticmethod
    def _watch(
        patch: pytest.MonkeyPatch,
        recipe: ModuleType,
        run: Run,
        at: dict[int, Callable[[Run], object]],
    ) -> None:
        log, prepare = Accelerator.log, Accelerator.prepare

        def watch_log(self, values, step=None, **rest):
            run.logs.append({"step": step, **values})
            log(self, values, step=step, **rest)
            if "learning_rate" in values and step in at:
                at[step](run)

        def watch_prepare(self, *items, **rest):
            prepared = prepare(self, *items, **rest)
            run.model, run.optimizer = prepared
            return prepared

        if hasattr(recipe, "training_loader"):
            load = recipe.training_loader

            def watch_loader(*rest, **named):
                for batch in load(*rest, **named):
                    run.batches.append(batch)
                    yield batch

            patch.setattr(recipe, "training_loader", watch_loader)
        patch.setattr(Accelerator, "log", watch_log)
        patch.setattr(Accelerator, "prepare", watch_prepare)
        for name in ("publish_adapter", "publish_base"):
            if hasattr(recipe, name):
                publish = getattr(recipe, name)

                def watch_publish(model, *rest, _publish=publish, **named):
                    run.model = model
                    return _publish(model, *rest, **named)

                patch.setattr(recipe, name, watch_publish)


@pytest.fixture(scope="session")
def run(world, recipes) -> Runner:
    return Runner(world, recipes)


@pytest.fixture(scope="session")
def stop() -> Callable[[Run], object]:
    """For ``at``: a real SIGTERM, as a scheduler sends it."""
    return lambda _: signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def command(recipes, capsys) -> Iterator[Callable[..., tuple[int, str]]]:
    """``command("tune_prompts", "--codec", "webp")`` gives exit code and what stood on stderr."""

    def go(name: str, *flags: object) -> tuple[int, str]:
        module = recipes(name)
        code = run_recipe(
            module.main, module.Options, description=module.__doc__, argv=list(map(str, flags))
        )
        return code, capsys.readouterr().err

    return go
