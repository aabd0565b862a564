"""The background score at any alpha from those at a few, so that one random walk serves every alpha.

A walk is linear in its rows, and so is the average over cells: a linear relation between the scores (1 - c)^alpha of a
pixel also holds between the propagated rows of the background. Written as exp(-s e^x) with s = -log(1 - c) and x = log
alpha, the score is an entire function of x, bounded by 1 where |Im x| <= pi/2 whatever s is. Interpolation in x at
Chebyshev points therefore converges geometrically and uniformly over all c in 0..1 (Trefethen, *Approximation Theory
and Approximation Practice*, chapter 8): 21 alphas from 1/16 to 64 give every alpha between them within 7e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LOWEST, HIGHEST = 0.0625, 64.0
POINTS = 21


def background_powers() -> tuple[float, ...]:
    """The alphas to propagate, from `LOWEST` to `HIGHEST`: extreme points of a Chebyshev polynomial in log alpha."""
    middle, half = math.log(LOWEST * HIGHEST) / 2, math.log(HIGHEST / LOWEST) / 2
    inner = [math.exp(middle - half * math.cos(math.pi * k / (POINTS - 1))) for k in range(1, POINTS - 1)]
    return (LOWEST, *inner, HIGHEST)


def power_weights(powers: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Weights w, summing to 1, with (1 - c)^alpha = sum of w_k (1 - c)^powers_k up to the error given above.

    Lagrange's polynomials in log alpha.

    Args:
        powers: At least two different alphas, above 0.
        alpha: The alpha that is needed, between the smallest and the largest of them.

    Raises:
        ValueError: For other powers, or an alpha outside their range.

    Example:
        >>> weights = power_weights(background_powers(), 10.0)
        >>> abs(sum(w * 0.9**p for w, p in zip(weights, background_powers())) - 0.9**10) < 7e-5
        True
    """
    if len(set(powers)) != len(powers) or len(powers) < 2 or not min(powers) > 0:
        raise ValueError(f"powers: found {list(powers)}, expected at least two different ones above 0")
    if not min(powers) <= alpha <= max(powers):
        raise ValueError(f"alpha: found {alpha:g}, expected {min(powers):g} to {max(powers):g}")
    x, at = math.log(alpha), [math.log(power) for power in powers]
    return tuple(math.prod((x - other) / (mine - other) for other in at if other != mine) for mine in at)
