"""Sections on codecs: rate and distortion, speed, equal rates, the tiny learned ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ucip_adapt.report.markup import HOLE, Row, Section, details, table
from ucip_adapt.report.plots import Mark, Series, xy_plot
from ucip_adapt.report.sources import Source

__all__ = ["codecs_section", "matched_section", "rate_section", "tiny_section"]

_GROUP = "Codecs"


def rate_section(source: Source) -> Section:
    """A file of `ucip-adapt rd`: curves of PSNR over rate, and BD-rates."""
    scores = source.scores
    parts = []
    for curve, protocol in dict.fromkeys((p["curve"], p["protocol"]) for p in scores["points"]):
        own = [p for p in scores["points"] if (p["curve"], p["protocol"]) == (curve, protocol)]
        series = [
            _curve(codec, [p for p in own if p["codec"] == codec], source)
            for codec in dict.fromkeys(p["codec"] for p in own)
        ]
        title = f"PSNR in dB ({protocol}), {curve}"
        parts.append(xy_plot(series, x="bits per pixel of the small image", y=title))
    saved = scores["bd_rate_percent"]
    columns = [(metric, curve) for metric, by_curve in saved.items() for curve in by_curve]
    names = dict.fromkeys(c for metric, curve in columns for c in saved[metric][curve])
    lines = [
        Row(
            [codec, *(_number(saved[m][curve].get(codec), "+.2f") for m, curve in columns)],
            [source],
        )
        for codec in names
    ]
    header = ["codec", *(f"{metric.removesuffix('_db')}, {curve}" for metric, curve in columns)]
    note = f"BD-rate against {scores['anchor']} in percent: below 0 is fewer bits, equal quality."
    images = scores["images"]
    title = f"Rate and distortion on {images['count']} images of {images['set']}: {source.name}"
    return Section(title, [*parts, table(header, lines, note)], [source], _GROUP)


def _curve(codec: str, points: Iterable[Mapping[str, Any]], source: Source) -> Series:
    measured = sorted((p for p in points if p["psnr_db"] is not None), key=lambda p: p["bpp"])
    marks = [
        Mark(
            p["bpp"],
            p["psnr_db"],
            f"{codec} {p['quality']}: {p['psnr_db']} dB at {p['bpp']} bpp, "
            f"{p['images']} images. {source.hover}",
        )
        for p in measured
    ]
    return Series(codec, marks, joined=True)


def codecs_section(source: Source) -> Section:
    """A file of `benchmarks/codecs.py`: rate, quality and speed of each codec."""
    rows = source.scores["rows"]
    columns = ("bpp", "psnr_db y-c0", "psnr_db rgb-c0", "encode_seconds", "roundtrip_cpu_seconds")
    lines = [
        Row(
            [
                str(row["codec"]),
                f"{row['parameter']} {row['quality']}",
                *(_number(row.get(c), "") for c in columns),
                str(row.get("source") or ""),
            ],
            [source],
        )
        for row in rows
    ]
    header = ["codec", "quality", "bpp", "PSNR Y, dB", "PSNR RGB, dB", "encoding, s", "CPU, s"]
    shown = table([*header, "made by"], lines)
    config = source.record.get("config", {})
    title = f"Codecs on {config.get('set', 'images')}: {source.name}"
    return Section(title, [details(f"{len(lines)} settings", [shown])], [source], _GROUP)


def matched_section(source: Source) -> Section:
    """A file of `benchmarks/match_rates.py`: settings of codecs at the rates of WebP."""
    lines = [
        Row(
            [
                codec,
                f"webp {quality}",
                str(one["setting"]),
                *(_number(one[key], "") for key in ("bpp", "off_percent", "psnr_rgb_db")),
            ],
            [source],
        )
        for codec, by_quality in source.scores["settings"].items()
        for quality, one in by_quality.items()
    ]
    header = ["codec", "rate of", "setting", "bpp", "off by, %", "PSNR RGB, dB"]
    return Section(f"Equal rates: {source.name}", [table(header, lines)], [source], _GROUP)


def tiny_section(source: Source) -> Section:
    """A file of `benchmarks/tiny_codecs.py`: the learned miniatures beside others."""
    rows = source.scores["rows"]
    keys = ("bpp", "psnr_rgb", "psnr_y", "ms_ssim", "detail_kept")
    lines = [
        Row(
            [str(row["codec"]), str(row["quality"]), *(_number(row.get(key), "") for key in keys)],
            [source],
        )
        for row in rows
    ]
    series = [
        Series(
            codec,
            [
                Mark(
                    row["bpp"],
                    row["psnr_rgb"],
                    f"{codec} {row['quality']}: {row['psnr_rgb']} dB at {row['bpp']} bpp. "
                    f"{source.hover}",
                )
                for row in rows
                if row["codec"] == codec
            ],
            joined=True,
        )
        for codec in dict.fromkeys(row["codec"] for row in rows)
    ]
    plot = xy_plot(series, x="bits per pixel of the small image", y="PSNR RGB, dB")
    header = ["codec", "quality", "bpp", "PSNR RGB, dB", "PSNR Y, dB", "MS-SSIM", "detail kept"]
    title = f"The tiny learned codecs: {source.name}"
    return Section(title, [plot, table(header, lines)], [source], _GROUP)


def _number(value: object, form: str) -> str:
    """A number as the file has it, or rounded; a dash where there is none."""
    if value is None:
        return HOLE
    return format(value, form) if form else str(value)
