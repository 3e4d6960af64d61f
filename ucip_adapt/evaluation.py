"""Measure a network on sets of images: compress, restore, compare."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ucip_adapt.codecs import Codec
from ucip_adapt.codecs.base import check_image_names, short_name
from ucip_adapt.codecs.streams import StoredCodec
from ucip_adapt.data.benchmarks import EvalImage, EvalSet
from ucip_adapt.data.bicubic import bicubic_up4
from ucip_adapt.data.cache import ArrayCache
from ucip_adapt.data.degrade import Setting, check_namesakes, compress_lr, require_codec
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.errors import ConfigError
from ucip_adapt.metrics import (
    ImageScores,
    ScoreJournal,
    gather_scores,
    get_protocol,
    score,
    to_uint8,
)
from ucip_adapt.models import UCIP, self_ensemble

__all__ = [
    "ScoreRow",
    "Upscale",
    "bicubic",
    "choose_window",
    "evaluate_sets",
    "mean_psnr",
    "network_upscaler",
    "source_of",
    "summarise",
]

Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Maps an ``H x W x 3`` uint8 image to ``4H x 4W x 3`` uint8."""


@dataclass(frozen=True)
class ScoreRow:
    """Mean scores of one method on one set at one setting under one protocol.

    A set counts only as a whole: where images lack what the codec needs, there is no score.

    Attributes:
        method: What restored the images (``"bicubic"``, ``"base"``, ``"adapter"``).
        dataset: Name of the set.
        codec: Name of the codec.
        quality: Its quality.
        protocol: Protocol id, such as ``y-c4``.
        psnr_db: Mean PSNR over images, in dB; NaN where there is no score.
        ssim: Mean SSIM over images.
        images: Number of images; 0 where there is no score.
        source: For reference codecs, what the pictures come from (``"streams HM 18.0"``), or why
            there is no score.
        names: Names of the images, where the scores of each are kept.
        psnr_db_images: PSNR of each image, in their order.
        ssim_images: SSIM of each.

    Example:
        >>> ScoreRow("base", "Set5", "webp", 10, "y-c4", 25.12346, 0.7, 5).to_dict()["psnr_db"]
        25.1235
    """

    method: str
    dataset: str
    codec: str
    quality: int
    protocol: str
    psnr_db: float
    ssim: float
    images: int
    source: str = ""
    names: tuple[str, ...] = ()
    psnr_db_images: tuple[float, ...] = ()
    ssim_images: tuple[float, ...] = ()

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """JSON-able form; PSNR to 1e-4 dB, SSIM to 1e-5, None where there is no score.

        Args:
            per_image: Whether to keep the scores of each image as well.
        """
        values = asdict(self)
        if per_image:
            values["names"] = list(self.names)
            values["psnr_db_images"] = [round(value, 4) for value in self.psnr_db_images]
            values["ssim_images"] = [round(value, 5) for value in self.ssim_images]
        else:
            for key in ("names", "psnr_db_images", "ssim_images"):
                del values[key]
        if not self.images:
            return {**values, "psnr_db": None, "ssim": None}
        return {**values, "psnr_db": round(self.psnr_db, 4), "ssim": round(self.ssim, 5)}


