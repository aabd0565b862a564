"""Instances from a displacement field and propagated scores (IRN, arXiv 1904.05044, sections 3.3 and 5.2).

Each cell follows the field to a centroid (`displacement_centroids`); cells whose centroids lie in the same region of
short displacements are one instance (`instance_map`). The CAMs are divided by instance (`instance_scores`), propagated
(`pixaff.ops.boundary.boundary_walk`), and compete for each pixel (`detect_instances`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.boundary import BACKGROUND, STRIDE
from pixaff.ops.walk import upsample_scores

FRAGMENT = 0.01
"""Share of the photo's pixels below which a detection's score is 0."""

# After this many moves, cells that have come to rest are removed: they would never move again.
_REST = 10


@torch.no_grad()
def displacement_centroids(displacement: Tensor, iterations: int = 300) -> Tensor:
    """The cell at which each cell ends when it moves along the displacement field repeatedly.

    A cell moves by the field at its place, interpolated bilinearly, and stays on the grid.

    Args:
        displacement: (2, h, w), a floating type: dy and dx in cells, from `boundaries` of a network.
        iterations: number of moves; more than 100 only matter for cells that never come to rest.

    Returns:
        int64 (2, h, w): row and column of the cell nearest to each centroid.

    Raises:
        ValueError: for other shapes or types, or a field that is not finite.
    """
    _check_displacement(displacement)
    if iterations < 0:
        raise ValueError(f"iterations: found {iterations}, expected at least 0")
    field = displacement if displacement.dtype == torch.float64 else displacement.float()
    h, w = field.shape[1:]
    at_row, at_column = field[0].flatten(), field[1].flatten()
    cells = torch.arange(h * w, device=field.device)
    ends = torch.stack([cells // w, cells % w]).to(field.dtype)
    (y, x), moving = ends.clone(), cells
    for iteration in range(1, iterations + 1):
        top, left = y.floor(), x.floor()
        down, right = y - top, x - left
        above, below = top.long().mul_(w), y.ceil().long().mul_(w)
        before, behind = left.long(), x.ceil().long()
        corners = (
            (below + before, down * (1 - right)),
            (above + behind, (1 - down) * right),
            (below + behind, down * right),
            (above + before, (1 - down) * (1 - right)),
        )
        dy, dx = (
            sum(values.index_select(0, place) * weight for place, weight in corners) for values in (at_row, at_column)
        )
        last_y, last_x = y, x
        y, x = (y + dy).clamp_(0, h - 1), (x + dx).clamp_(0, w - 1)
        if iteration % _REST == 0 or iteration == iterations:
            ends[:, moving] = torch.stack([y, x])
            kept = ((y != last_y) | (x != last_x)).nonzero().squeeze(1)
            if not len(kept):
                break
            y, x, moving = y[kept], x[kept], moving[kept]
    return ends.round().long().view(2, h, w)


@torch.no_grad()
def instance_map(centroids: Tensor, displacement: Tensor, threshold: float = 2.5) -> Tensor:
    """Number the instances by the region of short displacements that their centroids lie in.

    Args:
        centroids: integers (2, h, w), of `displacement_centroids`.
        displacement: (2, h, w), the field that they come from.
        threshold: displacements shorter than this many cells form the 4-connected regions.

    Returns:
        int64 (h, w), instances 0..N-1, all of which occur. Cells whose centroids lie in no region are the first
        instance; the others follow in the reading order of their regions.

    Raises:
        ValueError: for other shapes or types, or centroids off the grid.
    """
    _check_displacement(displacement)
    h, w = displacement.shape[1:]
    if centroids.shape != displacement.shape or centroids.is_floating_point():
        raise ValueError(f"centroids: found {centroids.dtype} {tuple(centroids.shape)}, expected integers {(2, h, w)}")
    rows, columns = centroids.long()
    if int(centroids.min()) < 0 or int(rows.max()) >= h or int(columns.max()) >= w:
        raise ValueError(f"centroids: found cells off the grid, expected rows 0..{h - 1} and columns 0..{w - 1}")
    regions = connected_regions(displacement.square().sum(0).sqrt() < threshold)
    found = regions.flatten()[rows * w + columns]
    return torch.unique(found, return_inverse=True)[1]


@torch.no_grad()
def connected_regions(labels: Tensor) -> Tensor:
    """Number the 4-connected regions of cells of the same value; 0 is no region.

    Args:
        labels: integers or bool (h, w).

    Returns:
        int64 (h, w): 0 where `labels` is, else 1.. in the reading order of the regions' first cells.

    Raises:
        ValueError: for other shapes or types.
    """
    if labels.ndim != 2 or 0 in labels.shape or labels.is_floating_point():
        raise ValueError(f"labels: found {labels.dtype} {tuple(labels.shape)}, expected integers or bool (h, w)")
    # Runs of equal cells within a row are the nodes of a graph, and neighbouring runs of two rows its edges: one pair
    # of cells for each edge, the first that they share.
    starts = F.pad(labels[:, 1:] != labels[:, :-1], (1, 0), value=True)
    runs = starts.flatten().cumsum(0).view(labels.shape) - 1
    joined = (labels[1:] == labels[:-1]) & (starts[1:] | starts[:-1])
    nodes = int(runs[-1, -1]) + 1
    roots = _graph_roots(nodes, runs[:-1][joined], runs[1:][joined])[runs]
    first = starts & (roots == runs) & (labels != 0)
    number = runs.new_zeros(nodes)
    number[runs[first]] = torch.arange(1, int(first.sum()) + 1, device=labels.device)
    return number[roots] * (labels != 0)


def instance_scores(scores: Tensor, instances: Tensor) -> Tensor:
    """The scores of each class, divided between the instances.

    Args:
        scores: (C, h, w), normalised CAMs.
        instances: integers (h, w) in 0..N-1, of `instance_map`.

    Returns:
        (C * N, h, w), class-major: row c * N + n is class c on the cells of instance n, 0 elsewhere.

    Raises:
        ValueError: for shapes that differ.
    """
    if scores.ndim != 3 or scores.shape[1:] != instances.shape:
        raise ValueError(
            f"scores and instances: found {tuple(scores.shape)} and {tuple(instances.shape)}, "
            "expected (classes, h, w) and (h, w)"
        )
    members = instances == torch.arange(int(instances.max()) + 1, device=instances.device)[:, None, None]
    return (scores[:, None] * members).flatten(0, 1)


class Detections(NamedTuple):
    """Separate instances in one photo."""

    map: Tensor
    """int64 (H, W): 0 background, 1..D the detections."""
    scores: Tensor
    """(D,) in [0, 1]; 0 for fragments."""
    rows: Tensor
    """int64 (D,), ascending: which of the walked scores each comes from. Of `instance_scores`, class row // N."""


