"""Intersection over union from a streaming confusion matrix; rank correlation.

Plain NumPy, so that scoring masks need not import torch; tensors are accepted nevertheless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    IntArray = np.ndarray[Any, Any] | Tensor


_PART = 1 << 24  # values that are counted at a time, in 64-bit integers


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of label maps.

    Args:
        num_classes: number of *all* classes, background included (21 for Pascal VOC); valid values are
            0..num_classes-1.
        ignore_index: value of `gt` that marks void; such pixels are not counted, whatever was predicted there. It must
            be outside the valid values.

    Attributes:
        matrix: int64 (num_classes, num_classes); rows are true classes, columns predicted ones.

    >>> cm = ConfusionMatrix(2)
    >>> cm.update(np.array([0, 1, 1]), np.array([0, 1, 255]))
    >>> cm.miou()
    1.0
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes: found {num_classes}, expected at least 1 (background counts)")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index: found {ignore_index}, expected a value outside 0..{num_classes - 1}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, pred: IntArray, gt: IntArray) -> None:
        """Count one prediction.

        Args:
            pred, gt: integer NumPy arrays or tensors of one shape, any number of dimensions.

        Raises:
            ValueError: for shapes that differ, for arrays that are not integers, and for values outside
                0..num_classes-1 (in `pred` only where `gt` is not void). Nothing is counted then.
        """
        pred, gt = _integers(pred, "pred"), _integers(gt, "gt")
        if pred.shape != gt.shape:
            raise ValueError(f"pred and gt: found shapes {pred.shape} and {gt.shape}, expected equal ones")
        counts = np.zeros(self.matrix.size, np.int64)
        parts = gt.size // _PART + 1
        for found, truth in zip(*(np.array_split(values.ravel(), parts) for values in (pred, gt)), strict=True):
            valid = truth != self.ignore_index
            columns = self._in_range(found[valid], "pred")
            rows = self._in_range(truth[valid], "gt")
            counts += np.bincount(rows * self.num_classes + columns, minlength=counts.size)
        self.matrix += counts.reshape(self.matrix.shape)

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of `other`, for example from another process, and return this one.

        Raises:
            ValueError: if the two disagree on the classes or the void value.
        """
        mine, theirs = (self.num_classes, self.ignore_index), (other.num_classes, other.ignore_index)
        if mine != theirs:
            raise ValueError(f"(num_classes, ignore_index) to merge: found {theirs}, expected {mine}")
        self.matrix += other.matrix
        return self

    def iou(self) -> np.ndarray[Any, Any]:
        """Intersection over union of each class: float64 (num_classes,), NaN for classes that do not occur."""
        intersection = np.diag(self.matrix)
        union = self.matrix.sum(0) + self.matrix.sum(1) - intersection
        return np.divide(intersection, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def miou(self) -> float:
        """Mean of `iou()` over the classes that occur; NaN if none does."""
        iou = self.iou()
        present = ~np.isnan(iou)
        return float(iou[present].mean()) if present.any() else float("nan")

    def _in_range(self, values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        """`values` as int64 (8-bit ones would overflow in the product above), their range checked."""
        if values.size:
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= self.num_classes:
                worst = low if low < 0 else high
                raise ValueError(
                    f"{name}: found the value {worst}, expected 0..{self.num_classes - 1}"
                    + (f" or {self.ignore_index} (void)" if name == "gt" else "")
                )
        return values.astype(np.int64)


def _integers(values: IntArray, name: str) -> np.ndarray[Any, Any]:
    """`values` as an integer NumPy array."""
    on_host: Any = values if isinstance(values, np.ndarray) else values.detach().cpu()
    array = np.asarray(on_host)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: found dtype {array.dtype}, expected integers")
    return array


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation: 1 if both order the same, -1 if they order in opposite ways; equal values share
    their mean rank.

    Returns:
        -1..1; NaN for fewer than two pairs, or if one side has a single value.

    >>> rank_correlation([1, 2, 3], [10, 30, 20])
    0.5
    """
    ranks = []
    for values in (first, second):
        _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[place])
    centred = [each - each.mean() for each in ranks]
    size = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())) if len(ranks[0]) > 1 else 0.0
    return float((centred[0] * centred[1]).sum()) / size if size else float("nan")
