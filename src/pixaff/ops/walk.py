"""Random walk of class scores over the affinity graph (AffinityNet, arXiv 1803.10464, section 3.3).

The paper multiplies scores by T^t, T being W^beta with its columns normalised, and computes T^t by squaring a dense
matrix. Here nothing dense is built. On column vectors the walk is M^t with M = D^-1 W^beta (rows normalised, D their
sums), a sparse matrix of at most 69 entries a row at radius 5, stored as CSR. M is similar to the symmetric
D^-1/2 W^beta D^-1/2, so its eigenvalues are real, within [-1, 1], and a polynomial close to x^t on that interval is
close to M^t: about sqrt(2 t ln(2/tol)) products instead of t (Sachdeva & Vishnoi, *Faster Algorithms via Approximation
Theory*, 2013, theorem 3.3). Using M itself rather than its symmetric form serves both solvers and saves two scalings.

Affinities make no eigenvalue near -1, which takes a graph of two sides without loops (see `_LOWEST`). A polynomial for
the part of the interval that is in use has a seventh less terms; afterwards it is checked that the part was the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.neighbours import Borders, offsets, pairs_inside, source_shape, source_view, with_margins
from pixaff.ops.transition import Transition, transition_matrix

Solver = Literal["auto", "power", "chebyshev"]

# Images walked together as one matrix, at most. CUDA wants many images to be busy: some 70 MB of matrix. A CPU walks
# each by itself, which its cache holds, and several side by side.
_BATCH_NODES = {"cuda": 2**17, "cpu": 0}
# Below this many nodes a CPU walks on one thread. A product takes 0.1 ms for 3,000 nodes: more threads gain little when
# cores are idle, and when one is not they wait for its time slice in every product (measured: 600 ms a walk for 7).
_THREADED_NODES = 2**15
# Scores are walked in multiples of this many columns: MKL takes 0.08 ms for a product with 4 columns, 0.15 with 3.
_COLUMNS = 4
# Eigenvalues are taken to lie above this. Photos' lowest ones were -0.30 to -0.43 (the outermost nodes of the published
# graph make them; a disc's inside has -0.13), those of random sparse graphs -0.48.
_LOWEST = -0.5


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
) -> Tensor | list[Tensor]:
    """Spread class scores over a grid along its affinities: scores T^steps.

    One image, or two equal-length lists: images of any sizes and numbers of classes, walked side by side on a CPU and
    as few block-diagonal matrices on CUDA. Not differentiable.

    Args:
        scores: (C, h, w), a floating type, one row per class to walk.
        affinity: (P, L) in [0, 1] on the same device, of `pixaff.ops.affinity.pair_affinity` with this radius and these
            borders.
        beta: exponent of the affinities, above 0; the larger, the more cautious the walk.
        steps: t, at least 0; 0 returns the scores.
        solver: "power" makes `steps` products; "chebyshev" makes the fewer that `tol` asks for (62 for 256
            steps); "auto" takes the one with fewer products.
        tol: bound of the error of "chebyshev" relative to the scores, in the norm weighted by node degree. The
            largest error of a single score is about of that size.
        borders: "published" or "full", as for `pair_affinity`. Full also walks what the published graph leaves alone:
            nodes near the corners, and grids of fewer than 5 rows or 9 columns.

    Returns:
        (C, h, w), or a list of them: float64 if anything given is, else float32. Nodes without neighbours keep
        their scores; with published borders all of them do on grids too small for any pair.

    Raises:
        ValueError: for shapes, types, devices or settings that do not fit.
    """
    if isinstance(scores, Tensor) and isinstance(affinity, Tensor):
        return random_walk([scores], [affinity], beta, steps, radius, solver, tol, borders)[0]
    if isinstance(scores, Tensor) or isinstance(affinity, Tensor):
        raise ValueError("scores and affinity: found a tensor and a list, expected two tensors or two lists")
    if len(scores) != len(affinity):
        raise ValueError(f"scores and affinity: found {len(scores)} and {len(affinity)}, expected as many")
    _check_settings(beta, steps, solver, tol)
    for one_scores, one_affinity in zip(scores, affinity, strict=True):
        _check_pair(one_scores, one_affinity, radius, borders, scores[0].device)
    if borders == "full":
        inner = [_with_margins(*pair, radius) for pair in zip(scores, affinity, strict=True)]
        margined = random_walk([s for s, _ in inner], [a for _, a in inner], beta, steps, radius, solver, tol)
        return [source_view(one, radius).contiguous() for one in margined]
    double = any(tensor.dtype == torch.float64 for tensor in (*scores, *affinity))
    dtype = torch.float64 if double else torch.float32

    device = scores[0].device if scores else torch.device("cpu")

    def walk(batch: list[int]) -> list[Tensor]:
        grids = [(scores[i].shape[1], scores[i].shape[2]) for i in batch]
        # Autocast would hand half precision to sparse products, which know none. Both are settings of a thread.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            transition = transition_matrix([affinity[i] for i in batch], grids, beta, radius, dtype)
            walked = _walk(transition, _pack([scores[i] for i in batch], dtype), steps, solver, tol)
            parts = walked.split([h * w for h, w in grids])
            return [
                part[:, : len(scores[i])].t().contiguous().view(scores[i].shape)
                for i, part in zip(batch, parts, strict=True)
            ]

    batches = list(_batches(scores, device))
    with _side_by_side(batches, scores, device) as spread:
        results = {
            i: one
            for batch, found in zip(batches, spread(walk, batches), strict=True)
            for i, one in zip(batch, found, strict=True)
        }
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


def _with_margins(scores: Tensor, affinity: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Scores and affinities of the full graph as those of a published graph; its margins have no neighbours."""
    h, w = scores.shape[1:]
    return with_margins(scores, radius), affinity * pairs_inside(h, w, radius, affinity.device)


