"""A finished cell that is made once more, elsewhere, and how far the two lie apart."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.compare import Finished, Place
from ucip_adapt.experiments.groups import trials_of
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.pictures import FILE
from ucip_adapt.experiments.statistics import Spread, spread
from ucip_adapt.experiments.tables import Table

__all__ = ["Repetition", "lay_out", "mean_psnr_of", "seeds_of", "signed"]


def mean_psnr_of(cell: Finished) -> float:
    """Mean PSNR in dB over the sets and qualities of a cell, on the codec that it was made for.

    Args:
        cell: The cell.

    Raises:
        DataError: If it was not measured on that codec.
    """
    own = _own_places(cell)
    if not own:
        raise DataError(f"cell {cell.id} has no scores on {cell.config['codec']}")
    return fmean(cell.mean(place) for place in own)


def _own_places(cell: Finished) -> list[Place]:
    return [place for place in cell.places if place.codec == cell.config["codec"]]


def signed(decibels: float) -> str:
    """A difference in dB with four decimals; one that rounds to nothing has no minus.

    Args:
        decibels: The difference.

    Example:
        >>> signed(-0.00001), signed(-0.0012)
        ('+0.0000', '-0.0012')
    """
    return f"{round(decibels, 4) + 0.0:+.4f}"


def seeds_of(cell: Finished, cells: Iterable[Finished]) -> list[Finished]:
    """Finished cells that differ from one in their seed alone, by seed; the cell is among them.

    Args:
        cell: The cell.
        cells: All finished ones.
    """
    # A seed that is in fewer groups is the same training: the list of groups does not count.
    apart = {"cell", "seed", "groups"}

    def rest(one: Finished) -> dict[str, Any]:
        return {key: value for key, value in one.config.items() if key not in apart}

    alike = [one for one in cells if rest(one) == rest(cell)]
    return sorted(alike, key=lambda one: one.seed or 0)


def lay_out(ledger: Ledger, cell: Cell, folder: Path) -> Ledger:
    """Make a folder of results in which one finished cell is missing, ready to be made.

    Args:
        ledger: The ledger in which it is finished.
        cell: The cell.
        folder: The new folder. It gets the cells that tried the cell's rate, and the checksums of
            the pictures.

    Returns:
        The same groups over the new folder.

    Raises:
        ConfigError: If the cell is not finished.
    """
    state = ledger.state(cell)
    if state.name != "finished":
        raise ConfigError(
            f"cell {cell.id} is not finished ({state.reason or state.name}): there is nothing to "
            "compare with; run_experiments.py makes it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    needed = [ledger.folder / FILE, *map(ledger.path, trials_of(cell, ledger.groups))]
    for path in needed:
        if path.is_file() and path.name != ledger.path(cell).name:
            shutil.copyfile(path, folder / path.name)
    return replace(ledger, folder=folder)


@dataclass(frozen=True)
class Repetition:
    """A cell that was made twice.

    Attributes:
        first: The finished cell.
        again: The same, made anew.
        seeds: What the finished seeds of this cell gave, as means in dB.
    """

    first: Finished
    again: Finished
    seeds: Spread

    @property
    def difference(self) -> float:
        """Mean PSNR of the second less that of the first, in dB."""
        return mean_psnr_of(self.again) - mean_psnr_of(self.first)

    @property
    def largest(self) -> float:
        """Largest difference of one image at one quality, in dB, without its sign."""
        return max(
            float(np.abs(self._images(self.again, place) - self._images(self.first, place)).max())
            for place in _own_places(self.first)
        )

    @staticmethod
    def _images(cell: Finished, place: Place) -> Any:  # noqa: ANN401  # NumPy's arithmetic
        return cell.places[place].values["psnr_db"]

    @property
    def same_weights(self) -> bool:
        """Whether what was trained is the same bit for bit."""
        return bool(self.first.record["files"] == self.again.record["files"])

    @property
    def within(self) -> bool | None:
        """Whether the means differ by no more than those of the seeds; None with one seed."""
        if self.seeds.count < 2:
            return None
        return abs(self.difference) <= self.seeds.high - self.seeds.low

    def verdict(self) -> str:
        """One line that says it."""
        parts = [
            f"{signed(self.difference)} dB as a mean, {self.largest:.4f} dB at most for one image"
        ]
        if self.first.record["files"]:
            parts.append(f"weights {'' if self.same_weights else 'not '}the same bit for bit")
        if self.within is None:
            parts.append("there is no other seed to say what to expect")
        else:
            span = f"{self.seeds.high - self.seeds.low:.4f} dB"
            parts.append(f"{'within' if self.within else 'more than'} the {span} between seeds")
        return "; ".join(parts)

    def table(self) -> Table:
        """Means of both by set and quality."""
        lines = []
        for place in _own_places(self.first):
            means = self.first.mean(place), self.again.mean(place)
            lines.append(
                (
                    place.dataset,
                    f"{place.codec} {place.quality}",
                    *(f"{mean:.4f}" for mean in means),
                    signed(means[1] - means[0]),
                )
            )
        header = ("set", "quality", "finished, dB", "again, dB", "difference")
        return Table(f"Again: {self.first.id}", header, tuple(lines))

    def scores(self) -> dict[str, Any]:
        """What a results file of kind ``repeat`` keeps under ``scores``."""
        first = self.first.record
        return {
            "finished": {
                "psnr_db": mean_psnr_of(self.first),
                "seconds": first["seconds"],
                "environment": first["environment"],
            },
            "again": {"psnr_db": mean_psnr_of(self.again)},
            "largest_difference_db": self.largest,
            "same_weights": self.same_weights,
            "seeds": {
                "count": self.seeds.count,
                "low_db": self.seeds.low,
                "high_db": self.seeds.high,
            },
        }

    @classmethod
    def of(cls, first: Finished, again: Finished, cells: Iterable[Finished]) -> Repetition:
        """Compare two files of one cell.

        Args:
            first: The finished one.
            again: The one that was made anew.
            cells: All finished cells, the first among them.

        Raises:
            DataError: If they are not of one cell, or were not measured at the same places.
        """
        if first.id != again.id or first.places.keys() != again.places.keys():
            raise DataError(f"{first.id} and {again.id} are not the same cell, measured alike")
        return cls(first, again, spread([mean_psnr_of(one) for one in seeds_of(first, cells)]))
