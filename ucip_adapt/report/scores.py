"""Sections on score rows: a base on its codecs, ways of tuning it, single runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ucip_adapt.hub.stages import image_sets
from ucip_adapt.report.markup import HOLE, Html, Row, Section, details, table
from ucip_adapt.report.plots import Mark, Series, dot_plot, xy_plot
from ucip_adapt.report.sources import Source

__all__ = ["base_section", "methods_section", "runs_section"]

PROTOCOL = "y-c4"
BICUBIC, BASE = "bicubic", "base"


class Place(NamedTuple):
    """Where a score was measured."""

    dataset: str
    codec: str
    quality: int


class Scores:
    """The rows of one results file under one protocol."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], protocol: str = PROTOCOL) -> None:
        self.protocol = protocol
        self.values: dict[tuple[str, Place], tuple[float | None, float | None]] = {}
        for row in rows:
            if row["protocol"] == protocol:
                place = Place(row["dataset"], row["codec"], row["quality"])
                self.values[row["method"], place] = row["psnr_db"], row["ssim"]
        self.methods = list(dict.fromkeys(method for method, _ in self.values))
        self.places = list(dict.fromkeys(place for _, place in self.values))

    @classmethod
    def of_file(cls, rows: Sequence[Mapping[str, Any]]) -> Scores:
        """The rows under the protocol of the tables; of a file that has it not, its first one."""
        scores = cls(rows)
        return scores if scores.methods else cls(rows, rows[0]["protocol"])

    def shared(self, methods: Sequence[str]) -> list[Place]:
        """Places where all of these methods have a score: elsewhere means are not comparable."""
        known = {key for key, (psnr, _) in self.values.items() if psnr is not None}
        return [place for place in self.places if all((m, place) in known for m in methods)]

    def of(self, dataset: str) -> list[Place]:
        """Places of a set."""
        return [place for place in self.places if place.dataset == dataset]

    def gain(self, method: str, reference: str, places: Iterable[Place]) -> float | None:
        """Mean difference in dB over the places where both have a score; None without any."""
        found = []
        for place in places:
            ours, theirs = (
                self.values.get((m, place), (None, None))[0] for m in (method, reference)
            )
            if ours is not None and theirs is not None:
                found.append(ours - theirs)
        return fmean(found) if found else None

    def cell(self, method: str, place: Place) -> str:
        """PSNR and SSIM as one text."""
        psnr, ssim = self.values.get((method, place), (None, None))
        return HOLE if psnr is None or ssim is None else f"{psnr:.2f} / {ssim:.4f}"


def decibels(value: float | None) -> str:
    """A difference with its sign."""
    return HOLE if value is None else f"{value:+.3f}"


def _each(places: Sequence[Place], part: int) -> list[str]:
    return list(dict.fromkeys(str(place[part]) for place in places))


def base_section(source: Source) -> Section:
    """A file of `recipes/evaluate.py`: gains over bicubic by codec, and every score."""
    rows = source.scores["rows"]
    scores = Scores.of_file(rows)
    reference = BICUBIC if BICUBIC in scores.methods else scores.methods[0]
    others = [method for method in scores.methods if method != reference]
    codecs, shared = _each(scores.places, 1), scores.shared(scores.methods)
    gains = {
        (codec, method): scores.gain(method, reference, [p for p in shared if p.codec == codec])
        for codec in codecs
        for method in others
    }
    lines = [
        Row([codec, *(decibels(gains[codec, m]) for m in others)], [source]) for codec in codecs
    ]
    if len(codecs) > 1:
        whole = [c for c in codecs if all(gains[c, m] is not None for m in others)]
        means = [fmean(gains[c, m] or 0.0 for c in whole) if whole else None for m in others]
        name = "mean of codecs" if whole == codecs else f"mean of {len(whole)} of {len(codecs)}"
        lines.append(Row([f"**{name}**", *map(decibels, means)], [source]))
    series = [
        Series(
            method,
            [
                Mark(
                    gain,
                    codecs.index(codec),
                    f"{method} on {codec}: {gain:+.3f} dB. {source.hover}",
                )
                for codec in codecs
                if (gain := gains[codec, method]) is not None
            ],
        )
        for method in others
    ]
    sets = ", ".join(_each(scores.places, 0))
    return Section(
        f"{_title_of(source)} on {sets}",
        [
            dot_plot(codecs, series, x=f"gain over {reference}, dB ({scores.protocol})"),
            table(
                ["codec", *others],
                lines,
                f"Gain over {reference} in dB, mean over the qualities of a codec on {sets}; a "
                "dash where a set has no score. 'whole' is the whole image at once; otherwise as "
                "the base's configuration says.",
            ),
            details("Every score", [_all_scores(source, rows)]),
        ],
        [source],
        "Bases",
    )


