"""Pictures of one folder that are found again in another: equal, resized, cropped or mirrored."""

from ucip_adapt.leaks.report import write_report
from ucip_adapt.leaks.search import Leak, LeakReport, find_leaks

__all__ = ["Leak", "LeakReport", "find_leaks", "write_report"]
