"""The page's tables, as HTML in which whatever a file or a person says is text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ucip_adapt.codecs import CodecSpec
from ucip_adapt.demo.session import Restored
from ucip_adapt.detection import Detection, detect_codec
from ucip_adapt.imaging import Picture

__all__ = ["facts_html", "knob_hint", "picture_line", "scores_html"]

_METHODS = {
    "bicubic": "bicubic x4",
    "base": "base, no adapter",
    "adapter": "base + adapter",
}


def scores_html(restored: Restored) -> str:
    """Scores of every method against the original, and its gain over bicubic.

    Args:
        restored: What came of a picture.

    Returns:
        A table; a sentence where the truth is not known.
    """
    if not restored.rows:
        return (
            "<p>No scores: what this picture looked like before it was compressed is unknown.</p>"
        )
    bicubic = restored.rows[0]
    lines = [
        (
            f"{_METHODS[row.method]} {restored.choice.adapter}"
            if row.method == "adapter"
            else _METHODS[row.method],
            f"{row.psnr_db:.2f}",
            "" if row is bicubic else _gain(row.psnr_db - bicubic.psnr_db),
            f"{row.ssim:.4f}",
        )
        for row in restored.rows
    ]
    table = _table("scores", ("method", "PSNR, dB", "gain, dB", "SSIM"), lines)
    return f"{table}<p>Luma, 4 pixels cut off each edge (y-c4); gain over bicubic.</p>"


def _gain(gain_db: float) -> str:
    return f"{gain_db:+.2f}" if math.isfinite(gain_db) else "-"  # a flat picture may lose nothing


def facts_html(restored: Restored) -> str:
    """What was compressed how, what enlarged it, why, and how long it took.

    Args:
        restored: What came of a picture.

    Returns:
        A table of two columns.
    """
    (height, width), (rows, columns) = restored.lq_size, restored.result.size
    lines = [
        ("enlarged", f"{width} x {height} to {columns} x {rows} pixels"),
        ("compressed size", f"{restored.num_bytes:,} bytes, {restored.bpp:.2f} bits per pixel"),
        ("compression", _compression(restored.detection)),
        ("adapter", f"{restored.choice.adapter or 'none'}: {restored.choice.reason}"),
        ("base", restored.base),
        ("time", f"{restored.seconds:.1f} s"),
        *(("note", note) for note in restored.notes),
    ]
    return _table("facts", (), lines)


def knob_hint(spec: CodecSpec) -> str:
    """What a codec's quality means.

    Args:
        spec: The codec.

    Returns:
        Its name, range and direction, and the values that the suites use.

    Example:
        >>> from ucip_adapt import get_codec
        >>> knob_hint(get_codec("webp").spec)
        'quality, 0 to 100, higher is better; the suite has 10, 20, 30, 40'
    """
    low, high = spec.quality_range
    first, last = spec.qualities[0], spec.qualities[-1]
    better = "higher" if first < last else "lower"
    values = ", ".join(map(str, spec.qualities))
    return f"{spec.parameter}, {low} to {high}, {better} is better; the suite has {values}"


def picture_line(name: str, data: bytes, picture: Picture) -> str:
    """Say what a chosen file is.

    Args:
        name: What it is called.
        data: Its content.
        picture: What was read from it.

    Returns:
        Name, pixels, kind, bytes, and what it says of its compression.
    """
    height, width = picture.size
    said = detect_codec(data).reason
    return f"{name}: {width} x {height} pixels, {picture.mode}, {len(data):,} bytes; {said}"


def _compression(detection: Detection) -> str:
    if detection.codec is None:
        return "not known"
    quality = "" if detection.quality is None else f", quality {detection.quality}"
    sure = "" if detection.confidence == 1 else f", {detection.confidence:.0%} sure"
    return f"{detection.codec}{quality}{sure}"


def _table(name: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<table class="ucip" id="{name}">{top}<tbody>{body}</tbody></table>'
