"""Affinity of neighbouring nodes from their features (AffinityNet, arXiv 1803.10464, equation 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixaff.ops.neighbours import (
    Borders,
    offsets,
    pairs_inside,
    source_shape,
    source_view,
    target_view,
    with_margins,
)


def pair_affinity(features: Tensor, radius: int = 5, borders: Borders = "published") -> Tensor:
    """exp(-mean over channels of |f_i - f_j|) of every pair within the radius.

    Besides features and result, it takes the memory of one (B, D, h, w) buffer, in the backward pass too: the
    differences of each offset are computed again there. No second derivatives.

    Args:
        features: (B, D, h, w), a floating type; half precision is computed in float32.
        radius: pairs are closer than this many nodes; see `pixaff.ops.neighbours` for their order.
        borders: "published" leaves nodes near the border with fewer neighbours or none; "full" gives them all.

    Returns:
        (B, P, L) in (0, 1], P offsets by L source nodes. Published: L = (h-4)(w-8) for radius 5 and 0 on grids too
        small for that. Full: L = h * w on every grid, and 0 where a pair leaves the grid. Float64 for float64
        features, else float32.

    Raises:
        ValueError: for other shapes, types or borders, or a radius below 2.
    """
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(
            f"features: found {features.dtype} {tuple(features.shape)}, expected floating (batch, channels, h, w)"
        )
    if features.shape[1] == 0:
        raise ValueError(f"features: found no channels in {tuple(features.shape)}, expected at least 1")
    if features.dtype != torch.float64:
        features = features.float()
    h, w = features.shape[2:]
    source_shape(h, w, radius, borders)  # refuses other borders
    if borders == "full":
        features = with_margins(features, radius)
    affinity: Tensor = _PairAffinity.apply(features, radius)
    return affinity * pairs_inside(h, w, radius, features.device) if borders == "full" else affinity


class _PairAffinity(torch.autograd.Function):
    """Autograd would keep the differences of all offsets, P times the features; this keeps only the features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        pairs = offsets(radius)
        batch, channels, h, w = features.shape
        rows, columns = source_shape(h, w, radius)
        affinity = features.new_empty(batch, len(pairs), rows, columns)
        difference = features.new_empty(batch, channels, rows, columns)
        source = source_view(features, radius)
        for p, offset in enumerate(pairs):
            torch.sub(source, target_view(features, offset, radius), out=difference)
            torch.sum(difference.abs_(), 1, out=affinity[:, p])
        affinity.div_(-channels).exp_()
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, affinity = ctx.saved_tensors
        radius = ctx.radius
        # d affinity / d f_i = -affinity * sign(f_i - f_j) / D, and the opposite for f_j
        slope = gradient.view_as(affinity).mul(affinity).div_(-features.shape[1])
        total = torch.zeros_like(features)
        source, source_total = source_view(features, radius), source_view(total, radius)
        difference = features.new_empty(source.shape)
        for p, offset in enumerate(offsets(radius)):
            torch.sub(source, target_view(features, offset, radius), out=difference)
            difference.sign_().mul_(slope[:, p, None])
            source_total += difference
            target_view(total, offset, radius).sub_(difference)
        return total, None
