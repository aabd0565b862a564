"""The training loss of AffinityNet (arXiv 1803.10464, equations 3 to 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EPSILON = 1e-5


class AffinityLoss(NamedTuple):
    """The loss and its three terms: scalars, float32 or float64."""

    total: Tensor
    bg: Tensor
    fg: Tensor
    neg: Tensor


def affinity_loss(affinity: Tensor, bg: Tensor, fg: Tensor, neg: Tensor) -> AffinityLoss:
    """bg/4 + fg/4 + neg/2: cross entropy of the affinities, each kind of pair averaged on its own.

    The mean of -log(affinity + 1e-5) over background and foreground pairs, of -log(1 + 1e-5 - affinity) over
    negative ones. A kind with no pair contributes 0.

    Args:
        affinity: (B, P, L) in [0, 1], of `pixaff.ops.affinity.pair_affinity`.
        bg, fg, neg: bool of the same shape, of `pixaff.ops.labels.pair_labels`.

    Raises:
        ValueError: for shapes that differ or masks that are not bool.
    """
    for name, mask in (("bg", bg), ("fg", fg), ("neg", neg)):
        if mask.shape != affinity.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{name}: found {mask.dtype} {tuple(mask.shape)}, expected torch.bool {tuple(affinity.shape)}"
            )
    if affinity.dtype != torch.float64:
        affinity = affinity.float()  # half precision cannot tell 1 from 1 + 1e-5
    alike = -torch.log(affinity + _EPSILON)
    unlike = -torch.log(1 + _EPSILON - affinity)
    bg_loss, fg_loss, neg_loss = _masked_mean(alike, bg), _masked_mean(alike, fg), _masked_mean(unlike, neg)
    return AffinityLoss(bg_loss / 4 + fg_loss / 4 + neg_loss / 2, bg_loss, fg_loss, neg_loss)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where `mask` holds, 0 where it never does, without the synchronisation that indexing costs on CUDA."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
