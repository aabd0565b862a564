"""Gaussian filtering of scattered values on the permutohedral lattice.

Adams, Baek & Davis, *Fast High-Dimensional Filtering Using the Permutohedral Lattice*, Eurographics 2010 (sections 3
and 4). N points with d features each lie in simplices whose d + 1 corners are lattice vertices. A value is spread over
the corners of its simplex (splat), the vertices are blurred with (1/2, 1, 1/2) along each of the d + 1 lattice
directions, and every point reads back from its corners (slice): a Gaussian filter of unit variance in O(N d^2).

A vertex is an integer vector of d + 1 coordinates with sum 0, all equal modulo d + 1. Here it has one integer code, so
that a table or a sort replaces the usual hash table; splat and slice are sparse matrices.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_PART = 2**14
"""Points that are placed in the lattice at a time on the CPU."""


@dataclass(frozen=True)
class Lattice:
    """The filter of one set of N points with M lattice vertices.

    Vertex M, which is always zero, stands for neighbours that do not exist. The point weights 1 / sqrt(K 1) are folded
    into `splat` and `slice`: the whole filter is the symmetrically normalised kernel of DenseCRF implementations.
    """

    splat: Tensor  # (M + 1, N) float32 CSR, int32 indices
    neighbours: Tensor  # (d + 1, 2, M) int32: both neighbours of every vertex along every lattice direction
    slice: Tensor  # (N, M + 1) float32 CSR, int32 indices

    @functools.cached_property
    def mass(self) -> Tensor:
        """The filter of ones: float32 (N,)."""
        return self.filter(torch.ones(self.slice.shape[0], device=self.slice.device))

    def gather(self, values: Tensor) -> Tensor:
        """Splat and blur: float32 (N, C) or (N,) -> (M + 1, C) or (M + 1,), the values of the vertices."""
        vertices = self.splat @ values
        for before, after in self.neighbours:
            blurred = vertices.index_select(0, before)
            blurred += vertices.index_select(0, after)
            vertices[:-1].add_(blurred, alpha=0.5)
        return vertices

    def filter(self, values: Tensor) -> Tensor:
        """The normalised filter: float32 (N, C) or (N,) -> the same."""
        return self.slice @ self.gather(values)


def build_lattice(features: Sequence[Tensor]) -> Lattice:
    """The normalised lattice filter for points with the given features.

    Args:
        features: d float32 tensors of one shape and device, each one feature of all N points in units of its standard
            deviation. Their order matters (slightly) to the result, because the lattice is not rotation invariant.

    Raises:
        ValueError: the features span so many standard deviations that vertices cannot be numbered in 64 bits.
    """
    points = [feature.reshape(-1) for feature in features]
    # One part after the other, so that what is computed stays in the processor's cache.
    size = _PART if points[0].device.type == "cpu" else points[0].numel()
    parts = [_simplices(part) for part in zip(*(feature.split(size) for feature in points), strict=True)]
    weights = torch.cat([part for part, _, _ in parts])
    codes, shifts, box = _codes([part for _, *part in parts])
    columns, neighbours = _number(codes.view(-1), shifts, box)
    count, corners = codes.shape
    vertices = neighbours.shape[-1]

    # Grouping the corners by vertex gives the rows of splat. The row of the stand-in vertex stays empty.
    order = _stable_argsort(columns, vertices)
    owners = _quotients(order, corners)
    splat_rows = torch.zeros(vertices + 2, dtype=torch.int32, device=codes.device)
    splat_rows[1:] = torch.bincount(columns, minlength=vertices + 1).cumsum(0)
    slice_rows = torch.arange(0, codes.numel() + 1, corners, dtype=torch.int32, device=codes.device)

    def assemble(weights: Tensor) -> Lattice:
        flat = weights.view(-1)
        splat = _csr(splat_rows, owners, flat.index_select(0, order), (vertices + 1, count))
        return Lattice(splat, neighbours, _csr(slice_rows, columns, flat, (count, vertices + 1)))

    return assemble(weights * assemble(weights).mass.add(1e-20).rsqrt_()[:, None])


def _simplices(features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of every point and the point's place in it (section 3.1 of the paper).

    Returns:
        Weights of the corners, float32 (N, d+1): barycentric coordinates times the square root of the filter's constant
        1 / (1 + 2^-d), half of which belongs to splat and half to slice. Rank of every coordinate, int64 (d+1, N), and
        the corner of remainder 0 in units of d + 1, float32 (d+1, N), which together name the corners.
    """
    d = len(features)
    elevated = _elevate(features)
    # The nearest multiple of d + 1 in every coordinate. Ties go to even numbers here and to the lower index below, as
    # in the SSE code of DenseCRF: on flat images ties decide which vertices exist.
    base = torch.round(elevated * (1 / (d + 1)))
    residual = elevated - base * (d + 1)
    # Rank = number of coordinates with a larger residual.
    rank = torch.arange(d + 1, dtype=torch.int8, device=base.device)[:, None].repeat(1, base.shape[1])
    for i in range(d):
        below = (residual[i] < residual[i + 1 :]).view(torch.int8)
        rank[i + 1 :] -= below
        for row in below:
            rank[i] += row
    # The rounded point may miss the plane of sum 0: the coordinates furthest off move by one unit.
    rank += base.sum(0).to(torch.int8)
    wrap = (rank < 0).view(torch.int8) - (rank > d).view(torch.int8)
    rank += wrap * (d + 1)
    base += wrap
    residual = (elevated - base * (d + 1)) * (1 / (d + 1))

    # Barycentric coordinates are differences of neighbouring residuals in order of rank.
    places = rank.long()
    by_rank = torch.empty_like(residual).scatter_(0, places, residual)
    weights = residual.new_empty(residual.shape[1], d + 1)
    torch.sub(by_rank[d] + 1, by_rank[0], out=weights[:, 0])
    for corner in range(1, d + 1):
        torch.sub(by_rank[d - corner], by_rank[d - corner + 1], out=weights[:, corner])
    return weights.mul_((1 + 2.0**-d) ** -0.5), places, base


