"""Find pictures of test sets in training sets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.leaks.align import Alignment, align, overlap_images, overlap_shares
from ucip_adapt.leaks.pictures import Picture
from ucip_adapt.leaks.windows import Squares, templates_of, windows_of

__all__ = ["CANDIDATE", "HASH_BITS", "THRESHOLD", "Kind", "Leak", "LeakReport", "find_leaks"]

CANDIDATE = 0.82
"""Correlation of two squares from which on the two pictures are compared closely."""

THRESHOLD = 0.6
"""Correlation of the aligned fine structure from which on a pair may be a leak."""

HASH_BITS = 80
"""Bits of 256 up to which the perceptual hashes of the overlaps may differ in a leak.

Either alone is wrong at times: among 139,668 pairs of unrelated pictures three reached 0.6, with 92
bits and more; of 78 planted copies the worst had 0.69 and 76 bits.
"""

Kind = Literal["equal", "resized", "cropped"]

# Both show at least this part of the other: nothing was cut away, edges may be off by a pixel.
_WHOLE = 0.93


@dataclass(frozen=True)
class Leak:
    """One picture that is in both lists.

    Attributes:
        train: Name of the training picture.
        test: Name of the test picture.
        kind: ``"equal"`` pixel for pixel, ``"resized"`` (the whole picture), or ``"cropped"``.
        mirrored: Whether one is the mirror image of the other.
        correlation: Of the fine structure where they overlap, 0.6 to 1.
        hash_distance: Perceptual hashes (imagehash.phash) of the two overlaps: bits of 256 that
            differ, 0 to 80; about 128 for unrelated pictures.
        zoom: Pixels of the training picture per pixel of the test picture.
        train_share: Part of the training picture's area that the test picture shows, 0 to 1.
        test_share: Part of the test picture's area that the training picture shows, 0 to 1.
    """

    train: str
    test: str
    kind: Kind
    mirrored: bool
    correlation: float
    hash_distance: int
    zoom: float
    train_share: float
    test_share: float


@dataclass(frozen=True)
class LeakReport:
    """What a search found.

    Attributes:
        leaks: Pairs found, by name of the test picture.
        nearest_other: Of the other pairs the one of the highest correlation, or None if none was
            compared closely: how far from a false alarm the sets are.
        compared: Number of pairs of pictures.
        compared_closely: Number of pairs that were aligned.
        cpu_seconds: Processor time of the search, without reading the files.
    """

    leaks: tuple[Leak, ...]
    nearest_other: Leak | None
    compared: int
    compared_closely: int
    cpu_seconds: float


@dataclass(frozen=True)
class _Candidate:
    """Two nearly equal squares: a window of one picture and a template of another."""

    correlation: float
    window: tuple[float, float, float]
    template: tuple[float, float, float]
    mirrored: bool
    window_in_train: bool


def find_leaks(
    train: Sequence[Picture],
    test: Sequence[Picture],
    *,
    threshold: float = THRESHOLD,
    progress: bool = False,
) -> LeakReport:
    """Find pictures of ``test`` in ``train``, whole or in part, resized, mirrored.

    Every picture is cut into squares of many sizes, all squares of one list are compared with those
    of the other by a matrix product, and pairs with nearly equal squares are laid over each other.

    Args:
        train: Training pictures.
        test: Test pictures.
        threshold: Correlation of the aligned fine structure from which on a pair is reported, if
            the perceptual hashes agree.
        progress: Whether to show a bar.

    Returns:
        The pairs found, and the nearest pair that is none.

    Raises:
        ConfigError: If the threshold is not between 0 and 1.
        DataError: If a list is empty or imagehash is not installed.

    Example:
        >>> from ucip_adapt.assets import image_folder
        >>> from ucip_adapt.data import read_rgb
        >>> from ucip_adapt.leaks.pictures import make_picture
        >>> dog = read_rgb(image_folder("validation") / "dog.webp")
        >>> part = dog[100:500, 80:480][:, ::-1]  # cropped and mirrored
        >>> report = find_leaks([make_picture("part", part)], [make_picture("dog", dog)])
        >>> [(leak.test, leak.train, leak.kind, leak.mirrored) for leak in report.leaks]
        [('dog', 'part', 'cropped', True)]
    """
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"threshold {threshold} is not between 0 and 1")
    if not train or not test:
        raise DataError("nothing to compare: there is no readable picture in one of the lists")
    require_imagehash()
    started = time.process_time()
    candidates = _candidates(train, test, progress=progress)
    found = [
        _compare(train[i], test[j], candidate)
        for (i, j), candidate in tqdm(
            sorted(candidates.items()), desc="align", unit="pair", disable=not progress, leave=False
        )
    ]
    pairs = [leak for leak in found if leak is not None]
    equal = {(leak.train, leak.test) for leak in pairs if leak.kind == "equal"}
    # Pictures without any detail have no squares; equal ones are found all the same.
    pairs += [leak for leak in _equal_pairs(train, test) if (leak.train, leak.test) not in equal]
    leaks = [leak for leak in pairs if _is_leak(leak, threshold)]
    others = [leak for leak in pairs if not _is_leak(leak, threshold)]
    return LeakReport(
        leaks=tuple(sorted(leaks, key=lambda leak: (leak.test, leak.train))),
        nearest_other=max(others, key=lambda leak: leak.correlation, default=None),
        compared=len(train) * len(test),
        compared_closely=len(candidates),
        cpu_seconds=time.process_time() - started,
    )


def _is_leak(pair: Leak, threshold: float) -> bool:
    alike = pair.correlation >= threshold and pair.hash_distance <= HASH_BITS
    return alike or pair.kind == "equal"


def require_imagehash() -> None:
    """Say how to get imagehash where it is missing.

    Raises:
        DataError: With the line that installs it.
    """
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"the leak check needs imagehash, and {error}; pip install 'ucip-adapt[leaks]'"
        ) from error


def _candidates(
    train: Sequence[Picture], test: Sequence[Picture], *, progress: bool
) -> dict[tuple[int, int], _Candidate]:
    """Best pair of squares of each pair of pictures, where it reaches :data:`CANDIDATE`."""
    best: dict[tuple[int, int], _Candidate] = {}
    # Both ways round: either picture may be a part of the other.
    for holders, seekers, window_in_train in ((train, test, True), (test, train, False)):
        templates = [templates_of(seeker.grey) for seeker in seekers]
        owner = torch.cat([torch.full((len(t.values),), k) for k, t in enumerate(templates)])
        joined = Squares(
            torch.cat([t.values for t in templates]),
            torch.cat([t.places for t in templates]),
            torch.cat([t.mirrored for t in templates]),
        )
        bar = tqdm(holders, desc="compare", unit="picture", disable=not progress, leave=False)
        for h, holder in enumerate(bar):
            for s, candidate in _best_squares(holder.grey, joined, owner, window_in_train):
                pair = (h, s) if window_in_train else (s, h)
                if pair not in best or candidate.correlation > best[pair].correlation:
                    best[pair] = candidate
    return best


def _best_squares(
    grey: Image.Image, templates: Squares, owner: torch.Tensor, window_in_train: bool
) -> list[tuple[int, _Candidate]]:
    """Templates that are nearly equal to a window of a picture, the best of each owner last."""
    windows = windows_of(grey)
    if not len(windows.values) or not len(templates.values):
        return []
    correlations, which = (windows.values @ templates.values.T).max(dim=0)  # one per template
    near = (correlations >= CANDIDATE).nonzero().flatten()
    near = near[correlations[near].argsort()]
    found = {}
    for t in near.tolist():
        left, top, side = windows.places[which[t]].tolist()
        x, y, part = templates.places[t].tolist()
        found[int(owner[t])] = _Candidate(
            float(correlations[t]),
            (left, top, side),
            (x, y, part),
            bool(templates.mirrored[t]),
            window_in_train,
        )
    return list(found.items())


def _compare(train: Picture, test: Picture, candidate: _Candidate) -> Leak | None:
    """Align two pictures, starting where their squares agree."""
    holder, seeker = (train, test) if candidate.window_in_train else (test, train)
    second = ImageOps.mirror(seeker.grey) if candidate.mirrored else seeker.grey
    left, top, side = candidate.window
    x, y, part = candidate.template
    if candidate.mirrored:
        x = second.width - x - part
    zoom = side / part
    start = Alignment(zoom, left - zoom * x, top - zoom * y, candidate.correlation)
    found = align(holder.grey, second, start)
    pair = overlap_images(holder.grey, second, found)
    if pair is None:
        return None
    shares = overlap_shares(holder.grey, second, found)
    in_original = found.zoom * holder.shrink / seeker.shrink
    equal = train.pixels_sha256 == test.pixels_sha256
    kind: Kind = "equal" if equal else "resized" if min(shares) >= _WHOLE else "cropped"
    return Leak(
        train=train.name,
        test=test.name,
        kind=kind,
        mirrored=candidate.mirrored and not equal,
        correlation=round(1.0 if equal else found.correlation, 4),
        hash_distance=_hash_distance(*pair),
        zoom=round(in_original if candidate.window_in_train else 1 / in_original, 4),
        train_share=round(shares[0 if candidate.window_in_train else 1], 3),
        test_share=round(shares[1 if candidate.window_in_train else 0], 3),
    )


def _hash_distance(first: Image.Image, second: Image.Image) -> int:
    import imagehash  # it imports SciPy, which takes a second

    hashes = [imagehash.phash(image.convert("L"), hash_size=16) for image in (first, second)]
    return int(hashes[0] - hashes[1])


def _equal_pairs(train: Sequence[Picture], test: Sequence[Picture]) -> list[Leak]:
    by_pixels: dict[str, list[str]] = {}
    for picture in train:
        by_pixels.setdefault(picture.pixels_sha256, []).append(picture.name)
    return [
        Leak(name, picture.name, "equal", False, 1.0, 0, 1.0, 1.0, 1.0)
        for picture in test
        for name in by_pixels.get(picture.pixels_sha256, [])
    ]
