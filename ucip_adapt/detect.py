"""The former place of :mod:`ucip_adapt.detection`."""

from ucip_adapt.detection import Detection, detect_codec

__all__ = ["Detection", "detect_codec"]
