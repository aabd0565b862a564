"""Affinity of cells from a class boundary map, and the walk over it (IRN, arXiv 1904.05044, sections 3.2 and 5).

The weaker the strongest boundary between two cells, the more alike they are: affinity = 1 - max of the boundary over
the path from one to the other. The path of an offset (dy, dx) consists of the cells (y, x) of its bounding rectangle
with (dy x - dx y)^2 < dy^2 + dx^2, both ends included: a run of neighbouring cells in every row of the rectangle.

The published implementation gathers the boundary at the cells of all paths. Here the largest value of 1, 2, ...,
`radius` neighbours in a row is found once for the whole grid (`running_maxima`), and a path uses one of these grids
for each of its rows (`path_maximum`): this needs no index, and besides the result only the memory of some grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pixaff.ops.cam import divided_by_maximum
from pixaff.ops.neighbours import (
    Borders,
    offsets,
    pairs_inside,
    source_shape,
    target_view,
    with_margins,
)
from pixaff.ops.walk import cell_scores, random_walk, upsample_scores

STRIDE = 4
"""Side in pixels of a cell of the boundary map."""
BACKGROUND = 0.25
"""Score of the background, beside propagated scores whose maximum is 1."""


def boundary_affinity(edge: Tensor, radius: int = 5, borders: Borders = "full") -> Tensor:
    """1 - the largest boundary value on the path between the two cells of every pair within the radius.

    Differentiable: the gradient of a pair goes to the largest cell of its path, or the first of several in reading
    order. No second derivatives. For a training, `pixaff.ops.losses.boundary_loss` needs less memory.

    Args:
        edge: (h, w) or (B, h, w), a floating type, boundary probabilities in [0, 1]; half precision is computed in
            float32.
        radius: pairs are closer than this many cells; see `pixaff.ops.neighbours` for their order.
        borders: "full" gives each cell all its neighbours, as in IRN's walk; "published" leaves those near the border
            with fewer, as in its training.

    Returns:
        (P, L) or (B, P, L), P offsets by L source cells: L = h * w, and 0 where a pair leaves the grid; published:
        see `pixaff.ops.affinity.pair_affinity`. Float64 for float64 boundaries, else float32.

    Raises:
        ValueError: for other shapes, types or borders, or a radius below 2.
    """
    _check_edge(edge)
    h, w = edge.shape[-2:]
    source_shape(h, w, radius, borders)  # refuses other borders
    grid = edge if edge.dtype == torch.float64 else edge.float()
    grid = grid if edge.ndim == 3 else grid[None]
    affinity: Tensor = _BoundaryAffinity.apply(with_margins(grid, radius) if borders == "full" else grid, radius)
    if borders == "full":
        affinity = affinity * pairs_inside(h, w, radius, edge.device)
    return affinity if edge.ndim == 3 else affinity[0]


@overload
def boundary_walk(scores: Tensor, edge: Tensor, beta: float = ..., steps: int = ..., radius: int = ...) -> Tensor: ...


@overload
def boundary_walk(
    scores: Sequence[Tensor], edge: Sequence[Tensor], beta: float = ..., steps: int = ..., radius: int = ...
) -> list[Tensor]: ...


def boundary_walk(
    scores: Tensor | Sequence[Tensor],
    edge: Tensor | Sequence[Tensor],
    beta: float = 10.0,
    steps: int = 256,
    radius: int = 5,
) -> Tensor | list[Tensor]:
    """Spread class scores within the class boundaries: a random walk of scores * (1 - edge) over `boundary_affinity`.

    One image, or two lists of equal length; see `pixaff.ops.walk.random_walk`. Not differentiable.

    Args:
        scores: (C, h, w), a floating type, normalised CAMs at the stride of the boundary map.
        edge: (h, w) in [0, 1], a floating type.
        beta: exponent of the affinities, above 0; the larger, the more cautious the walk.
        steps: at least 0; 0 returns scores * (1 - edge).
        radius: cells closer than this are neighbours.

    Returns:
        (C, h, w), or a list of them: float64 if any input is, else float32.

    Raises:
        ValueError: for shapes, types, devices or settings that do not fit, and boundaries outside [0, 1].
    """
    if isinstance(scores, Tensor) and isinstance(edge, Tensor):
        return boundary_walk([scores], [edge], beta, steps, radius)[0]
    if isinstance(scores, Tensor) or isinstance(edge, Tensor):
        raise ValueError("scores and edge: found a tensor and a list, expected two tensors or two lists")
    if len(scores) != len(edge):
        raise ValueError(f"scores and edge: found {len(scores)} and {len(edge)}, expected as many")
    for one_scores, one_edge in zip(scores, edge, strict=True):
        _check_image(one_scores, one_edge)
    with torch.no_grad():
        inner = [one_scores * (1 - one_edge) for one_scores, one_edge in zip(scores, edge, strict=True)]
        affinities = [boundary_affinity(one, radius) for one in edge]
    return random_walk(inner, affinities, beta, steps, radius, borders="full")


def semantic_scores(
    walked: Tensor, size: tuple[int, int], background: float = BACKGROUND, stride: int = STRIDE
) -> Tensor:
    """Propagated scores at the photo's size, divided by their maximum over all classes, after a constant background.

    Args:
        walked: (C, h, w), of `boundary_walk`.
        size: (H, W) of the photo.
        background: score of the background, in [0, 1].
        stride: side of a cell in pixels.

    Returns:
        (C + 1, H, W), background first; the mask is its argmax. If all propagated scores are 0, so are all classes.

    Raises:
        ValueError: for other shapes or types, or a size with another grid.
    """
    large = upsample_scores(walked, size, stride)
    large = large / large.amax().clamp(min=torch.finfo(large.dtype).tiny)
    return torch.cat([torch.full_like(large[:1], background), large])


def strided_cams(cams: Tensor, stride: int = STRIDE) -> Tensor:
    """CAMs at the stride of the boundary map, averaged over its cells, each divided by its maximum + 1e-5.

    Args:
        cams: (C, H, W) in [0, 1], at the photo's size.
        stride: side of a cell in pixels.

    Returns:
        (C, ceil(H / stride), ceil(W / stride)).
    """
    return divided_by_maximum(cell_scores(cams, stride)) if len(cams) else cell_scores(cams, stride)


def product_affinity(
    affinity: Tensor, edge: Tensor, betas: tuple[float, float], radius: int = 5, borders: Borders = "full"
) -> Tensor:
    """Affinities of AffinityNet times those of class boundaries, each raised to its power; to be walked with beta 1.

    Args:
        affinity: (P, L), of `pixaff.ops.affinity.pair_affinity`, on a grid with cells twice as large as those of the
            boundary map.
        edge: (h, w) in [0, 1]; a cell of the grid has the largest boundary value of its 2x2 cells.
        betas: exponents of the two.
        radius, borders: those of ``affinity``.

    Raises:
        ValueError: for grids that do not fit.
    """
    coarse = F.max_pool2d(edge[None], 2, ceil_mode=True)[0]
    other = boundary_affinity(coarse, radius, borders)
    if other.shape != affinity.shape:
        raise ValueError(f"affinity: found {tuple(affinity.shape)}, expected {tuple(other.shape)} like the boundaries")
    return affinity ** betas[0] * other.to(affinity.dtype) ** betas[1]


class Run(NamedTuple):
    """The cells of a path in one row: `cells` of them from (`row`, `column`), counted from the source, to the right."""

    row: int
    column: int
    cells: int


@lru_cache(maxsize=1024)
def path_runs(offset: tuple[int, int]) -> tuple[Run, ...]:
    """The path from a cell to the one at `offset` (dy, dx), dy at least 0, row after row."""
    dy, dx = offset
    runs = []
    for row in range(dy + 1):
        columns = [x for x in range(min(0, dx), max(0, dx) + 1) if (dy * x - dx * row) ** 2 < dy * dy + dx * dx]
        runs.append(Run(row, columns[0], len(columns)))
    return tuple(runs)


def running_maxima(grid: Tensor, cells: int) -> list[Tensor]:
    """The largest of 1, 2, ..., `cells` neighbouring values, from each cell of `grid` (..., h, w) to the right.

    If the row ends earlier, the largest of the remaining ones.
    """
    maxima = [grid]
    for shift in range(1, min(cells, grid.shape[-1])):
        longer = maxima[-1].clone()
        inside = longer[..., :-shift]
        torch.maximum(inside, grid[..., shift:], out=inside)
        maxima.append(longer)
    return maxima


def path_maximum(maxima: Sequence[Tensor], offset: tuple[int, int], radius: int) -> Tensor:
    """The largest value on the path from each source cell to its target at `offset`: (..., rows, columns).

    Args:
        maxima: of `running_maxima`, for as many cells as the radius.
        offset: (dy, dx), one of `pixaff.ops.neighbours.offsets(radius)`.
        radius: which cells are sources, see `pixaff.ops.neighbours.source_shape`.
    """
    first, *others = (_run_view(maxima, run, radius) for run in path_runs(offset))
    if not others:
        return first.clone()
    largest = torch.maximum(first, others[0])
    for values in others[1:]:
        torch.maximum(largest, values, out=largest)
    return largest


def share_gradient(
    gradient: Tensor,
    maximum: Tensor,
    maxima: Sequence[Tensor],
    shares: Sequence[Tensor],
    offset: tuple[int, int],
    radius: int,
) -> None:
    """Pass the gradient of `path_maximum` to the first run of each path that contains the maximum.

    Args:
        gradient: like `maximum`; overwritten.
        maximum: of `path_maximum`.
        maxima, offset, radius: the arguments of `path_maximum`.
        shares: gradients of `maxima`, to which the shares are added.
    """
    for run in path_runs(offset):
        part = gradient * (_run_view(maxima, run, radius) == maximum)
        _run_view(shares, run, radius).add_(part)
        gradient -= part


def grid_gradient(maxima: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """The gradient of the argument of `running_maxima`, from those of its results, which are overwritten."""
    grid, total = maxima[0], shares[0]
    for shift in range(len(maxima) - 1, 0, -1):
        shorter, share, inside = maxima[shift - 1], shares[shift], shares[shift][..., :-shift]
        part = inside * (grid[..., shift:] > shorter[..., :-shift])
        total[..., shift:] += part
        inside -= part
        shares[shift - 1].add_(share)
    return total


class _BoundaryAffinity(torch.autograd.Function):
    """Autograd would keep what each path is compared with; this keeps only the boundary map."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, radius: int) -> Tensor:
        pairs = offsets(radius)
        rows, columns = source_shape(edge.shape[1], edge.shape[2], radius)
        affinity = edge.new_empty(len(edge), len(pairs), rows, columns)
        if affinity.numel():
            maxima = running_maxima(edge, radius)
            for p, offset in enumerate(pairs):
                torch.sub(1, path_maximum(maxima, offset, radius), out=affinity[:, p])
        ctx.save_for_backward(edge)
        ctx.radius = radius
        return affinity.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (edge,) = ctx.saved_tensors
        radius = ctx.radius
        if not gradient.numel():
            return torch.zeros_like(edge), None
        rows, columns = source_shape(edge.shape[1], edge.shape[2], radius)
        slopes = gradient.reshape(*gradient.shape[:2], rows, columns)
        maxima = running_maxima(edge, radius)
        shares = [torch.zeros_like(grid) for grid in maxima]
        for p, offset in enumerate(offsets(radius)):
            maximum = path_maximum(maxima, offset, radius)
            share_gradient(slopes[:, p].neg(), maximum, maxima, shares, offset, radius)
        return grid_gradient(maxima, shares), None


def _run_view(maxima: Sequence[Tensor], run: Run, radius: int) -> Tensor:
    """View of the largest values of `run` for each source cell."""
    return target_view(maxima[run.cells - 1], (run.row, run.column), radius)


def _check_edge(edge: Tensor) -> None:
    if edge.ndim not in (2, 3) or 0 in edge.shape or not edge.is_floating_point():
        raise ValueError(f"edge: found {edge.dtype} {tuple(edge.shape)}, expected floating ([B,] h, w)")


def _check_image(scores: Tensor, edge: Tensor) -> None:
    if scores.ndim != 3 or 0 in scores.shape or not scores.is_floating_point():
        raise ValueError(f"scores: found {scores.dtype} {tuple(scores.shape)}, expected floating (classes, h, w)")
    if edge.shape != scores.shape[1:] or not edge.is_floating_point():
        raise ValueError(
            f"edge: found {edge.dtype} {tuple(edge.shape)}, expected floating {tuple(scores.shape[1:])} like the scores"
        )
    low, high = (bound.item() for bound in edge.aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ValueError(f"edge: found values {low:g} to {high:g}, expected 0 to 1")
