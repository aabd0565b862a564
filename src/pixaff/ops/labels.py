"""Affinity labels from two dense CRF posteriors (AffinityNet, arXiv 1803.10464, section 3.2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.neighbours import offsets, source_view, target_view

IGNORE = 255
_EMPTY = 1e-5  # every posterior below this: the crop shows no image here


def affinity_label_map(low: Tensor, high: Tensor, stride: int = 8) -> Tensor:
    """Confident labels at the stride of the features, and void where the two posteriors leave doubt.

    A small alpha (`low`) leaves much background, so its foreground is sure; a large one (`high`) leaves little, so
    its background is sure.

    Args:
        low, high: posteriors of the CRFs with small and large alpha, one shape (C, H, W) or (B, C, H, W), channel 0
            the background, zero where a crop shows no image; H and W multiples of `stride`.
        stride: side of the cells averaged into one node.

    Returns:
        uint8 (H/stride, W/stride) or (B, H/stride, W/stride): 0 background, 1..C-1 channel, 255 ignore.

    Raises:
        ValueError: for other shapes or types, or more than 255 channels.
    """
    if low.shape != high.shape or low.ndim not in (3, 4):
        raise ValueError(f"low and high: found {tuple(low.shape)} and {tuple(high.shape)}, expected one ([B,] C, H, W)")
    channels, height, width = low.shape[-3:]
    if not low.is_floating_point() or not high.is_floating_point():
        raise ValueError(f"low and high: found {low.dtype} and {high.dtype}, expected floating types")
    if not 1 <= channels <= IGNORE:
        raise ValueError(f"low and high: found {channels} channels, expected 1..{IGNORE}")
    if height % stride or width % stride:
        raise ValueError(f"low and high: found size {height}x{width}, expected multiples of the stride {stride}")
    cells_low, cells_high = F.avg_pool2d(low, stride), F.avg_pool2d(high, stride)
    best_low, best_high = cells_low.argmax(-3), cells_high.argmax(-3)
    labels = best_low.masked_fill(best_low == 0, IGNORE).masked_fill_(best_high == 0, 0)
    empty = (cells_low.amax(-3) < _EMPTY) & (cells_high.amax(-3) < _EMPTY)
    return labels.masked_fill_(empty, IGNORE).to(torch.uint8)


def pair_labels(label_map: Tensor, radius: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the pairs whose two ends are labelled into the three terms of the loss.

    Args:
        label_map: integers (h, w) or (B, h, w), as `affinity_label_map` makes them.
        radius: that of `pixaff.ops.affinity.pair_affinity`.

    Returns:
        bg, fg, neg: bool (P, L) or (B, P, L), in the order of `pair_affinity`: both ends background, both the same
        class, ends that differ. A pair with an ignored end is in none.

    Raises:
        ValueError: for other shapes or types.
    """
    if label_map.ndim not in (2, 3) or label_map.is_floating_point():
        raise ValueError(f"label_map: found {label_map.dtype} {tuple(label_map.shape)}, expected integers ([B,] h, w)")
    source = source_view(label_map, radius).flatten(-2).unsqueeze(-2)
    target = torch.stack([target_view(label_map, offset, radius).flatten(-2) for offset in offsets(radius)], dim=-2)
    same, background = source == target, source == 0
    labelled = source != IGNORE
    both_labelled = labelled & (target != IGNORE)
    return same & background, same & labelled & ~background, both_labelled & ~same