def _elevate(features: Sequence[Tensor]) -> Tensor:
    """Features -> float32 (d+1, N) positions in the plane of sum 0, scaled so that the blurs have unit variance."""
    d = len(features)
    elevated = features[0].new_empty(d + 1, features[0].numel())
    tail = torch.zeros_like(elevated[0])
    for i in range(d, 0, -1):
        scaled = features[i - 1] * ((d + 1) * math.sqrt(2 / 3 / (i * (i + 1))))
        torch.sub(tail, scaled, alpha=i, out=elevated[i])
        tail += scaled
    elevated[0] = tail
    return elevated


def _codes(parts: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[int], int]:
    """Codes of the corners of every simplex: (codes int (N, d+1), shift of a step along each direction, code limit).

    The differences of successive coordinates of a vertex, over d + 1, are whole numbers in a box that is not much
    larger than the lattice's part in use; the code is the position in this box. It is linear in the coordinates.

    Args:
        parts: Rank and corner of remainder 0, as `_simplices` returns them, of some of the points each.
    """
    d = len(parts[0][0]) - 1
    units = [base.int() for _, base in parts]
    steps = [unit[:-1] - unit[1:] for unit in units]
    low = torch.stack([part.amin(1) for part in steps]).amin(0)
    high = torch.stack([part.amax(1) for part in steps]).amax(0)
    # Two more on both sides: one for the other corners, one for neighbours that may not exist.
    sizes = [size + 5 for size in (high - low).tolist()]
    box = math.prod(sizes)
    if box >= 2**63:
        raise ValueError(f"expected features that span fewer standard deviations, found a lattice of {sizes} steps")
    strides = [math.prod(sizes[i + 1 :]) for i in range(d)]
    shifts = [after - before for after, before in zip([*strides, 0], [0, *strides], strict=True)]
    dtype = torch.int32 if box < 2**31 else torch.int64
    shift = torch.tensor(shifts, dtype=dtype, device=low.device)[:, None]
    codes = shift.new_empty(sum(part.shape[1] for part in steps), d + 1)
    begin = 0
    for (rank, _), part in zip(parts, steps, strict=True):
        code = torch.zeros(part.shape[1], dtype=dtype, device=low.device)
        for step, stride in zip((part - (low[:, None] - 2)).to(dtype), strides, strict=True):
            code.add_(step, alpha=stride)
        # From corner to corner all coordinates grow by 1, but one falls by d: the one of the highest rank left.
        by_rank = shift.new_empty(rank.shape).scatter_(0, rank, shift.expand(rank.shape))
        these = codes[begin : begin + len(code)]
        begin += len(code)
        these[:, 0] = code
        for corner in range(1, d + 1):
            code -= by_rank[d - corner + 1]
            these[:, corner] = code
    return codes, shifts, box


