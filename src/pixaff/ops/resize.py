"""Scores and masks at other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BAND = 1 << 23
"""Number of scores in memory while a mask is enlarged: 32 MB of float32."""


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """CAMs or scores (C, H, W) at another size (h, w): bilinear, align_corners false."""
    if tuple(scores.shape[1:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]


def enlarged_cells(scores: Tensor, cell: int, size: tuple[int, int]) -> Tensor:
    """Scores (B, C, h, w) of cells of an image (H, W), whose last cells may reach beyond it -> (B, C, H, W)."""
    if cell == 1:
        return scores
    wide = F.interpolate(scores, scale_factor=float(cell), mode="bilinear", align_corners=False)
    return wide[:, :, : size[0], : size[1]]


def rows_that_may_show(scores: Tensor) -> list[int]:
    """The rows that can have the largest score somewhere once the scores (C, h, w) are enlarged.

    A score between cells is a mean of theirs. So a row that another one exceeds in every cell is nowhere the largest.
    """
    count = len(scores)
    seen = torch.bincount(best_value(scores, range(count)).flatten(), minlength=count)
    leaders = scores[seen.nonzero().flatten()]
    hidden = (leaders[:, None] > scores[None]).flatten(2).all(2).any(0)
    return (~hidden).nonzero().flatten().tolist()


def mask_at_size(scores: Tensor, values: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The value of the largest score at each pixel of a larger size.

    The scores are enlarged (bilinear, align_corners false) one band of rows at a time, so a mask of 100 megapixels
    takes little more memory than its own.

    Args:
        scores: float32 (C, h, w).
        values: Mask value of each of the C rows.
        size: (H, W) of the mask.

    Returns:
        uint8 (H, W).
    """
    scores = scores.cpu()
    count, height, width = scores.shape
    if (height, width) == tuple(size):
        return best_value(scores, values).numpy()
    if count * size[0] * size[1] <= BAND:
        return best_value(resize_scores(scores, size), values).numpy()
    mask = np.empty(size, np.uint8)
    # Where each row of the mask is between two rows of the scores.
    place = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * height / size[0] - 0.5).clamp(0, height - 1)
    above = place.floor().long()
    below, weight = (above + 1).clamp(max=height - 1), (place - above).float()[:, None]
    rows = max(1, BAND // (count * size[1]))
    for start in range(0, size[0], rows):
        band = slice(start, start + rows)
        part = torch.lerp(scores[:, above[band]], scores[:, below[band]], weight[band])
        wide = F.interpolate(part[None], (part.shape[1], size[1]), mode="bilinear", align_corners=False)[0]
        mask[band] = best_value(wide, values).numpy()
    return mask


def best_value(scores: Tensor, values: Sequence[int]) -> Tensor:
    """The value of the largest score (C, h, w) at each pixel; argmax over so few rows is some twenty times slower."""
    best = scores[0].clone()
    found = torch.full_like(best, values[0], dtype=torch.uint8)
    for row, value in zip(scores[1:], values[1:], strict=True):
        found.masked_fill_(row > best, value)
        torch.maximum(best, row, out=best)
    return found
