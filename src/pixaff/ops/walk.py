"""Random walk of class scores over the affinity graph (AffinityNet, arXiv 1803.10464, section 3.3).

The paper multiplies scores by T^t, T being W^beta with its columns normalised, and computes T^t by squaring a dense
matrix. Here nothing dense is built: on column vectors the walk is M^t with M = D^-1 W^beta (rows normalised, D their
sums), a sparse matrix with at most 69 entries per row at radius 5, which is only applied to the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.neighbours import Borders, offsets, pairs_inside, source_shape, source_view, with_margins
from pixaff.ops.solvers import Solver, take_steps
from pixaff.ops.threads import one_thread
from pixaff.ops.transition import transition_matrix

Spread = Callable[[Callable[[list[int]], list[Tensor]], list[list[int]]], Iterable[list[Tensor]]]
"""How the walks of several batches are mapped: by the built-in `map`, or by that of a pool."""

# Images walked together as one matrix, at most. CUDA wants many images to be busy: some 70 MB of matrix. A CPU walks
# each by itself, which its cache holds, and several side by side.
_BATCH_NODES = {"cuda": 2**17, "cpu": 0}
# Scores are walked in multiples of this many columns: MKL takes 0.08 ms for a product with 4 columns, 0.15 with 3.
_COLUMNS = 4


@overload
def random_walk(
    scores: Tensor,
    affinity: Tensor,
    beta: float = ...,
    steps: int = ...,
    radius: int = ...,
    solver: Solver = ...,
    tol: float = ...,
    borders: Borders = ...,
    spread: Spread = ...,
) -> Tensor: ...


@overload
def random_walk(
    scores: Sequence[Tensor],
    affinity: Sequence[Tensor],
    beta: float = ...,
    steps: int = ...,
    radius: int = ...,
    solver: Solver = ...,
    tol: float = ...,
    borders: Borders = ...,
    spread: Spread = ...,
) -> list[Tensor]: ...


def random_walk(
    scores: Tensor | Sequence[Tensor],
    affinity: Tensor | Sequence[Tensor],
    beta: float = 8.0,
    steps: int = 256,
    radius: int = 5,
    solver: Solver = "auto",
    tol: float = 1e-5,
    borders: Borders = "published",
    spread: Spread = map,
) -> Tensor | list[Tensor]:
    """Spread class scores over a grid along its affinities: scores T^steps.

    One image, or two lists of equal length: images of any sizes and numbers of classes, walked one after the other on a
    CPU (or as ``spread`` maps them), and as a few block-diagonal matrices on CUDA. Not differentiable.

    Args:
        scores: (C, h, w), a floating type, one row per class.
        affinity: (P, L) in [0, 1] on the same device, from `pixaff.ops.affinity.pair_affinity` with the same radius and
            borders.
        beta: exponent of the affinities, above 0; the larger, the more cautious the walk.
        steps: t, at least 0; 0 returns the scores.
        solver: "power" takes `steps` products; "chebyshev" takes fewer, as many as `tol` requires (62 for 256 steps);
            "auto" chooses the one with fewer products.
        tol: bound of the error of "chebyshev" relative to the scores, in the norm weighted by node degree. The largest
            error of a single score is of about that size.
        borders: "published" or "full", as for `pair_affinity`. With full borders, nodes near the corners and grids with
            fewer than 5 rows or 9 columns are walked as well.
        spread: maps a function over batches like the built-in `map`; that of a thread pool walks several at a time.

    Returns:
        (C, h, w), or a list of them: float64 if any input is, else float32. Nodes without neighbours keep their scores;
        with published borders, all of them do on grids too small for any pair.

    Raises:
        ValueError: for shapes, types, devices or settings that do not fit.
    """
    if isinstance(scores, Tensor) and isinstance(affinity, Tensor):
        return random_walk([scores], [affinity], beta, steps, radius, solver, tol, borders, spread)[0]
    if isinstance(scores, Tensor) or isinstance(affinity, Tensor):
        raise ValueError("scores and affinity: found a tensor and a list, expected two tensors or two lists")
    if len(scores) != len(affinity):
        raise ValueError(f"scores and affinity: found {len(scores)} and {len(affinity)}, expected as many")
    _check_settings(beta, steps, solver, tol)
    for one_scores, one_affinity in zip(scores, affinity, strict=True):
        _check_pair(one_scores, one_affinity, radius, borders, scores[0].device)
    if borders == "full":
        inner = [_with_margins(*pair, radius) for pair in zip(scores, affinity, strict=True)]
        starts, affinities = [s for s, _ in inner], [a for _, a in inner]
        margined = random_walk(starts, affinities, beta, steps, radius, solver, tol, spread=spread)
        return [source_view(one, radius).contiguous() for one in margined]
    double = any(tensor.dtype == torch.float64 for tensor in (*scores, *affinity))
    dtype = torch.float64 if double else torch.float32

    device = scores[0].device if scores else torch.device("cpu")

    def walk(batch: list[int]) -> list[Tensor]:
        grids = [(scores[i].shape[1], scores[i].shape[2]) for i in batch]
        # Autocast would pass half precision to sparse products, which do not support it. Both apply to one thread only.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            affinities = [affinity[i] for i in batch]
            _check_range(affinities)
            build = partial(transition_matrix, affinities, grids, beta, radius, dtype)
            walked = take_steps(build, _pack([scores[i] for i in batch], dtype), steps, solver, tol)
            parts = walked.split([h * w for h, w in grids])
            return [
                part[:, : len(scores[i])].t().contiguous().view(scores[i].shape)
                for i, part in zip(batch, parts, strict=True)
            ]

    batches = list(_batches(scores, device))
    with one_thread(device):
        results = {
            i: one
            for batch, found in zip(batches, spread(walk, batches), strict=True)
            for i, one in zip(batch, found, strict=True)
        }
    return [results[i] for i in range(len(scores))]


def cell_scores(scores: Tensor, stride: int = 8) -> Tensor:
    """Average scores over the cells of the affinity grid.

    Args:
        scores: (C, H, W), at the size of the photo; taken as zero beyond its right and bottom border.
        stride: side of a cell in pixels.

    Returns:
        (C, ceil(H/stride), ceil(W/stride)).

    Raises:
        ValueError: for other shapes or types.
    """
    _check_scores(scores)
    height, width = scores.shape[1:]
    return F.avg_pool2d(F.pad(scores, (0, -width % stride, 0, -height % stride)), stride)


def upsample_scores(scores: Tensor, size: tuple[int, int], stride: int = 8) -> Tensor:
    """Enlarge propagated scores to the photo: bilinear (align_corners false), cropped at the right and bottom.

    Args:
        scores: (C, h, w), the grid of `cell_scores`.
        size: (H, W) of the photo.
        stride: as for `cell_scores`.

    Returns:
        (C, H, W).

    Raises:
        ValueError: for other shapes or types, and for a size with another grid.
    """
    _check_scores(scores)
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    if grid != tuple(scores.shape[1:]):
        raise ValueError(f"scores: found grid {tuple(scores.shape[1:])}, expected {grid} for the size {tuple(size)}")
    large = F.interpolate(scores[None], scale_factor=float(stride), mode="bilinear", align_corners=False)[0]
    return large[:, : size[0], : size[1]]


def _with_margins(scores: Tensor, affinity: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Scores and affinities of the full graph, as those of a published graph whose margins have no neighbours."""
    h, w = scores.shape[1:]
    return with_margins(scores, radius), affinity * pairs_inside(h, w, radius, affinity.device)


