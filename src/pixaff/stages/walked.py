"""Masks at any background power from the scores of one walk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixaff.io.scores import ScoreFile
from pixaff.ops.powers import power_weights
from pixaff.ops.walk import upsample_scores
from pixaff.stages.refine import best_value, mask_at_size, probabilities
from pixaff.stages.sweeps import check_saved


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
