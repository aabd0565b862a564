from __future__ import annotations

import numpy as np
import pytest

from pixaff.viz.cam_panels import SIDE, cam_panels
from pixaff.viz.overlay import colour_table


def test_each_class_has_a_panel_with_its_name_and_score() -> None:
    photo = np.full((60, 80, 3), 255, np.uint8)
    cams = np.zeros((2, 6, 8), np.float32)
    cams[0, :, :4], cams[1, :, 4:] = 1, 1
    plain, scored = (np.asarray(cam_panels(photo, cams, ["cat", "собака"], scores)) for scores in (None, [0.98, 0.1]))
    assert (plain == 255).all(-1).sum() >= 60 * 80  # the photo itself is there
    low, high = ((255 + colour_table()[value].astype(int)) // 2 for value in (0, 255))
    for colour in (low, high):  # half of each of two panels, but for the seam
        assert 2 * 60 * 30 < (np.abs(plain.astype(int) - colour).max(-1) <= 2).sum() < 2 * 60 * 44
    assert plain.shape != scored.shape or (plain != scored).any()


def test_large_photos_are_shrunk_and_no_class_is_said() -> None:
    none = cam_panels(np.zeros((900, 1200, 3), np.uint8), np.zeros((0, 900, 1200), np.float32), [])
    assert SIDE <= none.width < SIDE + 20
    many = cam_panels(np.zeros((90, 1200, 3), np.uint8), np.zeros((5, 90, 1200), np.float32), list("abcde"))
    assert many.width < 2 * many.height + 600


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="found float32 \\(1, 4, 4\\) and 2 names"):
        cam_panels(np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match="cams: found uint8"):
        cam_panels(np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4), np.uint8), ["a"])
