"""How well a mask fits what is known without ground truth, and the alpha that follows from it.

A small alpha gives small masks. Two measures say which ones are good: how well they agree with another, hard labelling
of the same image (that of the segmentation head), and their normalized cut in the graph of the affinities (Shi & Malik,
*Normalized Cuts and Image Segmentation*, TPAMI 2000, equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixaff.ops.neighbours import Borders, offsets, source_view, target_view, with_margins

ALPHAS = tuple(0.07 * 1.5**k for k in range(14))
"""The alphas among which to choose: 0.07 to 13.6; scores are saved for all of them, see `pixaff.ops.powers`."""
TOLERANCE = 0.05


def foreground(classes: Tensor, backgrounds: Tensor) -> Tensor:
    """Where the best class is ahead of the background.

    Args:
        classes: Scores (C, h, w).
        backgrounds: Scores of the background at each of A alphas, (A, h, w).

    Returns:
        bool (A, h, w).
    """
    return backgrounds < classes.amax(0)


def overlaps(masks: Tensor, reference: Tensor) -> Tensor:
    """Cells in the intersection and in the union of each mask and a reference.

    Args:
        masks: bool (A, h, w).
        reference: bool (h, w).

    Returns:
        int64 (A, 2).
    """
    both, either = (masks & reference).flatten(1).sum(1), (masks | reference).flatten(1).sum(1)
    return torch.stack([both, either], 1)


def normalized_cuts(masks: Tensor, affinity: Tensor, radius: int = 5, borders: Borders = "full") -> Tensor:
    """Normalized cut of each mask: cut(F, B) / assoc(F, V) + cut(F, B) / assoc(B, V).

    Args:
        masks: bool (A, h, w); F is where it is true.
        affinity: float32 (P, L), of pairs within the radius; see `pixaff.ops.affinity.pair_affinity`.
        radius, borders: As for `pixaff.ops.affinity.pair_affinity`.

    Returns:
        float32 (A,), in 0..2; 1 if all or nothing is foreground.
    """
    grid = masks.float()
    if borders == "full":
        grid = with_margins(grid, radius)
    source = source_view(grid, radius).flatten(1)
    cut, inside, outside = (torch.zeros(len(masks), device=masks.device) for _ in range(3))
    for pair, offset in enumerate(offsets(radius)):
        target = target_view(grid, offset, radius).flatten(1)
        cut += (source != target).float() @ affinity[pair]
        inside += (source + target) @ affinity[pair]
        outside += (2 - source - target) @ affinity[pair]
    split = (inside > 0) & (outside > 0)
    return torch.where(split, cut / inside.clamp(min=1e-9) + cut / outside.clamp(min=1e-9), torch.ones_like(cut))


def cautious_alpha(
    alphas: Sequence[float], agreement: Tensor | None = None, cuts: Tensor | None = None, tolerance: float = TOLERANCE
) -> float:
    """The smallest alpha whose agreement is almost the best, and no larger than that of the lowest normalized cut.

    CAMs are rather too wide than too narrow, and so is what a segmentation head has learned from them. Therefore of
    alphas that agree with it almost alike, the smallest one is taken. docs/notes has the comparison with other rules.

    Args:
        alphas: Ascending.
        agreement: Intersection over union with a reference at each alpha (A,), or None.
        cuts: Normalized cuts at each alpha (A,), or None.
        tolerance: Share of the best agreement that may be missing.

    Raises:
        ValueError: Neither measure is given.
    """
    if agreement is None and cuts is None:
        raise ValueError("agreement and cuts: found None, expected at least one of them")
    chosen = []
    if agreement is not None:
        chosen.append(int((agreement >= (1 - tolerance) * agreement.max()).int().argmax()))
    if cuts is not None:
        chosen.append(int(cuts.argmin()))
    return alphas[min(chosen)]
