"""Figures of IRN's published implementation, and slow versions of its rules, pair after pair and cell after cell."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixaff.ops.neighbours import offsets

DATA = Path(__file__).parent / "data"
IMAGE = DATA / "crf_image.png"
PRESENT = (7, 14)
"""Cat and person, 0-based."""


@lru_cache(maxsize=1)
def irn_figures() -> dict[str, Tensor]:
    """Arrays by name; not to be changed."""
    with np.load(DATA / "reference_irn.npz") as data:
        return {name: torch.from_numpy(np.asarray(data[name])) for name in data}


def path(dy: int, dx: int) -> list[tuple[int, int]]:
    """Cells of the rectangle from (0, 0) to (dy, dx) that are less than one cell from the line between its corners."""
    rows, columns = range(min(0, dy), max(0, dy) + 1), range(min(0, dx), max(0, dx) + 1)
    length = np.hypot(dy, dx)
    return [(y, x) for y in rows for x in columns if abs(dy * x - dx * y) / length < 1 - 1e-9]


def pairs(h: int, w: int, radius: int, full: bool) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """(number of the offset, source, target) of all pairs, offset by offset."""
    reach = radius - 1
    rows, columns = (range(h), range(w)) if full else (range(h - reach), range(reach, w - reach))
    return [
        (p, (y, x), (y + dy, x + dx))
        for p, (dy, dx) in enumerate(offsets(radius))
        for y in rows
        for x in columns
        if 0 <= x + dx < w and y + dy < h
    ]


def slow_pair_affinity(edge: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """1 - the largest value on the path; a scalar that autograd follows."""
    way = path(target[0] - source[0], target[1] - source[1])
    return 1 - torch.stack([edge[source[0] + y, source[1] + x] for y, x in way]).max()


def slow_walk(scores: Tensor, edge: Tensor, beta: float, steps: int, radius: int) -> Tensor:
    """scores * (1 - edge) times T^steps, T a dense matrix in float64."""
    h, w = edge.shape
    edge = edge.double()
    weights = torch.eye(h * w, dtype=torch.float64)
    for _, source, target in pairs(h, w, radius, full=True):
        i, j = source[0] * w + source[1], target[0] * w + target[1]
        weights[i, j] = weights[j, i] = slow_pair_affinity(edge, source, target)
    step = weights**beta
    step = step / step.sum(0)
    walked = (scores.double() * (1 - edge)).flatten(1) @ torch.linalg.matrix_power(step, steps)
    return walked.view(scores.shape)
