"""The training losses of AffinityNet (arXiv 1803.10464, equations 3 to 6) and of IRN (arXiv 1904.05044, section 4).

IRN's are sums over the 152 offsets of radius 10. The published implementation gathers both ends, or the whole path, of
all pairs at once, and autograd keeps them. Here one offset is computed at a time, and again in the backward pass, so
memory does not grow with the number of offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixaff.ops.boundary import grid_gradient, path_maximum, running_maxima, share_gradient
from pixaff.ops.labels import pair_kinds
from pixaff.ops.neighbours import offsets, source_shape, source_view, target_view

_EPSILON = 1e-5

Counts = Callable[[Tensor], Tensor]
"""The numbers of pairs of a whole batch from those of the part of it that is here."""


def _all_here(counts: Tensor) -> Tensor:
    return counts


class AffinityLoss(NamedTuple):
    """The loss and its three terms: scalars, float32 or float64."""

    total: Tensor
    bg: Tensor
    fg: Tensor
    neg: Tensor


def affinity_loss(affinity: Tensor, bg: Tensor, fg: Tensor, neg: Tensor, *, whole: Counts = _all_here) -> AffinityLoss:
    """bg/4 + fg/4 + neg/2: cross-entropy of the affinities, averaged over each kind of pair separately.

    The mean of -log(affinity + 1e-5) over background and foreground pairs, of -log(1 + 1e-5 - affinity) over
    negative ones. A kind with no pair contributes 0.

    Args:
        affinity: (B, P, L) in [0, 1], of `pixaff.ops.affinity.pair_affinity`.
        bg, fg, neg: bool of the same shape, of `pixaff.ops.labels.pair_labels`.
        whole: the numbers of pairs by which the sums are divided, from those here: integers (3,). Where processes share
            a batch, these are the sums over all of them, and the losses then are shares that add up.

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
    counts = whole(torch.stack([bg.sum(), fg.sum(), neg.sum()])).clamp(min=1)
    # Products, not indices: these would have to wait for the number of pairs on CUDA.
    sums = torch.stack([(alike * bg).sum(), (alike * fg).sum(), (unlike * neg).sum()])
    bg_loss, fg_loss, neg_loss = (sums / counts).unbind()
    return AffinityLoss(bg_loss / 4 + fg_loss / 4 + neg_loss / 2, bg_loss, fg_loss, neg_loss)


class BoundaryLoss(NamedTuple):
    """The loss and its three terms: scalars, float32 or float64."""

    total: Tensor
    bg: Tensor
    fg: Tensor
    neg: Tensor


def boundary_loss(edge: Tensor, label_map: Tensor, radius: int = 10, *, whole: Counts = _all_here) -> BoundaryLoss:
    """bg/4 + fg/4 + neg/2 of a class boundary map: `affinity_loss` of its `boundary_affinity` (equations 5 and 6).

    A kind with no pair contributes 0. No second derivatives.

    Args:
        edge: (B, h, w), a floating type, boundary probabilities in [0, 1]; half precision is computed in float32.
        label_map: integers (B, h, w): 0 background, 1.. classes, 255 ignore.
        radius: pairs are closer than this many cells; sources are those of the published graph.
        whole: as for `affinity_loss`, with floating numbers.

    Raises:
        ValueError: for other shapes or types.
    """
    if edge.ndim != 3 or not edge.is_floating_point():
        raise ValueError(f"edge: found {edge.dtype} {tuple(edge.shape)}, expected floating (batch, h, w)")
    _check_label_map(label_map, edge)
    bg, fg, neg = _BoundaryTerms.apply(edge if edge.dtype == torch.float64 else edge.float(), label_map, radius, whole)
    return BoundaryLoss(bg / 4 + fg / 4 + neg / 2, bg, fg, neg)


class DisplacementLoss(NamedTuple):
    """The loss and its two terms: scalars, float32 or float64."""

    total: Tensor
    fg: Tensor
    bg: Tensor


def displacement_loss(
    displacement: Tensor, label_map: Tensor, radius: int = 10, *, whole: Counts = _all_here
) -> DisplacementLoss:
    """fg/2 + bg/2 of a displacement field d (equations 8 and 9).

    The mean of |d(source) - d(target) - offset| over the pairs of one class and both axes, and that of
    |d(source) - d(target)| over the pairs of background. A kind with no pair contributes 0. No second derivatives.

    Args:
        displacement: (B, 2, h, w), a floating type: dy and dx in cells; half precision is computed in float32.
        label_map, radius, whole: as for `boundary_loss`.

    Raises:
        ValueError: for other shapes or types.
    """
    if displacement.ndim != 4 or displacement.shape[1] != 2 or not displacement.is_floating_point():
        found = f"{displacement.dtype} {tuple(displacement.shape)}"
        raise ValueError(f"displacement: found {found}, expected floating (batch, 2, h, w)")
    _check_label_map(label_map, displacement[:, 0])
    field = displacement if displacement.dtype == torch.float64 else displacement.float()
    fg, bg = _DisplacementTerms.apply(field, label_map, radius, whole)
    return DisplacementLoss(fg / 2 + bg / 2, fg, bg)