def _batches(scores: Sequence[Tensor], device: torch.device) -> Iterator[list[int]]:
    """Positions in `scores` of images that are walked as one matrix: similar numbers of classes, not too many nodes."""
    most = _BATCH_NODES["cpu" if device.type == "cpu" else "cuda"]
    batch: list[int] = []
    nodes = 0
    for i in sorted(range(len(scores)), key=lambda i: len(scores[i])):
        count = scores[i][0].numel()
        if batch and nodes + count > most:
            yield batch
            batch, nodes = [], 0
        batch.append(i)
        nodes += count
    if batch:
        yield batch


def _pack(scores: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Scores of several images as (all their nodes, classes), with zeros if an image has fewer classes than another."""
    width = -(-max(map(len, scores)) // _COLUMNS) * _COLUMNS
    packed = scores[0].new_zeros((sum(one[0].numel() for one in scores), width), dtype=dtype)
    for part, one in zip(packed.split([one[0].numel() for one in scores]), scores, strict=True):
        part[:, : len(one)] = one.flatten(1).t()
    return packed


def _check_settings(beta: float, steps: int, solver: str, tol: float) -> None:
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta: found {beta}, expected a number above 0")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: found {steps!r}, expected an integer of at least 0")
    if solver not in ("auto", "power", "chebyshev"):
        raise ValueError(f"solver: found {solver!r}, expected 'auto', 'power' or 'chebyshev'")
    if not 0 < tol < 1:
        raise ValueError(f"tol: found {tol}, expected a number between 0 and 1")


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 3 or 0 in scores.shape or not scores.is_floating_point():
        raise ValueError(f"scores: found {scores.dtype} {tuple(scores.shape)}, expected floating (classes, h, w)")


def _check_pair(scores: Tensor, affinity: Tensor, radius: int, borders: Borders, device: torch.device) -> None:
    _check_scores(scores)
    h, w = scores.shape[1:]
    pairs = len(offsets(radius))
    if h * w * (2 * pairs + 1) >= 2**31:
        raise ValueError(f"scores: found grid {h}x{w}, expected at most {2**31 // (2 * pairs + 1)} nodes")
    expected = (pairs, math.prod(source_shape(h, w, radius, borders)))
    if tuple(affinity.shape) != expected or not affinity.is_floating_point():
        raise ValueError(
            f"affinity: found {affinity.dtype} {tuple(affinity.shape)}, expected floating {expected} "
            f"for a {h}x{w} grid, radius {radius} and {borders} borders"
        )
    for name, tensor in (("scores", scores), ("affinity", affinity)):
        if tensor.device != device:
            raise ValueError(f"{name}: found on {tensor.device}, expected on {device} like the first scores")


def _check_range(affinities: Iterable[Tensor]) -> None:
    for affinity in affinities:
        low, high = (bound.item() for bound in affinity.aminmax()) if affinity.numel() else (0.0, 1.0)
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ValueError(f"affinity: found values {low:g} to {high:g}, expected 0 to 1")
