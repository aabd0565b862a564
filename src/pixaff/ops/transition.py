"""The sparse matrix of one step of the random walk, built from pair affinities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.ops.neighbours import offsets, source_shape, source_view, target_view

# Index structures of grids up to this size are cached; the largest take some 12 MB each. Four serve most photos of a
# folder with a few usual sizes, and building one takes 1 % of a photo's time. More of them, freed at random times,
# leave gaps that hold no larger tensor, and the memory of a process grows over thousands of photos.
_CACHED_NODES, _CACHED = 2**14, 4


class Transition(NamedTuple):
    """One step of the walk over n nodes."""

    matrix: Tensor  # CSR (n, n): at most 2 P + 1 entries a row, columns ascending
    degrees: Tensor  # (n,), of the matrix's type


def transition_matrix(
    affinities: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    beta: float,
    radius: int,
    dtype: torch.dtype,
    factor: float = 1.0,
    shift: float = 0.0,
) -> Transition:
    """D^-1 W^beta of each image, as blocks on the diagonal of one matrix, and the node degrees D.

    W contains the affinities, in both directions, and ones on the diagonal; the power is elementwise; D are the row
    sums.

    Args:
        affinities: (P, L) each, all on one device, in the order of `pixaff.ops.affinity.pair_affinity`.
        grids: (h, w) of each.
        factor, shift: the matrix is multiplied by the factor, then its diagonal is lowered by the shift; this moves the
            spectrum.

    Returns:
        Of n = sum of h*w nodes.
    """
    row_starts, columns, rows, diagonals, values = [], [], [], [], []
    nodes = entries = 0
    for affinity, (h, w) in zip(affinities, grids, strict=True):
        build = _cached_pattern if h * w <= _CACHED_NODES else _build_pattern
        pattern = build(h, w, radius, affinity.device)
        weights = F.pad(_power(affinity.to(dtype), beta).flatten(), (0, 1), value=1.0)
        values.append(weights.index_select(0, pattern.pairs))
        columns.append(pattern.columns + nodes if nodes else pattern.columns)
        rows.append(pattern.rows + nodes if nodes else pattern.rows)
        diagonals.append(pattern.diagonal + entries if entries else pattern.diagonal)
        row_starts.append(pattern.row_starts[1:] + entries if entries else pattern.row_starts)
        nodes += h * w
        entries += pattern.columns.numel()
    parts = (row_starts, columns, rows, diagonals, values)
    starts, column, row, diagonal, value = (part[0] if len(part) == 1 else torch.cat(part) for part in parts)
    degrees = _csr(starts, column, value) @ value.new_ones(nodes)
    value.mul_((factor / degrees).index_select(0, row))
    if shift:
        value[diagonal] -= shift
    return Transition(_csr(starts, column, value), degrees)


def _power(values: Tensor, exponent: float) -> Tensor:
    """values^exponent. Powers of two, such as the paper's 8, by squaring: torch.pow takes eight times as long."""
    squarings = math.log2(exponent)
    if squarings != int(squarings) or not 0 <= squarings <= 5:
        return values.pow(exponent)
    for _ in range(int(squarings)):
        values = values * values
    return values


class _Pattern(NamedTuple):
    """The positions of the entries in the matrix of one grid, row by row, and the pair to which each belongs."""

    row_starts: Tensor  # int32 (h*w + 1,)
    columns: Tensor  # int32 (entries,)
    rows: Tensor  # int32 (entries,)
    diagonal: Tensor  # int32 (h*w,): places of the diagonal among the entries
    pairs: Tensor  # int32 (entries,): position in the flattened (P, L) affinities; P*L stands for the diagonal


def _build_pattern(h: int, w: int, radius: int, device: torch.device) -> _Pattern:
    """The pattern of a grid: that of a low grid, whose middle row is repeated for a higher one."""
    low = 2 * radius - 1
    pattern = _build_low_pattern(min(h, low), w, radius, device)
    if h <= low:
        return pattern
    # The nodes of all rows but the first and last radius-1 have neighbours alike: from row to row, the numbers of
    # nodes rise by w and those of pairs, which are counted offset by offset, by the sources of a row.
    more = h - low
    above, below = (radius - 1) * w, radius * w
    first, last = int(pattern.row_starts[above]), int(pattern.row_starts[below])
    down = torch.arange(more + 1, dtype=torch.int32, device=device)[:, None]

    def stretch(numbers: Tensor, rise: Tensor, start: int, stop: int) -> Tensor:
        middle = numbers[start:stop] + down * rise[start:stop]
        return torch.cat([numbers[:start], middle.flatten(), numbers[stop:] + more * rise[stop:]])

    source_rows, source_columns = source_shape(low, w, radius)
    is_pair = (pattern.pairs < len(offsets(radius)) * source_rows * source_columns).int()
    offset = torch.div(pattern.pairs, max(1, source_rows * source_columns), rounding_mode="floor")
    to_row = torch.full_like(pattern.rows, w)
    entries = torch.full_like(pattern.diagonal, last - first)
    return _Pattern(
        F.pad(stretch(pattern.row_starts[1:], entries, above, below), (1, 0)),
        stretch(pattern.columns, to_row, first, last),
        stretch(pattern.rows, to_row, first, last),
        stretch(pattern.diagonal, entries, above, below),
        stretch(pattern.pairs + offset * more * source_columns, is_pair * source_columns, first, last),
    )


def _build_low_pattern(h: int, w: int, radius: int, device: torch.device) -> _Pattern:
    half = offsets(radius)
    rows, columns = source_shape(h, w, radius)
    pairs = len(half) * rows * columns
    # The slots of a node, ordered by its neighbours' numbers: opposite offsets backwards, itself, offsets. pair_at
    # has the pair that each slot of each node stands for, -1 where there is none.
    pair_at = torch.full((2 * len(half) + 1, h, w), -1, dtype=torch.int32, device=device)
    pair_at[len(half)] = pairs
    numbers = torch.arange(pairs, dtype=torch.int32, device=device).view(len(half), rows, columns)
    for p, offset in enumerate(half):
        source_view(pair_at[len(half) + 1 + p], radius).copy_(numbers[p])
        target_view(pair_at[len(half) - 1 - p], offset, radius).copy_(numbers[p])
    shifts = [dy * w + dx for dy, dx in half]
    shift = torch.tensor([-s for s in reversed(shifts)] + [0, *shifts], dtype=torch.int32, device=device)
    neighbours = torch.arange(h * w, dtype=torch.int32, device=device)[:, None] + shift
    exists = pair_at.flatten(1).t() >= 0
    row_starts = F.pad(exists.sum(1).cumsum(0), (1, 0)).int()
    diagonal = row_starts[:-1] + exists[:, : len(half)].sum(1, dtype=torch.int32)
    # One index into the flattened slots: a boolean mask would make two, twice as wide as all else here.
    kept = exists.flatten().nonzero().squeeze(1)
    of_entry = torch.div(kept, len(shift), rounding_mode="floor").int()
    by_node = pair_at.flatten(1).t().flatten().index_select(0, kept)
    return _Pattern(row_starts, neighbours.flatten().index_select(0, kept), of_entry, diagonal, by_node)


_cached_pattern = lru_cache(maxsize=_CACHED)(_build_pattern)


def _csr(row_starts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Square CSR matrix; indices are int32, which MKL requires and CUDA accepts."""
    nodes = row_starts.numel() - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(row_starts, columns, values, (nodes, nodes), check_invariants=False)