class _BoundaryTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edge: Tensor, label_map: Tensor, radius: int, whole: Counts) -> tuple[Tensor, ...]:
        sums, counts = edge.new_zeros(3), edge.new_zeros(3)
        maxima = running_maxima(edge, radius)
        for offset in _pairs(edge, radius):
            affinity = 1 - path_maximum(maxima, offset, radius)
            alike = -torch.log(affinity + _EPSILON)
            unlike = -torch.log(1 + _EPSILON - affinity)
            kinds = _kinds(label_map, offset, radius)
            sums += torch.stack([(cost * kind).sum() for cost, kind in zip((alike, alike, unlike), kinds, strict=True)])
            counts += torch.stack([kind.sum() for kind in kinds])
        counts = whole(counts).clamp(min=1)
        ctx.save_for_backward(edge, label_map, counts)
        ctx.radius = radius
        return (sums / counts).unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        edge, label_map, counts = ctx.saved_tensors
        radius = ctx.radius
        bg_weight, fg_weight, neg_weight = torch.stack(gradients) / counts
        maxima = running_maxima(edge, radius)
        shares = [torch.zeros_like(grid) for grid in maxima]
        for offset in _pairs(edge, radius):
            bg, fg, neg = _kinds(label_map, offset, radius)
            maximum = path_maximum(maxima, offset, radius)
            affinity = 1 - maximum
            slope = (bg * bg_weight + fg * fg_weight) / (affinity + _EPSILON)
            slope -= neg * neg_weight / (1 + _EPSILON - affinity)
            share_gradient(slope, maximum, maxima, shares, offset, radius)
        return grid_gradient(maxima, shares), None, None, None


class _DisplacementTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, label_map: Tensor, radius: int, whole: Counts) -> tuple[Tensor, ...]:
        sums, counts = field.new_zeros(2), field.new_zeros(2)
        for offset in _pairs(field, radius):
            bg, fg, _ = _kinds(label_map, offset, radius)
            change = source_view(field, radius) - target_view(field, offset, radius)
            resting = change.abs().sum(1) * bg
            moving = _less(change, offset).abs_().sum(1) * fg
            sums += torch.stack([moving.sum(), resting.sum()])
            counts += torch.stack([fg.sum(), bg.sum()])
        counts = 2 * whole(counts).clamp(min=1)
        ctx.save_for_backward(field, label_map, counts)
        ctx.radius = radius
        return (sums / counts).unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        field, label_map, counts = ctx.saved_tensors
        radius = ctx.radius
        fg_weight, bg_weight = torch.stack(gradients) / counts
        total = torch.zeros_like(field)
        for offset in _pairs(field, radius):
            bg, fg, _ = _kinds(label_map, offset, radius)
            change = source_view(field, radius) - target_view(field, offset, radius)
            slope = change.sign() * (bg * bg_weight)[:, None]
            slope += _less(change, offset).sign_() * (fg * fg_weight)[:, None]
            source_view(total, radius).add_(slope)
            target_view(total, offset, radius).sub_(slope)
        return total, None, None, None


def _pairs(grid: Tensor, radius: int) -> tuple[tuple[int, int], ...]:
    """The offsets, none on a grid (..., h, w) too small for a source."""
    return offsets(radius) if all(source_shape(grid.shape[-2], grid.shape[-1], radius)) else ()


def _kinds(label_map: Tensor, offset: tuple[int, int], radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """bg, fg and neg, bool (B, rows, columns), of the pairs of one offset."""
    return pair_kinds(source_view(label_map, radius), target_view(label_map, offset, radius))


def _less(change: Tensor, offset: tuple[int, int]) -> Tensor:
    """Vectors (B, 2, h, w) minus an offset; a tensor of offsets would have to be copied to the device each time."""
    return torch.stack([change[:, 0] - offset[0], change[:, 1] - offset[1]], 1)


def _check_label_map(label_map: Tensor, grid: Tensor) -> None:
    if label_map.shape != grid.shape or label_map.is_floating_point():
        found = f"{label_map.dtype} {tuple(label_map.shape)}"
        raise ValueError(f"label_map: found {found}, expected integers {tuple(grid.shape)}")