def _title_of(source: Source) -> str:
    config = source.record.get("config", {})
    return f"{config.get('pretrained_model_name_or_path', source.name)}: {source.name}"


def _all_scores(source: Source, rows: Sequence[Mapping[str, Any]]) -> Html:
    lines = []
    methods: list[str] = list(dict.fromkeys(row["method"] for row in rows))
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        scores = Scores(rows, protocol)
        for place in scores.places:
            cells = [scores.cell(method, place) for method in methods]
            lines.append(Row([place.dataset, f"{place.codec} {place.quality}", protocol, *cells]))
    said = {row.get("source") for row in rows} - {"", None}
    note = f"PSNR in dB / SSIM; all of {source.name}."
    return table(
        ["set", "quality", "protocol", *methods],
        lines,
        note + "".join(f" {text}." for text in sorted(map(str, said))),
    )


def methods_section(source: Source) -> Section:
    """A file of `recipes/compare_methods.py`: gain over the base against size."""
    scores = Scores.of_file(source.scores["rows"])
    about = source.record["parameters"]["methods"]
    sets = _each(scores.places, 0)
    shared = scores.shared([method for method in scores.methods if method in about] + [BASE])
    common = _each(shared, 0)
    lines, marks = [], []
    for method in scores.methods:
        if method not in about:
            continue
        one = about[method]
        mean = scores.gain(method, BASE, shared)
        by_set = [scores.gain(method, BASE, scores.of(name)) for name in sets]
        shown = [f"{one['bytes']:,}", f"{one['trained']:,}", f"{one['learning_rate']:g}"]
        step = f"{one['seconds_per_step']:.2f}" if "seconds_per_step" in one else HOLE
        lines.append(Row([method, *shown, step, *map(decibels, (*by_set, mean))], [source]))
        if mean is not None:
            name = method.partition("@")[0]
            hover = f"{method}: {mean:+.3f} dB, {one['bytes']:,} bytes. {source.hover}"
            marks.append((one.get("images", ""), Mark(one["bytes"], mean, hover, label=name)))
    series = [
        Series(f"trained on {images}" if images else "tuned", [m for i, m in marks if i == images])
        for images in dict.fromkeys(images for images, _ in marks)
    ]
    config = source.record.get("config", {})
    header = ["method", "bytes", "trained", "rate", "s per step", *sets, "mean"]
    return Section(
        f"Ways of tuning {config.get('base', 'a base')}: {source.name}",
        [
            xy_plot(
                series,
                x="bytes of the file",
                y=f"gain over the base, dB ({scores.protocol})",
                log_x=True,
            ),
            table(
                header,
                lines,
                "Gain over the base in dB, mean over the qualities of each set. The plot and "
                f"the last column: only sets that all were measured on ({', '.join(common)}).",
            ),
            details("Every score", [_all_scores(source, source.scores["rows"])]),
        ],
        [source],
        "Ways of tuning",
    )


def runs_section(sources: Sequence[Source]) -> Section:
    """Single runs of the recipes, one line each."""
    lines = []
    for source in sources:
        config, parameters = source.record["config"], source.record["parameters"]
        scores = Scores(source.scores["rows"])
        last = scores.methods[-1] if scores.methods else ""
        reference = BASE if BASE in scores.methods and last != BASE else BICUBIC
        gain = scores.gain(last, reference, scores.places) if last else None
        codecs = ", ".join(_each(scores.places, 1))
        trained = parameters.get("trained")
        lines.append(
            Row(
                [
                    source.name,
                    str(config.get("pretrained_model_name_or_path") or "random weights"),
                    codecs,
                    f"{trained:,}" if isinstance(trained, int) else HOLE,
                    ", ".join(map(str, image_sets({"train_data_dir": (), **config}))),
                    str(config.get("max_train_steps", HOLE)),
                    f"{config['learning_rate']:g}" if config.get("learning_rate") else HOLE,
                    ", ".join(_each(scores.places, 0)),
                    f"{decibels(gain)} over {reference}" if gain is not None else HOLE,
                ],
                [source],
            )
        )
    header = ["file", "started from", "codec", "trained", "images", "steps", "rate"]
    return Section(
        "Single runs",
        [table([*header, "measured on", "gain, dB (y-c4)"], lines)],
        sources,
        "Ways of tuning",
    )
