"""Which codec made a picture, and at which quality: by its container, else by its pixels."""

from ucip_adapt.detection.choice import AUTO, Choice, choose_adapter
from ucip_adapt.detection.containers import detect_codec
from ucip_adapt.detection.detection import Detection
from ucip_adapt.detection.picture import detect_picture
from ucip_adapt.detection.pixels import detect_pixels

__all__ = [
    "AUTO",
    "Choice",
    "Detection",
    "choose_adapter",
    "detect_codec",
    "detect_picture",
    "detect_pixels",
]