@torch.no_grad()
def detect_instances(
    walked: Tensor,
    size: tuple[int, int],
    background: float = BACKGROUND,
    fragment: float = FRAGMENT,
    stride: int = STRIDE,
) -> Detections:
    """The connected pieces in which each propagated score is the largest.

    Scores at the photo's size are divided by their maximum over all rows; at each pixel the largest wins, if it is
    above the background. Every 4-connected piece that a row wins is a detection; its score is the largest value in it.

    Args:
        walked: (R, h, w), scores of `instance_scores` after the walk.
        size: (H, W) of the photo.
        background: score of the background, in [0, 1].
        fragment: detections with less than this share of the photo's pixels get the score 0.
        stride: side of a cell in pixels.

    Returns:
        Detections in the order of rows, those of one row in the reading order of their first pixels; none if all scores
        are 0.

    Raises:
        ValueError: for other shapes or types, or a size with another grid.
    """
    best = upsample_scores(walked[:1], size, stride)[0]
    winner = torch.zeros(size, dtype=torch.int64, device=walked.device)
    for row in range(1, len(walked)):  # one at a time: all of them at the photo's size may be many
        scores = upsample_scores(walked[row : row + 1], size, stride)[0]
        wins = scores > best
        best = torch.where(wins, scores, best)
        winner[wins] = row
    best = best / best.amax().clamp(min=torch.finfo(best.dtype).tiny)
    return _pieces(winner, best > background, best, fragment)


