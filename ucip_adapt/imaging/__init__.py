"""Pictures as people have them: read, enlarged and written without losing what they carry."""

from __future__ import annotations

from ucip_adapt.imaging.picture import Picture
from ucip_adapt.imaging.read import read_picture
from ucip_adapt.imaging.write import FORMATS, encode_picture

__all__ = ["FORMATS", "Picture", "encode_picture", "read_picture"]
