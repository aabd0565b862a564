"""Regions as COCO writes them: the lengths of runs of pixels, packed into text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def run_lengths(pixels: NDArray[np.bool_]) -> list[int]:
    """COCO's counts: lengths of runs of 0 and 1 in turn, beginning with 0, column by column."""
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    return np.diff([0, *changes, flat.size]).tolist()


def packed(counts: list[int]) -> str:
    """COCO's compressed counts: differences to the run before the last, in groups of five bits from the lowest on."""
    signs = []
    for place, count in enumerate(counts):
        rest = count - (counts[place - 2] if place > 2 else 0)
        while True:
            group = rest & 31
            rest >>= 5
            last = rest == (-1 if group & 16 else 0)
            signs.append(chr(48 + group + (0 if last else 32)))
            if last:
                break
    return "".join(signs)