def bicubic(lq: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The baseline of every gain: Pillow's bicubic x4.

    Args:
        lq: ``H x W x 3`` uint8.

    Returns:
        ``4H x 4W x 3`` uint8.

    Example:
        >>> bicubic(np.full((2, 3, 3), 7, np.uint8)).shape
        (8, 12, 3)
    """
    return bicubic_up4(lq)


def network_upscaler(
    upscale: Callable[..., Tensor],
    device: torch.device,
    *,
    window: int | str | None = "config",
    ensemble: bool = False,
) -> Upscale:
    """Wrap :meth:`UCIP.upscale` (of a base, or of a base with an adapter) for 8-bit images.

    Args:
        upscale: The bound method.
        device: Where the network is.
        window: As in :meth:`UCIP.upscale`.
        ensemble: Whether to average eight orientations, see
            :func:`~ucip_adapt.models.self_ensemble`.

    Returns:
        A function for :func:`evaluate_sets`, from ``H x W x 3`` uint8 to ``4H x 4W x 3`` uint8.

    Example:
        >>> from ucip_adapt import UCIPConfig
        >>> base = UCIP(UCIPConfig.preset("nano")).eval()
        >>> upscale = network_upscaler(base.upscale, torch.device("cpu"))
        >>> upscale(np.zeros((8, 10, 3), np.uint8)).shape
        (32, 40, 3)
    """

    def run(lq: NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensor = to_tensor(lq)[None].to(device)
        once = functools.partial(upscale, window=window)
        sr: NDArray[np.uint8] = to_uint8(self_ensemble(once, tensor) if ensemble else once(tensor))[
            0
        ]
        return sr

    return run


def evaluate_sets(
    methods: dict[str, Upscale],
    sets: Sequence[EvalSet],
    settings: Sequence[Setting],
    protocols: Sequence[str],
    *,
    cache: ArrayCache,
    accelerator: Accelerator | None = None,
    progress: bool = False,
    journal: ScoreJournal | None = None,
) -> list[ScoreRow]:
    """Score methods on every image of every set at every setting.

    Images are shared out over the processes of ``accelerator`` and every process returns all rows.

    Args:
        methods: What to measure, by name.
        sets: Image sets.
        settings: Codecs and qualities.
        protocols: Protocol ids.
        cache: Where compressed images are kept.
        accelerator: For several processes; None is one.
        progress: Whether to show a bar.
        journal: Where the scores of each image are looked for and kept; its context has to hold
            what ``methods`` and ``protocols`` stand for.

    Returns:
        One row per method, set, setting and protocol, in this order of nesting. Reference codecs
        that read stored streams count on a set only if every image has one; else their encoder is
        taken, and without an encoder the row has no score.

    Raises:
        ConfigError: If there is nothing to measure, or two sets have one name, or a setting or
            protocol is named twice: their scores would run into one row.
        UnknownNameError: If a codec or a protocol is unknown.
        CodecError: If a codec is not available, or goes by names and two pictures have the same
            one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ucip_adapt import load_eval_set, parse_settings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = evaluate_sets(
        ...         {"bicubic": bicubic_up4},
        ...         [load_eval_set("GB82-val", limit=1)],
        ...         parse_settings("webp", (10, 40)),
        ...         ["y-c4"],
        ...         cache=ArrayCache(Path(folder)),
        ...     )
        >>> [(row.method, row.dataset, row.quality, row.images) for row in rows]
        [('bicubic', 'GB82-val', 10, 1), ('bicubic', 'GB82-val', 40, 1)]
        >>> rows[0].psnr_db < rows[1].psnr_db
        True
    """
    check_names("method", methods)
    check_names("image set", [image_set.name for image_set in sets])
    check_names("setting", [str(setting) for setting in settings])
    check_names("protocol", protocols)
    for name in protocols:
        get_protocol(name)  # an unknown one is an error now, not after the first image
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    sources = {(s.name, setting): source_of(s, setting) for s in sets for setting in settings}
    for name in dict.fromkeys(setting.codec for setting in settings):
        check_namesakes(require_codec(name), [(s.name, s.images) for s in sets])
    jobs = [
        (s, image, setting)
        for s in sets
        for image in s.images
        for setting in settings
        if sources[s.name, setting][0] is not None
    ]
    mine = list(enumerate(jobs))[rank::world]
    rows: list[dict[str, Any]] = []
    for index, (image_set, image, setting) in tqdm(
        mine, desc="evaluate", unit="image", disable=not progress, leave=False
    ):
        codec, _ = sources[image_set.name, setting]
        lq = compress_lr(image.lr, setting, cache, codec=codec, name=image.name)
        scores = None if journal is None else journal.find(image.gt, lq)
        if scores is None:
            scores = _score_image(methods, image, lq, protocols)
            if journal is not None:
                journal.add(image.gt, lq, scores)
        rows.append(
            {
                "index": index,
                "dataset": image_set.name,
                "name": image.name,
                "setting": list(setting),
                "scores": scores,
            }
        )
    if accelerator is not None and world > 1:
        rows = gather_scores(rows, accelerator)
    texts = {cell: text for cell, (_, text) in sources.items()}
    return _means(rows, methods, sets, settings, protocols, texts)


def source_of(image_set: EvalSet, setting: Setting) -> tuple[Codec | None, str]:
    """What codes the images of a set.

    Args:
        image_set: The set.
        setting: Codec and quality.

    Returns:
        The codec, and for reference codecs where their pictures come from. Where neither every
        image has a stored stream nor an encoder is here: None, and the reason.

    Raises:
        UnknownNameError: If there is no such codec.
        CodecError: If it is not available, or goes by names and two images have the same one.

    Example:
        >>> from ucip_adapt.data import load_eval_set
        >>> codec, text = source_of(load_eval_set("GB82-val", limit=1), Setting("webp", 10))
        >>> codec.spec.name, text
        ('webp', '')
    """
    codec = require_codec(setting.codec)
    check_image_names(codec, [image.name for image in image_set.images])
    if not isinstance(codec, StoredCodec):
        return codec, ""
    images = [image.lr for image in image_set.images]
    chosen = codec.for_images(images, setting.quality)
    if chosen is None:
        count = codec.count(images, setting.quality)
        return None, f"{count} of {len(images)} images have {codec.source}, and no encoder is here"
    return chosen, codec.source if isinstance(chosen, StoredCodec) else chosen.available().version


def check_names(kind: str, names: Iterable[str]) -> None:
    """Refuse nothing to measure, and two of one name, whose scores would run into one row.

    Args:
        kind: What is named, for the message.
        names: The names.

    Raises:
        ConfigError: If there is none, or one is there twice.

    Example:
        >>> check_names("image set", ["Set5", "Set14"])
    """
    counts = Counter(list(names))
    if not counts:
        raise ConfigError(f"no {kind} to measure")
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(f"{kind} '{twice[0]}' is named twice")


def _score_image(
    methods: dict[str, Upscale],
    image: EvalImage,
    lq: NDArray[np.uint8],
    protocols: Sequence[str],
) -> ImageScores:
    scores: ImageScores = {}
    for method, upscale in methods.items():
        sr = upscale(lq)
        scores[method] = {}
        for name in protocols:
            result = score(sr, image.gt, get_protocol(name))
            scores[method][name] = (result.psnr_db, result.ssim)
    return scores


def _means(
    rows: list[dict[str, Any]],
    methods: Iterable[str],
    sets: Sequence[EvalSet],
    settings: Sequence[Setting],
    protocols: Sequence[str],
    sources: dict[tuple[str, Setting], str],
) -> list[ScoreRow]:
    means = []
    for method in methods:
        for image_set in sets:
            for setting in settings:
                chosen = [
                    row
                    for row in rows
                    if row["dataset"] == image_set.name and tuple(row["setting"]) == tuple(setting)
                ]
                for protocol in protocols:
                    pairs = [row["scores"][method][protocol] for row in chosen]
                    psnrs = tuple(psnr for psnr, _ in pairs)
                    ssims = tuple(ssim for _, ssim in pairs)
                    means.append(
                        ScoreRow(
                            method=method,
                            dataset=image_set.name,
                            codec=setting.codec,
                            quality=setting.quality,
                            protocol=protocol,
                            psnr_db=fmean(psnrs) if psnrs else math.nan,
                            ssim=fmean(ssims) if ssims else math.nan,
                            images=len(chosen),
                            source=sources[image_set.name, setting],
                            names=tuple(row["name"] for row in chosen),
                            psnr_db_images=psnrs,
                            ssim_images=ssims,
                        )
                    )
    return means


def choose_window(
    network: UCIP,
    windows: Sequence[int],
    validation: EvalSet,
    settings: Sequence[Setting],
    *,
    cache: ArrayCache,
    accelerator: Accelerator | None = None,
) -> tuple[int | None, dict[str, float]]:
    """Find out how a base is best applied: to whole images, or in windows of a certain size.

    Args:
        network: The base.
        windows: Sides of windows to try, in LQ pixels.
        validation: Images to decide on; never test images.
        settings: Codecs and qualities the base was trained for.
        cache: Where compressed images are kept.
        accelerator: For several processes.

    Returns:
        The best side (None: the whole image), and the mean PSNR (y-c4) of each way in dB.

    Raises:
        ConfigError: If a window or a setting is named twice, or there is no setting.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ucip_adapt import UCIPConfig
        >>> gt = np.zeros((64, 64, 3), np.uint8)
        >>> black = EvalSet("black", (EvalImage("a", gt, gt[::4, ::4]),), "stored")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     side, scores = choose_window(
        ...         UCIP(UCIPConfig.preset("nano")), [8], black, [Setting("webp", 10)],
        ...         cache=ArrayCache(Path(folder)),
        ...     )
        >>> list(scores)
        ['whole', 'window 8']
    """
    device = next(network.parameters()).device
    sides: dict[str, int | None] = {"whole": None} | {f"window {side}": side for side in windows}
    methods = {
        way: network_upscaler(network.upscale, device, window=side) for way, side in sides.items()
    }
    rows = evaluate_sets(
        methods, [validation], settings, ["y-c4"], cache=cache, accelerator=accelerator
    )
    scores = {way: round(mean_psnr(rows, way), 4) for way in sides}
    return sides[max(scores, key=scores.__getitem__)], scores


def mean_psnr(rows: Iterable[ScoreRow], method: str, protocol: str = "y-c4") -> float:
    """Mean PSNR of a method over all its cells under a protocol.

    Args:
        rows: Scores.
        method: The method.
        protocol: Protocol id.

    Returns:
        The mean of the cells' means, in dB; cells count alike, whatever number of images they have,
        and those without a score not at all.

    Raises:
        ConfigError: If there is no such cell.

    Example:
        >>> rows = [ScoreRow("base", "Set5", "webp", q, "y-c4", 20.0 + q, 0.7, 5) for q in (1, 2)]
        >>> mean_psnr(rows, "base")
        21.5
    """
    values = [r.psnr_db for r in rows if r.method == method and r.protocol == protocol and r.images]
    if not values:
        raise ConfigError(f"no scores of '{method}' under protocol {protocol}")
    return fmean(values)


def summarise(rows: Sequence[ScoreRow], *, protocol: str = "y-c4", reference: str) -> str:
    """A plain-text table: one line per set and quality, PSNR by method, gain over a reference.

    Args:
        rows: Scores.
        protocol: The protocol to show; it is printed above the table.
        reference: The method that gains are counted from.

    Returns:
        Lines of text; the columns are the methods, the reference first. A dash stands where there
        is no score; the lines below the table say why, and where pictures were read from.

    Raises:
        ConfigError: If the reference has no scores under the protocol.

    Example:
        >>> from ucip_adapt.evaluation import ScoreRow
        >>> rows = [ScoreRow(m, "Set5", "webp", 10, "y-c4", p, 0.7, 5)
        ...         for m, p in (("bicubic", 25.0), ("base", 25.5))]
        >>> print(summarise(rows, reference="bicubic"))
        PSNR in dB, protocol y-c4, gain over bicubic in brackets
        set           quality     bicubic              base
        Set5          webp 10      25.000   25.500 (+0.500)
    """
    chosen = [row for row in rows if row.protocol == protocol]
    methods = list(dict.fromkeys(row.method for row in chosen))
    if reference not in methods:
        raise ConfigError(f"no scores of '{reference}' under protocol {protocol}")
    cells = {(r.dataset, r.codec, r.quality, r.method): r.psnr_db for r in chosen}
    order = [reference, *(method for method in methods if method != reference)]
    # A long name widens its column; it must not run into the next one.
    first = max(14, *(len(row.dataset) + 2 for row in chosen))
    second = max(10, *(len(f"{short_name(row.codec)} {row.quality}") + 2 for row in chosen))
    widths = [max(9 * (1 + bool(place)), len(m) + 2) for place, m in enumerate(order)]
    head = f"{'set':<{first}}{'quality':<{second}}"
    head += "".join(f"{method:>{width}}" for method, width in zip(order, widths, strict=True))
    lines = [f"PSNR in dB, protocol {protocol}, gain over {reference} in brackets", head]
    for dataset, codec, quality in dict.fromkeys((r.dataset, r.codec, r.quality) for r in chosen):
        start = cells[dataset, codec, quality, reference]
        line = f"{dataset:<{first}}{f'{short_name(codec)} {quality}':<{second}}"
        line += f"{_or_dash(start, '.3f'):>{widths[0]}}"
        for method, width in zip(order[1:], widths[1:], strict=True):
            value = cells[dataset, codec, quality, method]
            gain = f"{value:.3f} ({value - start:+.3f})"
            line += f"{'-' if math.isnan(value) else gain:>{width}}"
        lines.append(line)
    notes = dict.fromkeys(
        f"{row.codec} on {row.dataset}: {row.source}" for row in chosen if row.source
    )
    return "\n".join([*lines, *notes])


def _or_dash(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
