"""Labels for the training of affinities, void where they are uncertain.

AffinityNet's come from two dense CRF posteriors (arXiv 1803.10464, section 3.2.1), IRN's from dense CRFs over two hard
labellings (arXiv 1904.05044, section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.crf import dense_crf
from pixaff.ops.neighbours import offsets, source_view, target_view

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORE = 255
_EMPTY = 1e-5  # every posterior below this: the crop shows no image here


def affinity_label_map(low: Tensor, high: Tensor, stride: int = 8) -> Tensor:
    """Confident labels at the stride of the features, and void where the two posteriors disagree.

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


def confident_label_map(
    image: NDArray[np.uint8] | Tensor,
    cams: Tensor,
    foreground: float = 0.30,
    background: float = 0.05,
    certainty: float = 0.7,
    engine: str = "auto",
) -> Tensor:
    """Confident labels at the size of the photo, from CAMs at two thresholds (IRN).

    Each threshold is a score for the background: the largest of it and the CAMs gives every pixel a hard label, and a
    dense CRF (bilateral kernel sxy 50, srgb 5) refines these labels. A high threshold leaves little foreground, which
    is therefore sure; a low one leaves little background, which is sure as well.

    Args:
        image: uint8 (H, W, 3), RGB.
        cams: (C, H, W), normalised CAMs of the present classes at the photo's size.
        foreground, background: the two thresholds.
        certainty: probability of a pixel's label before the CRF; the others share the rest.
        engine: see `pixaff.ops.crf.dense_crf`.

    Returns:
        uint8 (H, W): 0 background, 1..C row of `cams`, 255 ignore; on the device of `cams`.

    Raises:
        ValueError: for other shapes or types, thresholds or a certainty out of range, or more than 254 classes.
        UsageError: see `dense_crf`.
    """
    if cams.ndim != 3 or not cams.is_floating_point() or len(cams) >= IGNORE:
        found = f"{cams.dtype} {tuple(cams.shape)}"
        raise ValueError(f"cams: found {found}, expected floating (classes, H, W), at most {IGNORE - 1} classes")
    if not 0 <= background <= foreground <= 1:
        found = f"{foreground} and {background}"
        raise ValueError(f"foreground and background: found {found}, expected 0 <= background <= foreground <= 1")
    if not 0 < certainty < 1:
        raise ValueError(f"certainty: found {certainty}, expected a number between 0 and 1")
    if not len(cams):
        return torch.zeros(cams.shape[1:], dtype=torch.uint8, device=cams.device)
    thresholds = (torch.full_like(cams[:1], value) for value in (foreground, background))
    hard = torch.stack([torch.cat([threshold, cams]).argmax(0) for threshold in thresholds])
    probs = cams.new_full((2, len(cams) + 1, *cams.shape[1:]), (1 - certainty) / len(cams))
    probs.scatter_(1, hard[:, None], certainty)
    sure, unsure = dense_crf(image, probs, engine=engine, sxy_bilateral=50, srgb=5).argmax(1)
    return torch.where(sure > 0, sure, torch.where(unsure > 0, IGNORE, 0)).to(torch.uint8)


def reduced_label_map(label_map: Tensor, stride: int = 4) -> Tensor:
    """Labels at the stride of the features, by nearest neighbour: (..., H, W) -> (..., round(H / s), round(W / s)).

    At least one cell each way. The label of a cell is that of the pixel at its centre, or right below it.
    """
    places = []
    for side in label_map.shape[-2:]:
        cells = max(1, round(side / stride))
        places.append(((torch.arange(cells, device=label_map.device) + 0.5) * (side / cells)).long())
    return label_map[..., places[0][:, None], places[1]]


def pair_labels(label_map: Tensor, radius: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the pairs with labels at both ends into the three terms of the loss.

    Args:
        label_map: integers (h, w) or (B, h, w), as `affinity_label_map` makes them.
        radius: as for `pixaff.ops.affinity.pair_affinity`.

    Returns:
        bg, fg, neg: bool (P, L) or (B, P, L), in the order of `pair_affinity`: both ends background, both the same
        class, different ends. A pair with an ignored end is in none.

    Raises:
        ValueError: for other shapes or types.
    """
    if label_map.ndim not in (2, 3) or label_map.is_floating_point():
        raise ValueError(f"label_map: found {label_map.dtype} {tuple(label_map.shape)}, expected integers ([B,] h, w)")
    source = source_view(label_map, radius).flatten(-2).unsqueeze(-2)
    target = torch.stack([target_view(label_map, offset, radius).flatten(-2) for offset in offsets(radius)], dim=-2)
    return pair_kinds(source, target)


def pair_kinds(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """bg, fg, neg of `pair_labels` for the labels of both ends of pairs, integers of shapes that broadcast."""
    same, background = source == target, source == 0
    labelled = source != IGNORE
    both_labelled = labelled & (target != IGNORE)
    return same & background, same & labelled & ~background, both_labelled & ~same
