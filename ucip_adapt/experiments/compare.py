"""Finished cells as scores by image, and the paired difference of two methods.

A *cell* of the ledger is one finished run. A *place* is one cell of Table 3: a codec at one quality
on one image set. A run fills all places of its codec at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import DataError
from ucip_adapt.experiments.statistics import Interval, Spread, bootstrap, bootstrap_sets, spread
from ucip_adapt.training.results import read_results

__all__ = ["UNTRAINED", "Difference", "Finished", "Place", "difference", "read_cells"]

UNTRAINED = ("bicubic", "base")
"""Methods that nothing is trained for: they have no seed, and every seed is compared with them."""

_PROTOCOL = "y-c4"


class Place(NamedTuple):
    """A cell of Table 3: the codec, the image set and the quality."""

    codec: str
    dataset: str
    quality: int


class _Images(NamedTuple):
    names: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Finished:
    """One finished cell of the ledger.

    Attributes:
        record: What its file holds.
        config: Its specification, flat.
        places: Names and scores of the images of every place it was measured at.
    """

    record: Mapping[str, Any]
    config: Mapping[str, Any]
    places: Mapping[Place, _Images]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Finished:
        """Take the scores of the cell's own method out of its file's content.

        Args:
            record: A results file of kind ``"cell"``.

        Raises:
            DataError: If it is none, or a row lacks the scores of its images.

        Example:
            >>> row = {"method": "base", "dataset": "Set5", "codec": "webp", "quality": 10,
            ...        "protocol": "y-c4", "names": ["a", "b"], "psnr_db_images": [25.0, 27.0],
            ...        "ssim_images": [0.7, 0.8]}
            >>> config = {"cell": "base-webp", "method": "base"}
            >>> record = {"kind": "cell", "config": config, "scores": {"rows": [row]}}
            >>> Finished.from_record(record).mean(Place("webp", "Set5", 10))
            26.0
        """
        config = record.get("config", {})
        if record.get("kind") != "cell" or "method" not in config:
            raise DataError(f"a results file of kind {record.get('kind')} is no cell of the ledger")
        own = config["method"] if config["method"] in UNTRAINED else "tuned"
        places = {}
        for row in record["scores"]["rows"]:
            if row["method"] != own or row["protocol"] != _PROTOCOL or not row.get("names"):
                continue
            places[Place(row["codec"], row["dataset"], row["quality"])] = _Images(
                tuple(row["names"]),
                {
                    metric: np.asarray(row[f"{metric}_images"], dtype=np.float64)
                    for metric in ("psnr_db", "ssim")
                },
            )
        return cls(record, config, places)

    @property
    def id(self) -> str:
        """Its name in the ledger."""
        return str(self.config["cell"])

    @property
    def seed(self) -> int | None:
        """Its seed; None where nothing is trained."""
        return None if self.config["method"] in UNTRAINED else int(self.config["seed"])

    @property
    def validation_gain_db(self) -> float | None:
        """Gain over the base on the validation images, the only thing rates are chosen by."""
        value = self.record["scores"].get("validation_gain_db")
        return None if value is None else float(value)

    def mean(self, place: Place, metric: str = "psnr_db") -> float:
        """Mean over the images of a place.

        Args:
            place: Where.
            metric: ``"psnr_db"`` or ``"ssim"``.

        Raises:
            KeyError: If it was not measured there.
        """
        return float(self.places[place].values[metric].mean())


def read_cells(folder: Path) -> list[Finished]:
    """Read every finished cell.

    Args:
        folder: Such as ``results/cells``; one that does not exist holds no cell.

    Returns:
        The cells by file name.

    Raises:
        DataError: If a file is no cell.
        ResultsError: If a file cannot be read.

    Example:
        >>> read_cells(Path("no/such/folder"))
        []
    """
    return [Finished.from_record(read_results(path)) for path in sorted(folder.glob("*.json"))]


@dataclass(frozen=True)
class Difference:
    """A method less a reference at the places where both were measured.

    Attributes:
        images: Difference of each image, mean over seeds, by place.
        overall: Mean over places, and its interval: images are drawn within their set.
        seeds: That mean for each seed by itself.
        ssim: Mean difference in SSIM.
        asked: Number of places that were asked for; those not measured are holes.
    """

    images: Mapping[Place, NDArray[np.float64]]
    overall: Interval
    seeds: Spread
    ssim: float
    asked: int

    @functools.cached_property
    def places(self) -> dict[Place, Interval]:
        """Mean difference of each place and its interval over images."""
        return {place: bootstrap(values) for place, values in self.images.items()}

    def count(self, verdict: str) -> int:
        """Number of places where the interval lies above 0, holds it, or lies below.

        Args:
            verdict: ``"higher"``, ``"tie"`` or ``"lower"``.
        """
        return sum(found.verdict == verdict for found in self.places.values())

    @property
    def at_least(self) -> int:
        """Number of places whose mean difference is not below 0, whatever the interval."""
        return sum(found.mean >= 0 for found in self.places.values())


def difference(
    ours: Iterable[Finished], reference: Iterable[Finished], places: Sequence[Place]
) -> Difference | None:
    """Compare two methods image by image, seed by seed.

    Args:
        ours: Cells of the method, one per seed.
        reference: Cells of the other. If something is trained in both, only seeds that both have
            count: data order and crops are then the same.
        places: Where to compare.

    Returns:
        The difference; None if there is no common seed or place.

    Raises:
        DataError: If the images of a place differ, or one seed is there twice.
    """
    pairs = _pair(_by_seed(ours), _by_seed(reference))
    shared = [
        place for place in places if all(place in a.places and place in b.places for a, b in pairs)
    ]
    if not pairs or not shared:
        return None
    psnr = {place: [_subtract(a, b, place, "psnr_db") for a, b in pairs] for place in shared}
    means = {place: np.mean(by_seed, axis=0) for place, by_seed in psnr.items()}
    datasets = list(dict.fromkeys(place.dataset for place in shared))
    by_set = [_by_image(means, pairs[0][0], dataset) for dataset in datasets]
    weights = [sum(place.dataset == dataset for place in shared) for dataset in datasets]
    return Difference(
        images=means,
        overall=bootstrap_sets(by_set, weights),
        seeds=spread([fmean(float(psnr[p][k].mean()) for p in shared) for k in range(len(pairs))]),
        ssim=fmean(
            float(_subtract(a, b, place, "ssim").mean()) for place in shared for a, b in pairs
        ),
        asked=len(places),
    )


def _by_seed(cells: Iterable[Finished]) -> dict[int | None, Finished]:
    found: dict[int | None, Finished] = {}
    for cell in cells:
        if cell.seed in found:
            raise DataError(f"cells {found[cell.seed].id} and {cell.id} are the same run")
        found[cell.seed] = cell
    return found


def _pair(
    ours: Mapping[int | None, Finished], reference: Mapping[int | None, Finished]
) -> list[tuple[Finished, Finished]]:
    if None in reference:
        return [(cell, reference[None]) for _, cell in sorted(ours.items(), key=str)]
    return [
        (ours[seed], reference[seed]) for seed in sorted(ours.keys() & reference.keys(), key=str)
    ]


def _subtract(a: Finished, b: Finished, place: Place, metric: str) -> NDArray[np.float64]:
    mine, other = a.places[place], b.places[place]
    if mine.names != other.names:
        raise DataError(f"{a.id} and {b.id} were not measured on the same images of {place}")
    result: NDArray[np.float64] = mine.values[metric] - other.values[metric]
    return result


def _by_image(
    means: Mapping[Place, NDArray[np.float64]], cell: Finished, dataset: str
) -> NDArray[np.float64]:
    """Mean over the qualities of each image of a set: a drawn image brings all of them."""
    own = [place for place in means if place.dataset == dataset]
    if len({cell.places[place].names for place in own}) > 1:
        raise DataError(f"{cell.id}: {dataset} has other images at another quality")
    result: NDArray[np.float64] = np.mean([means[place] for place in own], axis=0)
    return result
