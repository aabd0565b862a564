"""Score files: the propagated scores of one photo, for any alpha, as `NAME.npz`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, UsageError
from pixaff.io.atomic import atomic_path
from pixaff.io.npz_arrays import read_arrays

CELLS = (8, 4)
"""Sides of a cell in pixels: of the walks psa and both, and of the walk irn."""
_NAMES = ("classes", "scores", "powers", "background", "alpha", "walked_size", "size")
_HINT = "expected the scores of pixaff propagate --save-scores; for CAMs give --cams"
_TOLERANCE = 1e-3  # what an approximate walk may lead above 1 or below 0


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """The propagated scores of one photo, on the grid of cells of the walk, 8 x 8 or 4 x 4 pixels.

    Attributes:
        classes: int64 (C,), mask values 1..254, none twice; C is 0 for a photo that shows no class.
        scores: float32 (C, h, w), in 0..1: the propagated scores of the classes, which do not depend on alpha.
        powers: float64 (K,), ascending: alphas for which the background was propagated.
        background: float32 (K, h, w), in 0..1: the propagated background at each of them. That at any alpha between the
            first and the last follows from these; see `pixaff.ops.powers`.
        alpha: Alpha of the masks that the run wrote, within the range of ``powers``.
        walked_size: (H, W) in pixels at which the photo was walked; h and w are an eighth or a fourth of it, rounded
            up.
        size: (H, W) of the photo.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    powers: NDArray[np.float64]
    background: NDArray[np.float32]
    alpha: float
    walked_size: tuple[int, int]
    size: tuple[int, int]

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        grid = self.scores.shape[1:]
        return next((cell for cell in CELLS if grid == _grid(self.walked_size, cell)), CELLS[0])


def check_saved(alphas: Iterable[float], lowest: float, highest: float) -> None:
    """Refuse alphas outside the range of saved scores.

    Raises:
        UsageError: One is outside the range.
    """
    for alpha in alphas:
        if not lowest <= alpha <= highest:
            raise UsageError(f"alpha is {alpha:g}, expected {lowest:g} to {highest:g}, the range of saved scores")


def read_scores(path: str | os.PathLike[str]) -> ScoreFile:
    """Read and check a score file; nothing in it is ever unpickled.

    Raises:
        FormatError: Missing, truncated, no such archive, or an array that is absent, of a wrong type or shape, not
            finite, or out of range.
    """
    classes, scores, powers, background, alpha, walked_size, size = read_arrays(
        path, _NAMES, _HINT, "pixaff propagate --save-scores"
    )
    try:
        _expect(classes.dtype.kind in "iu" and classes.ndim == 1, "classes", classes, "integers (C,)")
        _expect(powers.dtype.kind == "f" and powers.ndim == 1, "powers", powers, "floats (K,)")
        for name, array, many in (("scores", scores, classes), ("background", background, powers)):
            fits = array.dtype.kind == "f" and array.ndim == 3 and len(array) == len(many)
            _expect(fits, name, array, f"floats ({many.size}, h, w)")
        _expect(alpha.dtype.kind == "f" and alpha.shape == (), "alpha", alpha, "a number")
        for name, array in (("walked_size", walked_size), ("size", size)):
            _expect(array.dtype.kind in "iu" and array.shape == (2,), name, array, "two integers H, W")
        file = ScoreFile(
            classes.astype(np.int64),
            scores.astype(np.float32),
            powers.astype(np.float64),
            background.astype(np.float32),
            float(alpha),
            (int(walked_size[0]), int(walked_size[1])),
            (int(size[0]), int(size[1])),
        )
        _check(file)
    except ValueError as error:
        raise FormatError(f"{path}: {error}", _HINT) from None
    return replace(file, scores=file.scores.clip(0, 1), background=file.background.clip(0, 1))


def write_scores(path: str | os.PathLike[str], file: ScoreFile) -> None:
    """Write a score file, compressed, atomically. Scores are stored as float16: some 200 KB for a photo of 500 x 375
    in the walk irn, 50 KB in the others.

    Raises:
        ValueError: What `read_scores` would refuse.
        OutputError: The file cannot be written.
    """
    _check(file)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream,
            classes=file.classes,
            scores=file.scores.clip(0, 1).astype(np.float16),
            powers=file.powers,
            background=file.background.clip(0, 1).astype(np.float16),
            alpha=np.float64(file.alpha),
            walked_size=np.array(file.walked_size, np.int64),
            size=np.array(file.size, np.int64),
        )


def _check(file: ScoreFile) -> None:
    """Raise a ValueError that says found against expected where arrays do not fit or are out of range."""
    values = file.classes.tolist()
    if values and (min(values) < 1 or max(values) > 254 or len(set(values)) != len(values)):
        raise ValueError(f"classes: found {values}, expected mask values 1..254, every one once")
    powers = file.powers
    if len(powers) < 2 or not (powers[0] > 0 and np.isfinite(powers[-1]) and np.all(np.diff(powers) > 0)):
        raise ValueError(f"powers: found {powers.tolist()}, expected two or more above 0, ascending")
    if not powers[0] <= file.alpha <= powers[-1]:
        raise ValueError(f"alpha: found {file.alpha:g}, expected {powers[0]:g}..{powers[-1]:g}")
    if min(*file.size, *file.walked_size) < 1:
        raise ValueError(f"found the sizes {file.walked_size} and {file.size}, expected positive H, W")
    grid = _grid(file.walked_size, file.cell)
    for name, array in (("scores", file.scores), ("background", file.background)):
        if array.shape[1:] != grid:
            raise ValueError(f"{name}: found the grid {array.shape[1:]}, expected {grid} for {file.walked_size} pixels")
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)  # NaN if any is
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise ValueError(f"{name}: found values {low:.4g}..{high:.4g}, expected 0..1")


def _grid(size: tuple[int, int], cell: int) -> tuple[int, ...]:
    return tuple(-(-side // cell) for side in size)


def _expect(holds: bool, name: str, array: NDArray[Any], expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: found {array.dtype} {array.shape}, expected {expected}")
