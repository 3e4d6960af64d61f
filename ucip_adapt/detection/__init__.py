"""Which codec made a picture, and at which quality: by its container."""

from ucip_adapt.detection.containers import detect_codec
from ucip_adapt.detection.detection import Detection

__all__ = ["Detection", "detect_codec"]
