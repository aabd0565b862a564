from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pixaff.ops.labels import affinity_label_map, pair_labels
from pixaff.ops.neighbours import offsets

GOLDEN = Path(__file__).parents[1] / "data" / "reference_golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as data:
        return {
            key: data[key]
            for key in ("crf_alpha4", "crf_alpha32", "labels.map", "labels.bg", "labels.fg", "labels.neg")
        }


def top_left_crop(posterior: np.ndarray, side: int = 128) -> torch.Tensor:
    """Crop of the reference: the 98 x 131 image at the top left, nothing below it."""
    crop = torch.zeros(posterior.shape[0], side, side)
    cut = posterior[:, :side, :side]
    crop[:, : cut.shape[1], : cut.shape[2]] = torch.from_numpy(cut)
    return crop


def test_golden_label_map(golden):
    low, high = top_left_crop(golden["crf_alpha4"]), top_left_crop(golden["crf_alpha32"])
    labels = affinity_label_map(low, high)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), golden["labels.map"])
    batch = affinity_label_map(torch.stack([low, low.flip(-1)]), torch.stack([high, high.flip(-1)]))
    np.testing.assert_array_equal(batch.numpy(), np.stack([golden["labels.map"], golden["labels.map"][:, ::-1]]))


def test_golden_pair_labels(golden):
    label_map = torch.from_numpy(golden["labels.map"])
    for name, found in zip(("bg", "fg", "neg"), pair_labels(label_map), strict=True):
        assert found.dtype == torch.bool
        np.testing.assert_array_equal(found.numpy(), golden[f"labels.{name}"], err_msg=name)


def test_each_rule_of_the_label_map():
    #           sure class, sure background, doubt, low says class but high background, no image
    low = torch.tensor([[0.1, 0.9, 0.8, 0.2, 0.0], [0.9, 0.1, 0.2, 0.8, 0.0]])
    high = torch.tensor([[0.0, 0.9, 0.3, 0.9, 0.0], [1.0, 0.1, 0.7, 0.1, 0.0]])
    low, high = low[:, None], high[:, None]
    assert affinity_label_map(low, high, stride=1).tolist() == [[1, 0, 255, 0, 255]]


def test_a_batch_of_pair_labels_by_a_double_loop():
    rng = np.random.default_rng(0)
    maps = rng.choice([0, 1, 2, 255], (2, 7, 9)).astype(np.int64)
    bg, fg, neg = pair_labels(torch.from_numpy(maps), radius=3)
    assert bg.shape == (2, len(offsets(3)), 5 * 5)
    for b, grid in enumerate(maps):
        for p, (dy, dx) in enumerate(offsets(3)):
            for k, (y, x) in enumerate((y, x) for y in range(5) for x in range(2, 7)):
                ends = {int(grid[y, x]), int(grid[y + dy, x + dx])}
                kind = (ends == {0}, len(ends) == 1 and ends <= {1, 2}, len(ends) == 2 and 255 not in ends)
                assert (bool(bg[b, p, k]), bool(fg[b, p, k]), bool(neg[b, p, k])) == kind


def test_bad_input():
    good = torch.zeros(2, 16, 16)
    with pytest.raises(ValueError, match=r"found \(2, 16, 16\) and \(3, 16, 16\)"):
        affinity_label_map(good, torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="size 16x15, expected multiples of the stride 8"):
        affinity_label_map(good[..., :15], good[..., :15])
    with pytest.raises(ValueError, match="found 256 channels"):
        affinity_label_map(torch.zeros(256, 8, 8), torch.zeros(256, 8, 8))
    with pytest.raises(ValueError, match=r"found torch.int64 and torch.int64"):
        affinity_label_map(good.long(), good.long())
    with pytest.raises(ValueError, match=r"label_map: found torch.float32 \(2, 16, 16\)"):
        pair_labels(good)