def _batches(scores: Sequence[Tensor], device: torch.device) -> Iterator[list[int]]:
    """Positions in `scores` of the images to walk as one matrix: alike in their number of classes, bounded in nodes."""
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


Map = Callable[[Callable[[list[int]], list[Tensor]], list[list[int]]], Iterable[list[Tensor]]]


@contextmanager
def _side_by_side(batches: Sequence[list[int]], scores: Sequence[Tensor], device: torch.device) -> Iterator[Map]:
    """Yield what maps over the batches: in this thread, or on a CPU in as many as it may use, one core each."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or (len(batches) == 1 and scores[0][0].numel() >= _THREADED_NODES):
        yield map
        return
    count = min(threads, len(batches))
    try:
        if count <= 1:
            torch.set_num_threads(1)
            yield map
        else:
            with ThreadPoolExecutor(count, "walk", initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool.map
    finally:
        torch.set_num_threads(threads)  # parts of it, such as MKL's, hold for the whole process


def _pack(scores: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Scores of several images as (all their nodes, classes), zeros where an image has fewer classes than another."""
    width = -(-max(map(len, scores)) // _COLUMNS) * _COLUMNS
    packed = scores[0].new_zeros((sum(one[0].numel() for one in scores), width), dtype=dtype)
    for part, one in zip(packed.split([one[0].numel() for one in scores]), scores, strict=True):
        part[:, : len(one)] = one.flatten(1).t()
    return packed


def _walk(transition: Transition, scores: Tensor, steps: int, solver: Solver, tol: float) -> Tensor:
    """matrix^steps scores, by the solver; may overwrite `scores`."""
    if steps == 0:
        return scores
    for low in (_LOWEST, -1.0):
        coefficients = _chebyshev_coefficients(steps, tol, low)
        if solver == "power" or (solver == "auto" and len(coefficients) > steps):
            return _power(transition.matrix, scores, steps)
        moved = transition.moved(2 / (1 - low), (1 + low) / (1 - low))
        walked, last = _chebyshev(moved, scores, coefficients)
        # |T_k| <= 1 on the interval, so no term can be larger than the scores, in the norm in which the matrix is
        # symmetric. Beyond the interval T_k grows exponentially: an eigenvalue there shows, if only by rounding.
        if low == -1.0 or bool((_norms(last, transition) <= 1.01 * _norms(scores, transition)).all()):
            return walked
    raise AssertionError("the whole interval is always taken")


def _norms(values: Tensor, transition: Transition) -> Tensor:
    """Square of each column's norm, weighted by node degree: (n, C) -> (C,)."""
    return transition.degrees @ values.square()


def _power(matrix: Tensor, scores: Tensor, steps: int) -> Tensor:
    other = torch.zeros_like(scores)
    for _ in range(steps):
        torch.addmm(other, matrix, scores, beta=0, out=other)
        scores, other = other, scores
    return scores


def _chebyshev(matrix: Tensor, scores: Tensor, coefficients: Sequence[float]) -> tuple[Tensor, Tensor]:
    """sum_k c_k T_k(matrix) scores and the last T_k(matrix) scores, by T_k = 2 matrix T_(k-1) - T_(k-2).

    The matrix is one whose spectrum's interval has been moved to [-1, 1].
    """
    total = scores * coefficients[0]
    previous, current = scores.clone(), matrix @ scores
    total.add_(current, alpha=coefficients[1])
    for coefficient in coefficients[2:]:
        torch.addmm(previous, matrix, current, beta=-1, alpha=2, out=previous)
        previous, current = current, previous
        total.add_(current, alpha=coefficient)
    return total, current


@lru_cache(maxsize=64)
def _chebyshev_coefficients(steps: int, tol: float, low: float) -> tuple[float, ...]:
    """c_0..c_d of x^steps on [low, 1] in Chebyshev polynomials, cut where the rest sums to tol/2 and scaled to sum 1.

    |T_k| <= 1 on the interval, so the sum of the rest bounds the error; scaling, which costs as much again, keeps
    constants and lone nodes exactly.
    """
    # The rest beyond degree d is at most 2 exp(-d^2 / 2t), less than double precision holds from this one on.
    degree = max(1, min(steps, math.ceil(math.sqrt(80 * steps))))
    y = np.cos(np.pi * np.arange(2 * degree) / degree)
    terms = np.fft.rfft((((1 - low) * y + 1 + low) / 2) ** steps).real / degree
    terms[[0, -1]] /= 2
    rest = np.abs(terms[::-1]).cumsum()[::-1]  # of each term and those behind it
    kept = terms[: max(2, int((rest > tol / 2).sum()))]
    return tuple((kept / kept.sum()).tolist())


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
    if affinity.numel():
        low, high = (bound.item() for bound in affinity.aminmax())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ValueError(f"affinity: found values {low:g} to {high:g}, expected 0 to 1")
