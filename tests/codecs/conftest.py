"""A natural low-resolution image for the codec tests."""

from __future__ import annotations

import numpy as np
import pytest

from ucip_adapt.assets import image_folder
from ucip_adapt.data import bicubic_down4, read_rgb


@pytest.fixture(scope="session")
def lr() -> np.ndarray:
    """144 x 144 pixels: a photograph reduced to a quarter."""
    return bicubic_down4(read_rgb(image_folder("validation") / "dog.webp"))