def _number(codes: Tensor, shifts: list[int], box: int) -> tuple[Tensor, Tensor]:
    """Number the distinct codes in ascending order, and find their neighbours.

    Returns:
        The number of each code, int32, and the numbers of both neighbours of each of the M distinct codes along every
        direction, int32 (d+1, 2, M), M standing for those that do not exist.
    """
    shift = torch.tensor(shifts, dtype=torch.int64, device=codes.device)[:, None, None]
    shift = torch.cat([shift, -shift], 1)
    if box > 8 * codes.numel() + 2**20:
        known, numbers = torch.unique(codes, return_inverse=True)
        wanted = known + shift
        place = torch.searchsorted(known, wanted.to(known.dtype), out_int32=True)
        missing = known.index_select(0, place.clamp(max=known.numel() - 1).view(-1)).view_as(wanted) != wanted
        return numbers.int(), place.masked_fill_(missing, known.numel())
    # A table of the whole box is small enough, and much faster than sorting.
    present = torch.zeros(box, dtype=torch.bool, device=codes.device).index_fill_(0, codes.long(), True)
    # numpy's search for ones is several times faster than torch's.
    known = present.nonzero().view(-1) if present.is_cuda else torch.from_numpy(np.flatnonzero(present.numpy()))
    table = torch.full((box,), known.numel(), dtype=torch.int32, device=codes.device)
    table[known] = torch.arange(known.numel(), dtype=torch.int32, device=codes.device)
    wanted = known + shift
    return table.index_select(0, codes), table.index_select(0, wanted.view(-1)).view_as(wanted)


def _stable_argsort(numbers: Tensor, limit: int) -> Tensor:
    """Order, int32, that sorts whole numbers from 0 to limit - 1 and keeps equal ones in place."""
    if numbers.device.type != "cpu":
        return torch.sort(numbers, stable=True).indices.int()
    # numpy sorts 16-bit numbers by counting, several times faster than torch compares.
    values = numbers.numpy()
    order = np.argsort(values.astype(np.uint16), kind="stable").astype(np.int32)
    if limit > 2**16:
        order = order[np.argsort((values >> 16).astype(np.uint16)[order], kind="stable")]
    return torch.from_numpy(order)


def _quotients(numbers: Tensor, divisor: int) -> Tensor:
    """Whole numbers, int32, divided by another and rounded down; numpy is several times faster than torch at it."""
    if numbers.device.type != "cpu":
        return torch.div(numbers, divisor, rounding_mode="floor")
    return torch.from_numpy(numbers.numpy() // np.int32(divisor))


def _csr(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        # Columns are not sorted within a row, which products do not need.
        return torch.sparse_csr_tensor(rows, columns, values, size, check_invariants=False)