@torch.no_grad()
def divide_mask(
    mask: Tensor, walked: Tensor, classes: int, fragment: float = FRAGMENT, stride: int = STRIDE
) -> Detections:
    """The instances of a mask: each of its pixels belongs to the instance of its class with the largest score.

    In place of `detect_instances` where a better mask is known than the scores themselves give.

    Args:
        mask: integers (H, W): 0 background, 1..C the classes of `walked`.
        walked: (C * N, h, w), scores of `instance_scores` after the walk.
        classes: C.
        fragment, stride: as for `detect_instances`.

    Returns:
        As `detect_instances`; together the detections cover the mask.

    Raises:
        ValueError: for other shapes or types, or a mask with another grid or more classes.
    """
    if mask.ndim != 2 or mask.is_floating_point() or classes < 1 or len(walked) % classes:
        found = f"{mask.dtype} {tuple(mask.shape)}, {len(walked)} rows and {classes} classes"
        raise ValueError(f"mask and walked: found {found}, expected integers (H, W) and as many rows for each class")
    size, count = (mask.shape[0], mask.shape[1]), len(walked) // classes
    winner = ((mask - 1).clamp(min=0) * count).long()
    best = walked.new_zeros(size)
    for row in range(len(walked)):
        scores = upsample_scores(walked[row : row + 1], size, stride)[0]
        wins = (mask == row // count + 1) & (scores > best)
        best = torch.where(wins, scores, best)
        winner[wins] = row
    best = best / best.amax().clamp(min=torch.finfo(best.dtype).tiny)
    return _pieces(winner, mask > 0, best, fragment)


def _pieces(winner: Tensor, inside: Tensor, best: Tensor, fragment: float) -> Detections:
    """Detections: the 4-connected pieces of one winning row each, where ``inside`` is set; see `detect_instances`."""
    regions = connected_regions(torch.where(inside, winner + 1, 0))
    count = int(regions.max())
    flat = regions.flatten()
    rows = winner.new_zeros(count + 1).scatter_(0, flat, winner.flatten())[1:]
    peaks = best.new_zeros(count + 1).scatter_reduce_(0, flat, best.flatten(), "amax")[1:]
    pixels = torch.bincount(flat, minlength=count + 1)[1:]
    peaks = torch.where(pixels < fragment * winner.numel(), 0, peaks)
    order = rows.argsort(stable=True)
    place = F.pad(order.argsort() + 1, (1, 0))
    return Detections(place[regions], peaks[order], rows[order])


def _graph_roots(nodes: int, ends: Tensor, others: Tensor) -> Tensor:
    """The lowest node that each of `nodes` is connected to by the edges from `ends` to `others`.

    Every node points to a node that is not higher. Until nothing changes, the targets of the two ends of an edge are
    made to
    point to the lower of their own targets, and each node to the target of its target: the number of rounds grows with
    the logarithm of the longest path.
    """
    parent = torch.arange(nodes, device=ends.device)
    both = torch.cat([ends, others])
    while True:
        above = parent[parent]
        low = torch.minimum(above[ends], above[others]).repeat(2)
        hooked = torch.minimum(parent, above)
        hooked.scatter_reduce_(0, parent[both], low, "amin").scatter_reduce_(0, both, low, "amin")
        if torch.equal(hooked, parent):
            return parent
        parent = hooked


def _check_displacement(displacement: Tensor) -> None:
    shape = tuple(displacement.shape)
    if displacement.ndim != 3 or shape[0] != 2 or 0 in shape or not displacement.is_floating_point():
        raise ValueError(f"displacement: found {displacement.dtype} {shape}, expected floating (2, h, w)")
    if not bool(displacement.isfinite().all()):
        raise ValueError("displacement: found NaN or infinity, expected finite numbers")
