from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from pixaff.ops.metrics import ConfusionMatrix, rank_correlation


def slow_iou(pred: np.ndarray, gt: np.ndarray, num_classes: int) -> list[float]:
    """Set by set, with no matrix."""
    known = gt != 255
    ious = []
    for c in range(num_classes):
        union = ((pred == c) | (gt == c)) & known
        both = (pred == c) & (gt == c) & known
        ious.append(both.sum() / union.sum() if union.any() else float("nan"))
    return ious


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pred = rng.integers(0, 20, (3, 40, 50)).astype(np.uint8)  # class 20 is never predicted ...
    gt = np.where(rng.random(pred.shape) < 0.5, pred, rng.integers(0, 20, pred.shape)).astype(np.uint8)
    gt[:, :4] = 255  # ... and never true either
    return pred, gt


def test_iou_equals_set_arithmetic(maps):
    pred, gt = maps
    cm = ConfusionMatrix(21)
    cm.update(pred, gt)
    expected = slow_iou(pred, gt, 21)
    np.testing.assert_allclose(cm.iou(), expected, rtol=1e-12)
    assert np.isnan(cm.iou()[20])
    assert cm.miou() == pytest.approx(np.nanmean(expected), rel=1e-12)


def test_rows_are_true_classes():
    cm = ConfusionMatrix(3)
    cm.update(np.array([1, 2, 2]), np.array([0, 2, 1]))
    assert cm.matrix.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_streaming_and_merging_count_alike(maps):
    pred, gt = maps
    whole = ConfusionMatrix(21)
    whole.update(pred, gt)
    parts = [ConfusionMatrix(21) for _ in pred]
    for part, p, g in zip(parts, pred, gt, strict=True):
        part.update(torch.from_numpy(p), torch.from_numpy(g).long())
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged is parts[0]
    np.testing.assert_array_equal(merged.matrix, whole.matrix)


def test_many_classes_do_not_overflow_eight_bits():
    everything = np.arange(200, dtype=np.uint8)
    cm = ConfusionMatrix(200)
    cm.update(everything, everything)
    np.testing.assert_array_equal(cm.matrix, np.eye(200))


def test_nothing_seen_is_nan():
    cm = ConfusionMatrix(2)
    cm.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    assert np.isnan(cm.miou())
    assert np.isnan(cm.iou()).all()


def test_prediction_under_void_is_free():
    cm = ConfusionMatrix(2)
    cm.update(np.array([255, 1]), np.array([255, 1]))
    assert cm.matrix.sum() == 1


@pytest.mark.parametrize(
    ("pred", "gt", "words"),
    [
        ([0, 3], [0, 1], "pred: found the value 3, expected 0..2"),
        ([0, 1], [0, 3], r"gt: found the value 3, expected 0..2 or 255 \(void\)"),
        ([0, -1], [0, 1], "pred: found the value -1"),
        ([0, 255], [0, 1], "pred: found the value 255"),
        ([0, 1, 2], [0, 1], r"found shapes \(3,\) and \(2,\)"),
        ([0.0, 1.0], [0, 1], "pred: found dtype float64, expected integers"),
    ],
)
def test_bad_values_are_named_and_not_counted(pred, gt, words):
    cm = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=words):
        cm.update(np.array(pred), np.array(gt))
    assert cm.matrix.sum() == 0


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_classes: found 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="ignore_index: found 20"):
        ConfusionMatrix(21, ignore_index=20)
    with pytest.raises(ValueError, match="to merge: found"):
        ConfusionMatrix(21).merge(ConfusionMatrix(20))


def test_scoring_does_not_import_torch():
    code = "import sys, pixaff.ops.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_large_maps_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    pred, gt = rng.integers(0, 3, (50, 41)), rng.choice([0, 1, 2, 255], (50, 41))
    whole = ConfusionMatrix(3)
    whole.update(pred, gt)
    monkeypatch.setattr("pixaff.ops.metrics._PART", 100)
    parts = ConfusionMatrix(3)
    parts.update(pred, gt)
    assert (parts.matrix == whole.matrix).all()
    pred[-1, -1], gt[-1, -1] = 9, 1  # in the last part: nothing is counted
    with pytest.raises(ValueError, match="pred: found the value 9"):
        parts.update(pred, gt)
    assert (parts.matrix == whole.matrix).all()


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert rank_correlation([3, 2, 1], [0.1, 0.2, 9]) == pytest.approx(-1)
    # Equal values: 1, 2.5, 2.5, 4 and 1.5, 1.5, 3.5, 3.5.
    assert rank_correlation([0, 5, 5, 9], [1, 1, 2, 2]) == pytest.approx(0.5**0.5)
    assert np.isnan(rank_correlation([1, 1], [1, 2]))
    assert np.isnan(rank_correlation([1], [1]))
