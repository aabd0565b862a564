"""What a sweep may ask of saved scores; without torch, whose import takes longer than a small evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import read_cams
from pixaff.io.scores import check_saved, read_scores

FOLDER = "scores"
"""Where `pixaff.propagate` puts them, in the folder of the masks."""


def swept_powers(sweep: Mapping[str, Sequence[float]] | None, cams: bool) -> tuple[float, ...]:
    """The background powers that are asked for.

    Raises:
        UsageError: Something else is to be swept, or activation maps are.
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


def holds_scores(folder: Path) -> bool:
    """Whether a folder of predictions holds scores, or maps, and no mask."""
    return any(folder.glob("*.npz")) and not any(folder.glob("*.png"))


def check_first(path: Path, alphas: Sequence[float]) -> None:
    """Look at the first of many files, so that what is wrong with all of them is said once.

    Raises:
        UsageError: It holds activation maps, or does not tell one of the powers.
    """
    try:
        file = read_scores(path)
    except FormatError as error:
        try:
            read_cams(path)
        except FormatError:
            return  # a damaged file, to be named with its kind
        raise UsageError(
            f"{path.parent} holds CAMs, expected propagated scores",
            "evaluate --cams takes CAMs; propagate --save-scores writes scores",
        ) from error
    check_saved(alphas, file.powers[0], file.powers[-1])
