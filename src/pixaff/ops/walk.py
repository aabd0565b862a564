"""Random walk of class scores over the affinity graph (AffinityNet, arXiv 1803.10464, section 3.3).

The paper multiplies scores by T^t, T being W^beta with its columns normalised, and computes T^t by squaring a dense
matrix. Here nothing dense is built. On column vectors the walk is M^t with M = D^-1 W^beta (rows normalised, D their
sums), a sparse matrix of at most 69 entries a row at radius 5, stored as CSR. M is similar to the symmetric
D^-1/2 W^beta D^-1/2, so its eigenvalues are real, within [-1, 1], and a polynomial close to x^t on that interval is
close to M^t: about sqrt(2 t ln(2/tol)) products instead of t (Sachdeva & Vishnoi, *Faster Algorithms via Approximation
Theory*, 2013, theorem 3.3). Using M itself rather than its symmetric form serves both solvers and saves two scalings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.neighbours import offsets, source_shape
from pixaff.ops.transition import transition_matrix

Solver = Literal["auto", "power", "chebyshev"]

# Images walked together as one matrix, at most: some 70 MB of it. One image's matrix is as fast by itself on a CPU;
# CUDA wants many images to be busy.
_BATCH_NODES = 2**17
# Below this many nodes a CPU walks on one thread. A product takes 0.1 ms for 3,000 nodes: more threads gain little when
# cores are idle, and when one is not they wait for its time slice in every product (measured: 600 ms a walk for 7).
_THREADED_NODES = 2**16
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
) -> list[Tensor]: ...


def random_walk(
    scores: Tensor | Sequence[Tensor],
    affinity: Tensor | Sequence[Tensor],
    beta: float = 8.0,
    steps: int = 256,
    radius: int = 5,
    solver: Solver = "auto",
    tol: float = 1e-5,
) -> Tensor | list[Tensor]:
    """Spread class scores over a grid along its affinities: scores T^steps.

    One image, or two equal-length lists: images of any sizes and numbers of classes, walked as few block-diagonal
    matrices. Not differentiable.

    Args:
        scores: (C, h, w), a floating type, one row per class to walk.
        affinity: (P, L) in [0, 1] on the same device, of `pixaff.ops.affinity.pair_affinity` with this radius.
        beta: exponent of the affinities, above 0; the larger, the more cautious the walk.
        steps: t, at least 0; 0 returns the scores.
        solver: "power" makes `steps` products; "chebyshev" makes the fewer that `tol` asks for (72 for 256
            steps); "auto" takes the one with fewer products.
        tol: bound of the error of "chebyshev" relative to the scores, in the norm weighted by node degree. The
            largest error of a single score is about of that size.

    Returns:
        (C, h, w), or a list of them: float64 if anything given is, else float32. Nodes without neighbours keep
        their scores, all of them do on grids too small for any pair.

    Raises:
        ValueError: for shapes, types, devices or settings that do not fit.
    """
    if isinstance(scores, Tensor) and isinstance(affinity, Tensor):
        return random_walk([scores], [affinity], beta, steps, radius, solver, tol)[0]
    if isinstance(scores, Tensor) or isinstance(affinity, Tensor):
        raise ValueError("scores and affinity: found a tensor and a list, expected two tensors or two lists")
    if len(scores) != len(affinity):
        raise ValueError(f"scores and affinity: found {len(scores)} and {len(affinity)}, expected as many")
    _check_settings(beta, steps, solver, tol)
    for one_scores, one_affinity in zip(scores, affinity, strict=True):
        _check_pair(one_scores, one_affinity, radius, scores[0].device)
    double = any(tensor.dtype == torch.float64 for tensor in (*scores, *affinity))
    dtype = torch.float64 if double else torch.float32

    results: dict[int, Tensor] = {}
    for batch in _batches(scores):
        grids = [(scores[i].shape[1], scores[i].shape[2]) for i in batch]
        device, nodes = scores[0].device, sum(h * w for h, w in grids)
        # Autocast would hand half precision to sparse products, which know none.
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _threads_for(nodes, device):
            matrix = transition_matrix([affinity[i] for i in batch], grids, beta, radius, dtype)
            walked = _walk(matrix, _pack([scores[i] for i in batch], dtype), steps, solver, tol)
            for i, part in zip(batch, walked.split([h * w for h, w in grids]), strict=True):
                results[i] = part[:, : len(scores[i])].t().contiguous().view(scores[i].shape)
    return [results[i] for i in range(len(scores))]


def cell_scores(scores: Tensor, stride: int = 8) -> Tensor:
    """Average scores over the cells of the affinity grid.

    Args:
        scores: (C, H, W), at the size of the photo; zero beyond its right and bottom border.
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
    """Bring walked scores back to the photo: bilinear (align_corners false), cropped at the right and bottom.

    Args:
        scores: (C, h, w), the grid of `cell_scores`.
        size: (H, W) of the photo.
        stride: that of `cell_scores`.

    Returns:
        (C, H, W).

    Raises:
        ValueError: for other shapes or types, and for a size whose grid is another.
    """
    _check_scores(scores)
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    if grid != tuple(scores.shape[1:]):
        raise ValueError(f"scores: found grid {tuple(scores.shape[1:])}, expected {grid} for the size {tuple(size)}")
    large = F.interpolate(scores[None], scale_factor=float(stride), mode="bilinear", align_corners=False)[0]
    return large[:, : size[0], : size[1]]


