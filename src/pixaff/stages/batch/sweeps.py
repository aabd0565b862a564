"""Checks of a sweep over saved scores; without torch, whose import takes longer than a small evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import read_cams
from pixaff.io.scores import check_saved, read_scores

FOLDER = "scores"
"""The folder of scores that `pixaff.propagate` writes, in the folder of the masks."""


def swept_powers(sweep: Mapping[str, Sequence[float]] | None, cams: bool) -> tuple[float, ...]:
    """The alphas to try.

    Raises:
        UsageError: Something else is to be swept, or the predictions are CAMs.
    """
    if sweep is None:
        return ()
    if cams:
        raise UsageError("--sweep takes propagated scores, found --cams", "CAMs take --alpha or --threshold")
    if set(sweep) != {"alpha"} or not sweep["alpha"]:
        raise UsageError(
            f"--sweep: found {', '.join(sweep) or 'nothing'}, expected alpha=FROM:TO:STEP",
            "beta, radius, steps and borders change the walk: run propagate once for each",
        )
    return tuple(sweep["alpha"])


def holds_scores(folder: Path, recursive: bool = False) -> bool:
    """Whether a folder of predictions contains scores or CAMs, and no mask."""
    inside = "**/" * recursive
    return any(folder.glob(f"{inside}*.npz")) and not any(folder.glob(f"{inside}*.png"))


def check_first(path: Path, alphas: Sequence[float]) -> None:
    """Check the first of many files, so that a mistake that concerns all of them is reported once.

    Raises:
        UsageError: It contains CAMs, or an alpha is outside its range.
    """
    try:
        file = read_scores(path)
    except FormatError as error:
        try:
            read_cams(path)
        except FormatError:
            return  # a damaged file, which is reported later
        raise UsageError(
            f"{path.parent} contains CAMs, expected propagated scores",
            "give CAMs with --cams; propagate --save-scores writes scores",
        ) from error
    check_saved(alphas, file.powers[0], file.powers[-1])
