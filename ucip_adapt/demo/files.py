"""The PNG files that the page shows and offers, the newest few of them."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np

from ucip_adapt.demo.session import Restored
from ucip_adapt.imaging import Picture, encode_picture

__all__ = ["ResultFiles"]

_KEPT = 8


class ResultFiles:
    """Writes every version of a picture, and removes what is older than the last few runs.

    Args:
        folder: Where; somebody else's to remove.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: deque[Path] = deque()

    def write(self, restored: Restored, name: str) -> tuple[dict[str, str], str]:
        """Write one run's pictures.

        Args:
            restored: What came of a picture.
            name: The picture's name without suffix.

        Returns:
            An 8-bit file for each version, by its name, and the result as it is.
        """
        run = Path(tempfile.mkdtemp(dir=self.folder))
        self._runs.append(run)
        while len(self._runs) > _KEPT:
            shutil.rmtree(self._runs.popleft(), ignore_errors=True)
        result = run / f"{name}_x4.png"
        result.write_bytes(encode_picture(restored.result))
        shown = {}
        for version, picture in restored.versions.items():
            if picture is restored.result and picture.depth == 8:
                shown[version] = str(result)
                continue
            path = run / f"{name}_{version}.png"
            path.write_bytes(encode_picture(_in_8_bits(picture)))
            shown[version] = str(path)
        return shown, str(result)


def _in_8_bits(picture: Picture) -> Picture:
    """What a browser can show; a 16-bit level is 257 times an 8-bit one."""
    if picture.depth == 8:
        return picture
    return replace(
        picture,
        colour=np.rint(picture.colour / 257).astype(np.uint8),
        alpha=None if picture.alpha is None else np.rint(picture.alpha / 257).astype(np.uint8),
    )
