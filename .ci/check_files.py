"""Refuse trailing blanks, a missing end of line, conflict markers and large files.

    python .ci/check_files.py FILE...

`make lint` and the pre-commit hook call it with the tracked files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

LARGE_BYTES = 1_000_000  # a suite's scores, image by image, are half of it
# Weights and images that ship live here, each with its licence; everything else is text or small.
MAY_BE_LARGE = ("ucip_adapt/assets/", "adapters/")
# Checksums hold these byte for byte, and licences are kept as their authors wrote them.
AS_THEY_ARE = ("tests/golden/", "tests/assets/", "tests/tuning/fixtures/", "adapters/", "LICENSE")
MARKERS = tuple(character * 7 + " " for character in "<>|")


def problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with one file, each as a line that names file and place."""
    name = path.as_posix()
    if path.stat().st_size > LARGE_BYTES and not name.startswith(MAY_BE_LARGE):
        yield f"{name}: {path.stat().st_size} bytes; large files live in {MAY_BE_LARGE}"
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return
    if name.startswith(AS_THEY_ARE) or "\0" in text:
        return
    if text and not text.endswith("\n"):
        yield f"{name}: the last line has no end"
    if text.endswith("\n\n"):
        yield f"{name}: empty lines at the end"
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip():
            yield f"{name}:{number}: blanks at the end of the line"
        if line.startswith(MARKERS):
            yield f"{name}:{number}: a conflict marker"


def main(names: list[str]) -> int:
    """Check the files that exist (git also lists deleted ones); 1 when anything was found."""
    paths = [Path(name) for name in names]
    found = [problem for path in paths if path.is_file() for problem in problems(path)]
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
