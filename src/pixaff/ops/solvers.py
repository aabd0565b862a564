"""M^t times scores for the transition matrix M of a walk, by t products, or by fewer with a polynomial close to x^t.

M = D^-1 W^beta is similar to the symmetric D^-1/2 W^beta D^-1/2, so its eigenvalues are real, within [-1, 1], and a
polynomial close to x^t on that interval is close to M^t: about sqrt(2 t ln(2/tol)) products instead of t (Sachdeva &
Vishnoi, *Faster Algorithms via Approximation Theory*, 2013, theorem 3.3). Using M itself rather than its symmetric
form serves both solvers and saves two scalings.

Affinities never lead to an eigenvalue near -1, for which the graph would have to be bipartite and without loops (see
`_LOWEST`). A polynomial for the used part of the interval has a seventh fewer terms; a check afterwards makes sure that
no eigenvalue is outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pixaff.ops.transition import Transition

Solver = Literal["auto", "power", "chebyshev"]

# Eigenvalues are taken to lie above this. Photos' lowest ones were -0.30 to -0.43 (the outermost nodes of the published
# graph make them; a disc's inside has -0.13), those of random sparse graphs -0.48.
_LOWEST = -0.5


def take_steps(
    build: Callable[[float, float], Transition], scores: Tensor, steps: int, solver: Solver, tol: float
) -> Tensor:
    """M^steps scores.

    Args:
        build: makes factor * M - shift * identity from (factor, shift); called a second time if eigenvalues turn out to
            be lower than usual.
        scores: (n, C), may be overwritten.
        steps, solver, tol: see `pixaff.ops.walk.random_walk`.

    Returns:
        (n, C).
    """
    if steps == 0:
        return scores
    for low in (_LOWEST, -1.0):
        coefficients = _chebyshev_coefficients(steps, tol, low)
        if solver == "power" or (solver == "auto" and len(coefficients) > steps):
            return _power(build(1.0, 0.0).matrix, scores, steps)
        transition = build(2 / (1 - low), (1 + low) / (1 - low))
        walked, last = _chebyshev(transition.matrix, scores, coefficients)
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

    The spectrum of the matrix has been shifted to [-1, 1].
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
    """c_0..c_d of x^steps on [low, 1] in Chebyshev polynomials, cut off where the rest sums to tol/2, and scaled to sum
    1.

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
