"""PSA, SEAM, MCTformer, WeakTr: maps by 0-based class; PSA's and SEAM's posteriors: by mask value, 0 the background."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.io.cams.camfile import CamFile, Opened, no_class
from pixaff.io.cams.pickled_dict import check_rows, floats, in_order, write_dict
from pixaff.io.cams.resized import resized

NAME = "psa"
HOLDS = "maps by class number"
SUFFIX = ".npy"
POSTERIORS = True
_SUM_TOLERANCE = 0.01  # of posteriors that were rounded to float16


def detect(file: Opened) -> bool:
    return file.container == "npy" and all(type(key) is int for key in file.content)


def read(file: Opened) -> CamFile:
    classes = list(file.content)
    if not file.content:
        return no_class()
    rows = [floats(value, f"class {key}") for key, value in file.content.items()]
    if any(row.ndim != 2 or row.shape != rows[0].shape for row in rows):
        shapes = ", ".join(sorted({str(row.shape) for row in rows})[:4])
        raise ValueError(f"found CAMs of shape {shapes}, expected one shape (H, W)")
    check_rows(file, rows)
    # The two are told apart by the sum: of maps, each of which reaches 1 somewhere, it is not 1 at every pixel.
    posteriors = 0 in file.content and len(rows) > 1 and _sum_to_one(rows)
    return in_order(classes if posteriors else [value + 1 for value in classes], rows)


def write(
    path: str | os.PathLike[str], classes: Sequence[int], maps: NDArray[np.float32], size: tuple[int, int]
) -> None:
    rows = resized(maps, size)
    first = 0 if 0 in classes else 1
    # In ascending order: PSA's AffinityNet training takes the rows by position, the background first.
    pairs = sorted(zip(classes, rows, strict=True), key=lambda pair: pair[0])
    write_dict(path, {int(value) - first: np.ascontiguousarray(row, np.float32) for value, row in pairs})


def _sum_to_one(rows: Sequence[NDArray[Any]]) -> bool:
    total = np.zeros(rows[0].shape, np.float32)
    with np.errstate(all="ignore"):  # NaN and the like are refused later
        for row in rows:
            total += row.astype(np.float32, copy=False)
    return bool(np.abs(total - 1).max() < _SUM_TOLERANCE)
