"""From a folder of results to one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ucip_adapt.report.sources import Problem, read_sources

__all__ = ["Report", "build_report"]


@dataclass(frozen=True)
class Report:
    """A finished page.

    Attributes:
        path: The page.
        num_bytes: Its size.
        files: Number of files that were read.
        sections: Number of its sections.
        problems: What could not be read or shown; the page names it as well.
    """

    path: Path
    num_bytes: int
    files: int
    sections: int
    problems: tuple[Problem, ...]


def build_report(
    folder: str | Path,
    out: str | Path,
    *,
    pictures: str | None = None,
    adapters: Sequence[str] = (),
    title: str = "Results of ucip_adapt",
) -> Report:
    """Make the page of a results folder.

    Args:
        folder: Folder whose JSON files are shown, with all below it.
        out: The HTML file; an older one is replaced.
        pictures: ``"make"`` to damage and restore an embedded image, or a folder of pictures, of
            which those called ``CODEC-QUALITY.png`` form a grid; None for none.
        adapters: Adapters that pictures are made with; none means all shipped ones.
        title: Title of the page.

    Returns:
        What was written, and what could not be shown.

    Raises:
        ConfigError: If adapters are named but no pictures are made, or ``out`` does not end in
            ``.html``.
        DataError: If the folder holds no results file, or the page cannot be written.

    Example:
        >>> import tempfile
        >>> from ucip_adapt.training.results import write_results
        >>> row = {"dataset": "Set5", "codec": "webp", "quality": 10, "protocol": "y-c4"}
        >>> rows = [{**row, "method": m, "psnr_db": p, "ssim": 0.7}
        ...         for m, p in (("bicubic", 25.0), ("base", 25.5))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "base.json")
        ...     write_results(path, {"kind": "evaluate", "scores": {"rows": rows}})
        ...     report = build_report(folder, Path(folder, "report.html"))
        ...     "+0.500" in report.path.read_text(encoding="utf-8")
        True
    """
    from ucip_adapt.atomic import write_atomically
    from ucip_adapt.errors import ConfigError, DataError
    from ucip_adapt.report.page import render, sections_of
    from ucip_adapt.report.pictures import make_pictures, picture_section, read_pictures

    folder, out = Path(folder), Path(out)
    if out.suffix.lower() not in (".html", ".htm"):  # a result would be overwritten
        raise ConfigError(f"--out {out}: the page is HTML, give a name that ends in .html")
    if adapters and pictures != "make":
        raise ConfigError("adapters are named, but no pictures are made: add --pictures make")
    sources, problems = read_sources(folder)
    sections, unshown = sections_of(sources, folder)
    problems += unshown
    if pictures is not None:
        found, unread = (
            make_pictures(adapters) if pictures == "make" else read_pictures(Path(pictures))
        )
        section, no_room = picture_section(found)
        sections = [section, *sections]
        problems += [*unread, *no_room]
    # Half of a surrogate pair, which JSON may hold, is no character.
    page = render(sections, sources, problems, title).encode("utf-8", "replace")
    try:
        write_atomically(out, page)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}") from error
    return Report(out, len(page), len(sources), len(sections), tuple(problems))
