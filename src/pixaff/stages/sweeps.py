"""Masks at any background power from the scores of one walk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import read_cams
from pixaff.io.scores import ScoreFile, read_scores
from pixaff.ops.powers import HIGHEST, LOWEST, power_weights
from pixaff.ops.walk import upsample_scores
from pixaff.stages.refine import best_value, mask_at_size, probabilities

FOLDER = "scores"
"""Where `pixaff.propagate` puts them, in the folder of the masks."""


def check_saved(alphas: Iterable[float], lowest: float = LOWEST, highest: float = HIGHEST) -> None:
    """Refuse background powers that saved scores do not tell.

    Raises:
        UsageError: One is outside the range.
    """
    for alpha in alphas:
        if not lowest <= alpha <= highest:
            raise UsageError(f"alpha is {alpha:g}, and saved scores hold alpha {lowest:g} to {highest:g}")


def swept_powers(sweep: Mapping[str, Sequence[float]] | None, cams: bool) -> tuple[float, ...]:
    """The background powers that are asked for.

    Raises:
        UsageError: Something else is to be swept, or activation maps are.
    """
    if sweep is None:
        return ()
    if cams:
        raise UsageError("--sweep takes scores of the walk, found --cams", "activation maps: --alpha or --threshold")
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
            f"{path.parent} holds activation maps, expected scores of the walk",
            "evaluate --cams takes maps; propagate --save-scores writes scores",
        ) from error
    check_saved(alphas, file.powers[0], file.powers[-1])


def walked_file(
    walked: Tensor,
    present: Sequence[int],
    powers: Sequence[float],
    alpha: float,
    walked_size: tuple[int, int],
    size: tuple[int, int],
) -> ScoreFile:
    """What is saved of walked rows (1 + C + len(powers), h / 8, w / 8), see `scores_to_walk`; C classes are present.

    They were walked at ``walked_size`` (h, w), for a photo of ``size``.
    """
    rows = walked.numpy()
    first = 1 + len(present)
    values = np.array(present, np.int64) + 1
    return ScoreFile(values, rows[1:first], np.array(powers), rows[first:], alpha, walked_size, size)


def walked_masks(file: ScoreFile, alphas: Sequence[float]) -> list[NDArray[np.uint8]]:
    """The mask of the photo's size at each background power, as `pixaff.propagate` makes it without the final CRF.

    Raises:
        UsageError: A power is outside the range that the file holds.
    """
    check_saved(alphas, file.powers[0], file.powers[-1])
    weights = [power_weights(file.powers.tolist(), alpha) for alpha in alphas]
    classes = torch.from_numpy(file.scores)
    backgrounds = torch.einsum("ak,khw->ahw", torch.tensor(weights), torch.from_numpy(file.background))
    values = [0, *file.classes.tolist()]
    if file.size != file.walked_size:
        return [
            mask_at_size(probabilities(torch.cat([row[None], classes]), file.walked_size), values, file.size)
            for row in backgrounds
        ]
    # Which class is best, and how good it is, holds for all powers.
    large = _large(classes, file)
    best, winner = large.amax(0), best_value(large, values[1:])
    return [winner.masked_fill(_large(row[None], file)[0] >= best, 0).numpy() for row in backgrounds]


def _large(rows: Tensor, file: ScoreFile) -> Tensor:
    return upsample_scores(rows, file.walked_size).clamp(min=0)
