"""Which pairs of grid nodes the affinities belong to (AffinityNet, arXiv 1803.10464, section 3.2).

A pair is a source node and an offset. Sources are the nodes for which every offset is inside the grid: rows 0..h-r and
columns r-1..w-r for radius r, row-major, L = (h - (r-1)) * (w - 2(r-1)) of them. Other nodes only occur as targets, so
nodes at the border have fewer neighbours: this is the published graph.

The full graph gives every node all its neighbours within the radius: each node is a source, L = h * w. It is the
published graph of a grid with margins (`with_margins`) outside the window of sources; pairs that reach into a margin
have affinity 0 (`pairs_inside`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Borders = Literal["published", "full"]
"""Neighbours of the nodes near the border of the grid: those of the published graph, or all."""


@lru_cache(maxsize=16)
def offsets(radius: int = 5) -> tuple[tuple[int, int], ...]:
    """Half of the disc dy^2 + dx^2 < radius^2, without its centre, as (dy, dx); symmetry gives the other half.

    Order: (0,1)..(0,r-1), then row by row from dy = 1 with dx ascending. Radius 5 gives 34.

    Raises:
        ValueError: for a radius that is not an integer of at least 2 (a smaller disc contains no pair).
    """
    if not isinstance(radius, int) or radius < 2:
        raise ValueError(f"radius: found {radius!r}, expected an integer of at least 2")
    reach = radius - 1
    below = [(dy, dx) for dy in range(1, radius) for dx in range(-reach, radius) if dy * dy + dx * dx < radius * radius]
    return (*((0, dx) for dx in range(1, radius)), *below)


def source_shape(h: int, w: int, radius: int = 5, borders: Borders = "published") -> tuple[int, int]:
    """Rows and columns of the window of source nodes; (0, 0) on grids too small for one.

    Raises:
        ValueError: for other borders than "published" and "full".
    """
    if borders not in get_args(Borders):
        raise ValueError(f"borders: found {borders!r}, expected 'published' or 'full'")
    if borders == "full":
        return h, w
    rows, columns = h - (radius - 1), w - 2 * (radius - 1)
    return (rows, columns) if rows > 0 and columns > 0 else (0, 0)


def source_view(grid: Tensor, radius: int = 5) -> Tensor:
    """View of the source nodes of `grid` (..., h, w): (..., rows, columns) of `source_shape`."""
    return target_view(grid, (0, 0), radius)


def target_view(grid: Tensor, offset: tuple[int, int], radius: int = 5) -> Tensor:
    """View of the nodes at `offset` (dy, dx) from each source node of `grid` (..., h, w)."""
    rows, columns = source_shape(grid.shape[-2], grid.shape[-1], radius)
    top, left = (offset[0], radius - 1 + offset[1]) if rows else (0, 0)
    return grid[..., top : top + rows, left : left + columns]


def with_margins(grid: Tensor, radius: int = 5) -> Tensor:
    """`grid` (..., h, w) with zeros around it so that exactly its own nodes are sources: (..., h + r-1, w + 2(r-1)).

    `source_view` removes them again.
    """
    reach = radius - 1
    return F.pad(grid, (reach, reach, 0, reach))


def pairs_inside(h: int, w: int, radius: int = 5, device: torch.device | None = None) -> Tensor:
    """Which pairs of the full graph have both ends on the grid: bool (P, h * w)."""
    nodes = with_margins(torch.ones(h, w, dtype=torch.bool, device=device), radius)
    return torch.stack([target_view(nodes, offset, radius).flatten() for offset in offsets(radius)])
