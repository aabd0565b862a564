from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixaff.ops import resize
from pixaff.ops.resize import best_value, mask_at_size, resize_scores


def test_a_mask_in_bands_is_the_argmax_of_the_enlarged_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.rand(3, 13, 17, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(scores[None], (101, 57), mode="bilinear", align_corners=False)[0]
    expected = np.array([0, 4, 9], np.uint8)[large.argmax(0).numpy()]
    for band in (resize.BAND, 3 * 57 * 10, 1):
        monkeypatch.setattr(resize, "BAND", band)
        mask = mask_at_size(scores, [0, 4, 9], (101, 57))
        assert (mask.dtype, mask.shape) == (np.uint8, (101, 57))
        # Rounding may tip a tie.
        assert (mask != expected).mean() < 1e-3
    same = mask_at_size(scores, [0, 4, 9], (13, 17))
    np.testing.assert_array_equal(same, np.array([0, 4, 9], np.uint8)[scores.argmax(0).numpy()])


def test_the_best_value_is_that_of_the_first_of_equal_scores() -> None:
    scores = torch.tensor([[[0.5, 0.1, 0.2]], [[0.5, 0.3, 0.1]], [[0.5, 0.2, 0.7]]])
    assert best_value(scores, [0, 7, 255]).tolist() == [[0, 7, 255]]


def test_scores_of_the_wanted_size_are_left_as_they_are() -> None:
    scores = torch.rand(2, 6, 8)
    assert resize_scores(scores, (6, 8)) is scores
    expected = F.interpolate(scores[None], (9, 5), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize_scores(scores, (9, 5)), expected)
