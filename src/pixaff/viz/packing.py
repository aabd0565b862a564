"""Masks and propagated scores in a form that is small, and that a browser unpacks with what it has.

Whole planes of bytes, each byte less what its neighbours foretell, deflated, in base64. The background at all powers
has almost no more content than at some eight of them, so its planes are stored as the few that span them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.io.scores import ScoreFile

TOLERANCE = 0.002
"""Largest error of a background score that leaving planes out may cause; rounding to bytes adds about as much."""


def pack_planes(planes: Sequence[NDArray[np.uint8]]) -> str:
    """Planes of uint8 (H, W) as base64 of deflated bytes: each value less left + above - above left, modulo 256."""
    parts = []
    for plane in planes:
        foretold = np.zeros_like(plane)
        foretold[:, 1:] += plane[:, :-1]
        foretold[1:] += plane[:-1]
        foretold[1:, 1:] -= plane[:-1, :-1]
        parts.append((plane - foretold).tobytes())
    return base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()


def pack_scores(file: ScoreFile) -> dict[str, Any]:
    """What `report.js` needs of a score file to make the mask at any alpha.

    Returns:
        ``classes``; ``grid`` (h, w) and ``walked`` (H, W); ``cell``, the side of a cell in pixels; ``powers``; ``mix``,
        a row of factors for each power, with which the first planes sum to the background at that power; ``low`` and
        ``high``, the scores that the bytes 0 and 255 of each plane stand for; ``planes``, packed: those of the
        background, then one for each class.
    """
    height, width = file.scores.shape[1:]
    background = file.background.reshape(len(file.powers), height * width)
    basis, sizes, rows = np.linalg.svd(background, full_matrices=False)
    for count in range(1, len(sizes) + 1):
        mix, spanning = basis[:, :count], sizes[:count, None] * rows[:count]
        if np.abs(mix @ spanning - background).max() <= TOLERANCE:
            break
    every = np.concatenate([spanning, file.scores.reshape(len(file.classes), height * width)])
    low, high = every.min(1), every.max(1)
    step = np.maximum(high - low, 1e-9)[:, None]
    whole = np.rint((every - low[:, None]) / step * 255).astype(np.uint8).reshape(len(low), height, width)
    return {
        "classes": file.classes.tolist(),
        "grid": [height, width],
        "walked": list(file.walked_size),
        "cell": file.cell,
        "powers": file.powers.tolist(),
        "mix": [[round(float(factor), 6) for factor in row] for row in mix],
        "low": [round(float(value), 6) for value in low],
        "high": [round(float(value), 6) for value in high],
        "planes": pack_planes(list(whole)),
    }
