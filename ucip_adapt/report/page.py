"""The page: sections in their order, the list of files, what could not be shown, and the style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ucip_adapt import __version__
from ucip_adapt.report.codecs import codecs_section, matched_section, rate_section, tiny_section
from ucip_adapt.report.markup import Html, Row, Section, details, element, join, references, table
from ucip_adapt.report.plain import plain_section
from ucip_adapt.report.scores import base_section, methods_section, runs_section
from ucip_adapt.report.sources import EXPECTED, PAPER, Problem, Source

__all__ = ["KINDS", "render", "sections_of"]

_RUNS = ("tune_prompts", "tune_full", "pretrain_base")
KINDS: Mapping[str, Callable[[Source], Section]] = MappingProxyType(
    {
        "evaluate": base_section,
        "methods": methods_section,
        "rate_distortion": rate_section,
        "codecs": codecs_section,
        "matched_rates": matched_section,
        "tiny_codecs": tiny_section,
        "repeat": lambda source: plain_section(source, "Experiments"),
        "switched_off": lambda source: plain_section(source, "Ways of tuning"),
        "rates": lambda source: plain_section(source, "Ways of tuning"),
        "train_codec": lambda source: plain_section(source, "Codecs"),
        "detection": lambda source: plain_section(source, "Detection"),
        "leaks": lambda source: plain_section(source, "Data"),
        "suite_build": lambda source: plain_section(source, "Data"),
        "benchmark_leaks": lambda source: plain_section(source, "Speed and memory"),
        "benchmark": lambda source: plain_section(source, "Speed and memory"),
    }
)
"""Kind of a results file -> its section; cells of the ledger and single runs have one for all."""

_GROUPS = (
    *("Pictures", "Bases", "Experiments", "Ways of tuning", "Codecs", "Detection", "Data"),
    "Speed and memory",
)


def sections_of(sources: Sequence[Source], folder: Path) -> tuple[list[Section], list[Problem]]:
    """Sections for all files of a results folder.

    Args:
        sources: See :func:`~ucip_adapt.report.sources.read_sources`.
        folder: The folder.

    Returns:
        Sections in the order of the page, and files that could not be shown.
    """
    sections: list[Section] = []
    problems: list[Problem] = []
    paper = next((source for source in sources if source.name == PAPER), None)
    cells = [source for source in sources if source.kind == "cell"]
    if cells:
        from ucip_adapt.report.ledger import ledger_sections  # brings torch along

        off = next((source for source in sources if source.kind == "switched_off"), None)
        sections, problems = ledger_sections(cells, folder, paper, off)
    runs = []
    for source in sources:
        try:
            if source.kind in _RUNS:
                runs_section([source])  # one bad run must not take the others with it
                runs.append(source)
            elif source.kind in KINDS:
                sections.append(KINDS[source.kind](source))
            elif source.kind not in ("cell", "paper"):
                problems.append(Problem(source.name, f"unknown kind {source.kind!r}"))
        except EXPECTED as error:
            problems.append(Problem(source.name, f"not of the form of {source.kind}: {error!r}"))
    if runs:
        sections.append(runs_section(runs))
    return sorted(sections, key=lambda section: _GROUPS.index(section.group)), problems


def render(
    sections: Iterable[Section], sources: Sequence[Source], problems: Sequence[Problem], title: str
) -> str:
    """Put the page together; the same files give the same page.

    Args:
        sections: What it shows.
        sources: All files that were read.
        problems: What could not be read or shown.
        title: Its title.

    Returns:
        A whole HTML document.
    """
    sections = list(sections)
    anchors = [f"part-{number}" for number in range(1, len(sections) + 1)]
    contents: list[Html] = []
    body: list[Html] = []
    group = ""
    for anchor, section in zip(anchors, sections, strict=True):
        if section.group != group:
            group = section.group
            contents.append(element("li", [group], {"class": "group"}))
            body.append(element("h2", [group]))
        link = element("a", [section.title], {"href": f"#{anchor}"})
        contents.append(element("li", [link]))
        body.append(_section(section, anchor))
    head = [
        element("meta", [], {"charset": "utf-8"}),
        element("meta", [], {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        # Nothing is loaded and nothing runs, whatever a file may have said.
        element(
            "meta",
            [],
            {
                "http-equiv": "Content-Security-Policy",
                "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
            },
        ),
        element("title", [title]),
        Html(f"<style>{STYLE}</style>"),
    ]
    count = f"{len(sources)} files read"
    if problems:
        count += f", {len(problems)} not shown"
    said = (
        f"Made by ucip-adapt {__version__} from JSON files alone; {count}. The small number at the "
        "end of a line, or hovering over it, tells its file, command, commit and machine."
    )
    main = [
        element("h1", [title]),
        element("p", [said]),
        *([_problems(problems)] if problems else []),
        element("nav", [details("Contents", [element("ul", contents)])]),
        *body,
        _files(sources),
    ]
    page = element(
        "html", [element("head", head), element("body", [element("main", main)])], {"lang": "en"}
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _section(section: Section, anchor: str) -> Html:
    named = [
        element(
            "li",
            [
                references([one]),
                f" {one.name}: ",
                element("code", [one.command]),
                f"; commit {one.commit}; {one.hardware}",
            ],
        )
        for one in section.sources
    ]
    origin = [details("Where these numbers are from", [element("ul", named)])] if named else []
    return element(
        "section", [element("h3", [section.title]), *section.parts, *origin], {"id": anchor}
    )


def _problems(problems: Sequence[Problem]) -> Html:
    lines = [element("li", [element("b", [p.name]), f": {p.reason}"]) for p in problems]
    return element("div", [element("p", ["Not shown:"]), element("ul", lines)], {"class": "warn"})


def _files(sources: Sequence[Source]) -> Html:
    lines = [
        Row(
            [
                element("span", [str(one.number)], {"id": f"source-{one.number}"}),
                one.name,
                one.kind,
                element("code", [one.command]),
                one.commit,
                one.hardware,
                one.sha256[:12],
            ]
        )
        for one in sources
    ]
    header = ["", "file", "kind", "command", "commit", "hardware", "sha256"]
    return join([element("h2", ["Files"]), table(header, lines)])


STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
"""Style of the page; colours for light and dark."""
