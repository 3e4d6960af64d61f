"""Fail when a pytest report (JUnit XML) shows fewer tests that ran than a minimum.

python .ci/count_tests.py REPORT.xml MINIMUM

Skipped tests do not count: a machine that lacks something must not pass by skipping.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def count(report: Path) -> tuple[int, int]:
    """Return the number of tests that ran and the number that were skipped."""
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314  # written by our pytest
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - skipped, skipped


def main(report: str, minimum: str) -> int:
    """Print the counts; 1 when too few ran."""
    ran, skipped = count(Path(report))
    enough = ran >= int(minimum)
    verdict = "" if enough else ": TOO FEW; were tests lost, or is .ci/minimum-tests wrong?"
    sys.stdout.write(
        f"{Path(report).stem}: {ran} ran, {skipped} skipped, minimum {minimum}{verdict}\n"
    )
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
