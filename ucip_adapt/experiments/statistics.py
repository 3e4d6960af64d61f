"""How far a difference of two methods can be trusted: bootstrap over images, spread over seeds.

Both methods have restored the same images, so what is resampled is the difference of each image:
images differ by many decibels from one another, methods by hundredths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ucip_adapt.errors import ConfigError

__all__ = ["Interval", "Spread", "Verdict", "bootstrap", "bootstrap_sets", "spread"]

Verdict = Literal["higher", "tie", "lower"]

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
_KEPT = 1_200_000  # largest table of draws that is kept: 10 MB


@dataclass(frozen=True)
class Interval:
    """A mean difference and where it could as well have come out with other images.

    Attributes:
        mean: The mean difference, in the unit of the differences (dB).
        low: Lower end of the interval.
        high: Upper end.
        images: Number of images it rests on.

    Example:
        >>> Interval(0.02, -0.01, 0.05, 14).verdict
        'tie'
    """

    mean: float
    low: float
    high: float
    images: int

    @property
    def verdict(self) -> Verdict:
        """``"tie"`` if the interval holds 0, its ends included; else which way it lies."""
        if self.low <= 0.0 <= self.high:
            return "tie"
        return "higher" if self.low > 0.0 else "lower"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Spread:
    """What several seeds gave.

    Attributes:
        mean: Mean over seeds.
        low: Smallest.
        high: Largest.
        sd: Sample standard deviation; None for a single seed.
        count: Number of seeds.

    Example:
        >>> spread([0.30, 0.34]).sd is None
        False
    """

    mean: float
    low: float
    high: float
    sd: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean over seeds and how far they lie apart.

    Args:
        values: One value per seed.

    Returns:
        Mean, smallest, largest, sample standard deviation, count.

    Raises:
        ConfigError: If there is no value.

    Example:
        >>> found = spread([1.0, 2.0, 3.0])
        >>> found.mean, found.low, found.high, found.sd
        (2.0, 1.0, 3.0, 1.0)
    """
    if not values:
        raise ConfigError("a spread needs at least one value")
    sd = stdev(values) if len(values) > 1 else None
    return Spread(fmean(values), min(values), max(values), sd, len(values))


def bootstrap(
    differences: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Percentile bootstrap of a mean difference over images.

    Args:
        differences: Method less reference of each image, shape ``(images,)``.
        level: Share of the resampled means that lies inside.
        resamples: How often the images are drawn anew, with replacement.
        seed: Of the draws; the same images give the same interval on every machine.

    Returns:
        The mean and the interval. One image alone gives an interval of no width.

    Raises:
        ConfigError: If there is no image, a value is not finite, or an option is out of range.

    Example:
        >>> print(bootstrap([0.1, 0.2, 0.3, 0.4, 0.5]))
        +0.300 [+0.180, +0.420]
    """
    return bootstrap_sets([differences], [1.0], level=level, resamples=resamples, seed=seed)


def bootstrap_sets(
    differences: Sequence[ArrayLike],
    weights: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Bootstrap of a weighted mean over image sets; images are drawn within their set.

    Args:
        differences: Per set, method less reference of each image. Where a mean over qualities is
            asked for, the mean over qualities of each image: a drawn image brings all of them.
        weights: Weight of each set's mean, such as its number of table cells; scaled to sum to 1.
        level: As in :func:`bootstrap`.
        resamples: As in :func:`bootstrap`.
        seed: As in :func:`bootstrap`.

    Returns:
        The weighted mean of the sets' means, and its interval.

    Raises:
        ConfigError: As :func:`bootstrap`; also if there is not one positive weight for each set.

    Example:
        >>> found = bootstrap_sets([[0.1, 0.1], [0.4]], [3, 1])
        >>> round(found.mean, 3), found.images
        (0.175, 3)
    """
    sets = [np.asarray(values, dtype=np.float64) for values in differences]
    if not sets or any(values.ndim != 1 or not values.size for values in sets):
        raise ConfigError("a bootstrap needs the differences of at least one image in every set")
    if not all(np.isfinite(values).all() for values in sets):
        raise ConfigError("a bootstrap needs finite differences: leave out what was not measured")
    if len(weights) != len(sets) or min(weights) <= 0:
        raise ConfigError(f"{len(sets)} sets need as many positive weights, not {list(weights)}")
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(f"level={level}, resamples={resamples}: want 0 to 1, and at least 1")
    contents = tuple(values.tobytes() for values in sets)
    return _interval(contents, tuple(map(float, weights)), level, resamples, seed)


# A page shows the same difference in several tables.
@functools.lru_cache(maxsize=4096)
def _interval(
    contents: tuple[bytes, ...],
    weights: tuple[float, ...],
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    sets = [np.frombuffer(content, dtype=np.float64) for content in contents]
    share = np.asarray(weights) / sum(weights)
    means = np.zeros(resamples)
    for index, (weight, values) in enumerate(zip(share, sets, strict=True)):
        means += weight * _resampled_means(values, resamples, (seed, index))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(sum(w * values.mean() for w, values in zip(share, sets, strict=True)))
    return Interval(mean, float(low), float(high), sum(values.size for values in sets))


def _resampled_means(
    values: NDArray[np.float64], resamples: int, seeds: tuple[int, int]
) -> NDArray[np.float64]:
    if values.size * resamples <= _KEPT:
        kept: NDArray[np.float64] = _kept_draws(values.size, resamples, seeds) @ values
        return kept
    source = np.random.PCG64(list(seeds))
    step = max(1, _KEPT // values.size)
    return np.concatenate(
        [
            _draws(values.size, min(step, resamples - start), source) @ values
            for start in range(0, resamples, step)
        ]
    )


@functools.lru_cache(maxsize=16)
def _kept_draws(images: int, resamples: int, seeds: tuple[int, int]) -> NDArray[np.float64]:
    """A page of tables asks for hundreds of intervals over the same few numbers of images."""
    return _draws(images, resamples, np.random.PCG64(list(seeds)))


def _draws(images: int, resamples: int, source: np.random.PCG64) -> NDArray[np.float64]:
    """Weight of every image in every resampled mean, ``resamples x images``."""
    # Only the raw stream of a bit generator stays the same from one NumPy to the next. The
    # remainder of 64 bits favours no image by more than one part in 10^17.
    raw = source.random_raw(resamples * images).reshape(resamples, images) % np.uint64(images)
    drawn = raw.astype(np.intp) + images * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * images)
    return counts.reshape(resamples, images) / images
