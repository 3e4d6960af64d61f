"""One page on all results: tables, plots and pictures, with the file behind every number.

The page is made from the JSON files of a results folder and from nothing else. It is one HTML file
without scripts that loads nothing.
"""

from ucip_adapt.report.build import Report, build_report

__all__ = ["Report", "build_report"]
