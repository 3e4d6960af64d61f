"""The page as a folder that can be pushed as a Space: the package itself goes with it."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

from ucip_adapt import __version__
from ucip_adapt.assets import adapters_folder
from ucip_adapt.demo.library import load_gradio
from ucip_adapt.errors import ConfigError, DataError

__all__ = ["export_space"]

_DISTRIBUTION = "ucip-adapt"

_APP = '''\
"""The web page of ucip-adapt {version}; `python app.py` starts it on this machine too."""

import tempfile
from pathlib import Path

from ucip_adapt.demo.app import LAUNCH_OPTIONS, build_app, look
from ucip_adapt.demo.files import ResultFiles
from ucip_adapt.demo.session import Session

# Visitors choose among the shipped adapters; names of folders and repositories are refused.
demo = build_app(Session(own_adapters=False), ResultFiles(Path(tempfile.mkdtemp())))

if __name__ == "__main__":
    demo.launch(**LAUNCH_OPTIONS, **look())
'''

_README = """\
---
title: ucip-adapt
colorFrom: green
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: apache-2.0
short_description: Restore compressed pictures and enlarge them four times
---

# ucip-adapt

Damage a picture with a codec, or take one as it is; restore it and enlarge it four times with a
prompt adapter of a few kilobytes, and compare the result with bicubic enlargement.

Written by `ucip-adapt demo --export-space`, version {version}. The package lies beside `app.py`,
with its base networks, its adapters and the CC0 pictures to pick from; `requirements.txt` has what
it needs. On your own machine:

    pip install -r requirements.txt
    python app.py
"""


def export_space(folder: Path) -> list[Path]:
    """Write the page with the package into a folder.

    Args:
        folder: An empty folder, or one that does not exist.

    Returns:
        What was written at its top, by name.

    Raises:
        ConfigError: If the folder holds something, or gradio or the installed package is missing.
        DataError: If it cannot be written.
    """
    gradio = load_gradio().__version__
    requirements = _requirements(gradio)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a folder that does not exist yet")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    texts = {
        "app.py": _APP.format(version=__version__),
        "requirements.txt": "\n".join(requirements) + "\n",
        "README.md": _README.format(gradio=gradio, python=python, version=__version__),
    }
    package = Path(__file__).parent.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        clutter = shutil.ignore_patterns("__pycache__", "*.pyc", "_recipes", ".*")
        shutil.copytree(package, folder / package.name, ignore=clutter)
        adapters = folder / package.name / "_adapters"
        if not adapters.exists():  # a clone keeps them beside the package
            shutil.copytree(adapters_folder(), adapters, ignore=clutter)
        for file in metadata.files(_DISTRIBUTION) or ():
            if file.name in {"LICENSE", "NOTICE"} and "licenses" in file.parts:
                shutil.copyfile(Path(str(file.locate())), folder / file.name)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
    return sorted(folder.iterdir())


def _requirements(gradio: str) -> list[str]:
    """What the installed package asks for, without its extras, and the gradio that is here."""
    try:
        needed = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"{_DISTRIBUTION} is not installed, so its requirements are unknown: pip install -e ."
        ) from error
    return [*(line for line in needed if "extra ==" not in line), f"gradio=={gradio}"]
