from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixaff.ops import resize
from pixaff.ops.resize import best_value, enlarged_cells, mask_at_size, resize_scores, rows_that_may_show


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


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_may_show_are_few_and_lack_none_that_does(seed: int) -> None:
    cells = torch.randn(21, 6, 9, generator=torch.Generator().manual_seed(seed))
    cells[seed * 3 : seed * 3 + 8] += 3
    rows = rows_that_may_show(cells)
    wide = enlarged_cells(cells[None], 16, (90, 140))[0]
    assert wide.shape == (21, 90, 140)
    shown = set(best_value(wide, range(21)).unique().tolist())
    assert shown <= set(rows)
    assert len(rows) < 21
    few = best_value(wide[rows], rows)
    assert torch.equal(few, best_value(wide, range(21)))


def test_a_row_that_is_best_between_cells_alone_may_show() -> None:
    cells = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.9, 0.9]], [[0.2, 0.2]]])
    assert rows_that_may_show(cells) == [0, 1, 2, 3]  # one row alone has to exceed another everywhere
    assert rows_that_may_show(torch.cat([cells, cells[2:3] - 0.1, cells[2:3]])) == [0, 1, 2, 3, 4, 5]
    assert rows_that_may_show(cells[[0, 3]] + torch.tensor([0.0, -1.0])[:, None, None]) == [0]
