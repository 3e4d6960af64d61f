"""Suites of codecs as data, and the folders of compressed images that are built from them."""

from ucip_adapt.suites.resolved import FilledSlot, FilledSuite, fill_suite
from ucip_adapt.suites.suite import SUITES, Slot, Suite, load_suite

__all__ = ["SUITES", "FilledSlot", "FilledSuite", "Slot", "Suite", "fill_suite", "load_suite"]
