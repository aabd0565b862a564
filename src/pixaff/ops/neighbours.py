"""Which pairs of grid nodes the affinities belong to (AffinityNet, arXiv 1803.10464, section 3.2).

A pair is a source node and an offset. Sources are the nodes with every offset inside the grid, that is rows
0..h-r and columns r-1..w-r for radius r, row-major: L = (h - (r-1)) * (w - 2(r-1)) of them. Other nodes occur as
targets only, so border nodes have fewer neighbours: the published graph.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@lru_cache(maxsize=16)
def offsets(radius: int = 5) -> tuple[tuple[int, int], ...]:
    """Half of the disc dy^2 + dx^2 < radius^2, without its centre, as (dy, dx); symmetry gives the other half.

    Order: (0,1)..(0,r-1), then row by row from dy = 1 with dx ascending. Radius 5 gives 34.

    Raises:
        ValueError: for a radius that is not an integer of at least 2 (a smaller disc holds no pair).
    """
    if not isinstance(radius, int) or radius < 2:
        raise ValueError(f"radius: found {radius!r}, expected an integer of at least 2")
    reach = radius - 1
    below = [(dy, dx) for dy in range(1, radius) for dx in range(-reach, radius) if dy * dy + dx * dx < radius * radius]
    return (*((0, dx) for dx in range(1, radius)), *below)


def source_shape(h: int, w: int, radius: int = 5) -> tuple[int, int]:
    """Rows and columns of the window of source nodes; (0, 0) on grids too small to hold one."""
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
