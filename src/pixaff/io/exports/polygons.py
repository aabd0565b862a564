"""Outlines of regions as polygons, along the edges of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.75
"""Pixels by which a simplified outline may depart: just enough to make a slanting staircase a straight line."""

Ring = NDArray[np.float64]
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up


def outline(pixels: NDArray[np.bool_], tolerance: float = TOLERANCE) -> Ring:
    """The outline of a 4-connected region as one polygon.

    Holes are joined to the outer ring by a bridge without width, there and back, as neither COCO nor YOLO has a place
    for them: both the even-odd and the non-zero rule leave them empty.

    Args:
        pixels: bool (h, w), at least one True.
        tolerance: See `simplified`; 0 gives the exact edges of the pixels.

    Returns:
        float64 (n, 2): x, y of the corners; the pixel in row r and column c lies between c, c + 1 and r, r + 1.
    """
    rings = sorted((simplified(ring, tolerance) for ring in edges(pixels)), key=area, reverse=True)
    whole = rings[0]
    for hole in rings[1:]:
        distance = ((whole[:, None] - hole[None]) ** 2).sum(-1)
        at, start = np.unravel_index(int(distance.argmin()), distance.shape)
        around = np.roll(hole, -int(start), axis=0)
        whole = np.concatenate([whole[: at + 1], around, around[:1], whole[at:]])
    return whole


def edges(pixels: NDArray[np.bool_]) -> list[Ring]:
    """All rings of edges between True and False, with True on the right hand; corners only, (n, 2) of x, y.

    Diagonal neighbours are apart. Outer rings have a positive `area`, holes a negative one.
    """
    padded = np.pad(pixels, 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    corner = padded[:-1, :-1]
    # By direction, the corners from which an edge leads that way.
    leaving = [inside & ~above, left & ~inside, corner & ~left, above & ~corner]
    width = inside.shape[1]
    ahead = [set(np.flatnonzero(each).tolist()) for each in leaving]
    jumps = [x + y * width for x, y in _STEPS]
    rings = []
    for first in np.flatnonzero(leaving[0]).tolist():
        if first not in ahead[0]:
            continue
        at, way, turns = first, 0, [first]
        while True:
            at += jumps[way]
            # A right turn goes first: it stays at its own pixel where two of them touch at a corner.
            turn = next(turn for turn in (1, 0, 3) if at in ahead[(way + turn) % 4])
            way = (way + turn) % 4
            ahead[way].discard(at)
            if (at, way) == (first, 0):
                break
            if turn:
                turns.append(at)
        rings.append(np.stack(np.divmod(np.array(turns), width)[::-1], axis=1).astype(np.float64))
    return rings


def area(ring: Ring) -> float:
    """Signed area: positive for outer rings."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def simplified(ring: Ring, tolerance: float = TOLERANCE) -> Ring:
    """A ring with fewer corners, nowhere further than ``tolerance`` from those left out (Douglas and Peucker).

    A ring that would lose its area stays as it is.
    """
    if tolerance <= 0 or len(ring) <= 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), np.bool_)
    keep[[0, far, -1]] = True
    parts = [(0, far), (far, len(ring))]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        between, origin = closed[start + 1 : end], closed[start]
        along = closed[end] - origin
        length = float(np.hypot(*along))
        x, y = (between - origin).T
        distance = np.abs(along[0] * y - along[1] * x) / length if length else np.hypot(x, y)
        furthest = int(distance.argmax())
        if distance[furthest] > tolerance:
            middle = start + 1 + furthest
            keep[middle] = True
            parts += [(start, middle), (middle, end)]
    found = closed[:-1][keep[:-1]]
    return found if len(found) >= 3 and area(found) * area(ring) > 0 else ring