def _batches(scores: Sequence[Tensor]) -> Iterator[list[int]]:
    """Positions in `scores` of the images to walk together: alike in their number of classes, bounded in nodes."""
    batch: list[int] = []
    nodes = 0
    for i in sorted(range(len(scores)), key=lambda i: len(scores[i])):
        count = scores[i][0].numel()
        if batch and nodes + count > _BATCH_NODES:
            yield batch
            batch, nodes = [], 0
        batch.append(i)
        nodes += count
    if batch:
        yield batch


@contextmanager
def _threads_for(nodes: int, device: torch.device) -> Iterator[None]:
    """Hold the calling thread's products to one core where `_THREADED_NODES` says so."""
    threads = torch.get_num_threads()
    limit = device.type == "cpu" and nodes < _THREADED_NODES
    if limit:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if limit:
            torch.set_num_threads(threads)


def _pack(scores: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Scores of several images as (all their nodes, classes), zeros where an image has fewer classes than another."""
    width = -(-max(map(len, scores)) // _COLUMNS) * _COLUMNS
    packed = scores[0].new_zeros((sum(one[0].numel() for one in scores), width), dtype=dtype)
    for part, one in zip(packed.split([one[0].numel() for one in scores]), scores, strict=True):
        part[:, : len(one)] = one.flatten(1).t()
    return packed


def _walk(matrix: Tensor, scores: Tensor, steps: int, solver: Solver, tol: float) -> Tensor:
    """matrix^steps scores, by the solver; overwrites `scores`."""
    if steps == 0:
        return scores
    coefficients = _chebyshev_coefficients(steps, tol)
    if solver == "power" or (solver == "auto" and len(coefficients) > steps):
        return _power(matrix, scores, steps)
    return _chebyshev(matrix, scores, coefficients)


def _power(matrix: Tensor, scores: Tensor, steps: int) -> Tensor:
    other = torch.zeros_like(scores)
    for _ in range(steps):
        torch.addmm(other, matrix, scores, beta=0, out=other)
        scores, other = other, scores
    return scores


def _chebyshev(matrix: Tensor, scores: Tensor, coefficients: Sequence[float]) -> Tensor:
    """sum_k c_k T_k(matrix) scores, by T_k = 2 matrix T_(k-1) - T_(k-2)."""
    total = scores * coefficients[0]
    previous, current = scores, matrix @ scores
    total.add_(current, alpha=coefficients[1])
    for coefficient in coefficients[2:]:
        torch.addmm(previous, matrix, current, beta=-1, alpha=2, out=previous)
        previous, current = current, previous
        if coefficient:
            total.add_(current, alpha=coefficient)
    return total


@lru_cache(maxsize=64)
def _chebyshev_coefficients(steps: int, tol: float) -> tuple[float, ...]:
    """c_0..c_d of x^steps in Chebyshev polynomials, cut where the rest sums to tol/2 and scaled to sum 1.

    c_k = 2^(1-t) binom(t, (t-k)/2), half of it at k = 0, 0 where t - k is odd. |T_k| <= 1 on [-1, 1], so the sum of
    the rest bounds the error; scaling, which costs as much again, keeps constants and lone nodes exactly.
    """
    start = steps % 2
    terms = [1.0]  # of k = start, start + 2, ...; relative to the first
    for k in range(start, steps, 2):
        term = terms[-1] * (steps - k) / (steps + k + 2) * (2 if k == 0 else 1)
        if term < 1e-20:
            break
        terms.append(term)
    allowed = sum(terms) * tol / 2
    rest = 0.0
    while len(terms) > 1 and rest + terms[-1] <= allowed:
        rest += terms.pop()
    kept = sum(terms)
    coefficients = [0.0] * max(2, start + 2 * len(terms) - 1)
    coefficients[start::2] = [term / kept for term in terms]
    return tuple(coefficients)


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


def _check_pair(scores: Tensor, affinity: Tensor, radius: int, device: torch.device) -> None:
    _check_scores(scores)
    h, w = scores.shape[1:]
    pairs = len(offsets(radius))
    if h * w * (2 * pairs + 1) >= 2**31:
        raise ValueError(f"scores: found grid {h}x{w}, expected at most {2**31 // (2 * pairs + 1)} nodes")
    expected = (pairs, math.prod(source_shape(h, w, radius)))
    if tuple(affinity.shape) != expected or not affinity.is_floating_point():
        raise ValueError(
            f"affinity: found {affinity.dtype} {tuple(affinity.shape)}, expected floating {expected} "
            f"for a {h}x{w} grid and radius {radius}"
        )
    for name, tensor in (("scores", scores), ("affinity", affinity)):
        if tensor.device != device:
            raise ValueError(f"{name}: found on {tensor.device}, expected on {device} like the first scores")
    if affinity.numel():
        low, high = (bound.item() for bound in affinity.aminmax())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ValueError(f"affinity: found values {low:g} to {high:g}, expected 0 to 1")
