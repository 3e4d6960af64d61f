"""PSNR and SSIM as metrics of the `evaluate` library; they load from this package, without network.

The configuration name is the protocol (:data:`~ucip_adapt.metrics.protocols.PROTOCOLS`)::

    metric = UcipPsnr("y-c4")
    metric.add(prediction=sr_u8, reference=gt_u8)
    metric.compute()  # {'psnr_db': ..., 'num_images': 1, 'protocol': 'y-c4'}

Several processes gather through files, as in every `evaluate` metric: give each instance
``num_process``, its ``process_id``, one ``experiment_id`` and a ``cache_dir`` that all of them see;
every process must add at least one image, and ``compute`` returns the scores on process 0 and
``None`` elsewhere. Images that a data loader repeats to fill its last batch count as often as they
are added; :func:`~ucip_adapt.metrics.gather.gather_scores` is the way without duplicates.

This module is not imported by the package: `evaluate` takes seconds to import.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import datasets
import evaluate
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ucip_adapt.metrics.protocols import Scores, get_protocol, score

__all__ = ["ImageLike", "UcipPsnr", "UcipSsim"]

ImageLike: TypeAlias = NDArray[np.uint8] | PIL.Image.Image
"""One 8-bit RGB image: an array of shape (H, W, 3) or a Pillow image."""

_CITATION = """\
@article{wang2004ssim,
  title = {Image quality assessment: from error visibility to structural similarity},
  author = {Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
  journal = {IEEE Transactions on Image Processing}, volume = {13}, number = {4}, year = {2004}
}
"""

_INPUTS = """
Args:
    predictions: Restored images, RGB, each of shape (H, W, 3), uint8; sizes may differ.
    references: Ground truth, one image of the same size for each prediction.
"""


class _ImageMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no type information
    """What both metrics share: images in, the mean of one score out."""

    def _info(self) -> evaluate.MetricInfo:
        protocol = get_protocol(self.config_name)
        # Images of any size in one column, as PNG: lossless, and decoded one pair at a time.
        image = datasets.Image(decode=False)
        return evaluate.MetricInfo(
            description=f"Mean PSNR or SSIM over 8-bit images, {protocol}.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def add(
        self,
        *,
        prediction: ImageLike | None = None,
        reference: ImageLike | None = None,
        predictions: ImageLike | None = None,
        references: ImageLike | None = None,
    ) -> None:
        """Add one pair of images; the plural names are what ``evaluate.combine`` passes."""
        prediction = predictions if prediction is None else prediction
        reference = references if reference is None else reference
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(
        self,
        *,
        predictions: Iterable[ImageLike | None] | None = None,
        references: Iterable[ImageLike | None] | None = None,
    ) -> None:
        """Add several pairs of images, as a list or as an array of shape (B, H, W, 3)."""
        if predictions is None or references is None:
            raise ValueError("predictions and references are needed together")
        predictions, references = list(predictions), list(references)
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions do not match {len(references)} references"
            )
        super().add_batch(
            predictions=[_to_png(image, "prediction") for image in predictions],
            references=[_to_png(image, "reference") for image in references],
        )

    def _score_all(
        self, predictions: list[Mapping[str, Any]], references: list[Mapping[str, Any]]
    ) -> list[Scores]:
        protocol = get_protocol(self.config_name)
        pairs = zip(predictions, references, strict=True)
        return [score(_from_png(p), _from_png(r), protocol) for p, r in pairs]


class UcipPsnr(_ImageMetric):
    """Mean PSNR over images, in dB, as an `evaluate` metric.

    The mean is taken over the PSNR of single images, as in published tables. Arguments are those of
    ``evaluate.Metric``; the first, ``config_name``, is the protocol and has no default.

    Raises:
        UnknownNameError: If ``config_name`` is no protocol; the message lists the known ones.

    Example:
        >>> black = np.zeros((20, 20, 3), dtype=np.uint8)
        >>> metric = UcipPsnr("rgb-c0", keep_in_memory=True)
        >>> result = metric.compute(predictions=[black + np.uint8(255)], references=[black])
        >>> result == {"psnr_db": 0.0, "num_images": 1, "protocol": "rgb-c0"}
        True
    """

    def _compute(
        self, predictions: list[Mapping[str, Any]], references: list[Mapping[str, Any]]
    ) -> dict[str, Any]:
        scores = self._score_all(predictions, references)
        return _summary("psnr_db", [row.psnr_db for row in scores], self.config_name)


class UcipSsim(_ImageMetric):
    """Mean SSIM over images as an `evaluate` metric.

    Arguments are those of ``evaluate.Metric``; the first, ``config_name``, is the protocol and has
    no default.

    Raises:
        UnknownNameError: If ``config_name`` is no protocol; the message lists the known ones.

    Example:
        >>> image = np.arange(1200).astype(np.uint8).reshape(20, 20, 3)
        >>> metric = UcipSsim("y-c4", keep_in_memory=True)
        >>> round(metric.compute(predictions=[image], references=[image])["ssim"], 9)
        1.0
    """

    def _compute(
        self, predictions: list[Mapping[str, Any]], references: list[Mapping[str, Any]]
    ) -> dict[str, Any]:
        scores = self._score_all(predictions, references)
        return _summary("ssim", [row.ssim for row in scores], self.config_name)


def _summary(name: str, values: list[float], protocol: str) -> dict[str, Any]:
    if not values:
        raise ValueError("there are no images to compare: add predictions and references first")
    # fsum rounds once, so that the mean does not depend on which process held which image.
    mean = math.fsum(values) / len(values)
    return {name: mean, "num_images": len(values), "protocol": protocol}


def _to_png(image: ImageLike | None, name: str) -> dict[str, Any]:
    """Check one image and pack it; other dtypes would be cast silently further down."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"a {name} must be RGB of shape (H, W, 3) and dtype uint8, "
            f"not {pixels.shape} and {pixels.dtype}"
        )
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}


def _from_png(packed: Mapping[str, Any]) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(packed["bytes"]), formats=("PNG",)) as image:
        return np.asarray(image)
