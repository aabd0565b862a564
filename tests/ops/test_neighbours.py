from __future__ import annotations

import pytest
import torch

from pixaff.ops.neighbours import offsets, source_shape, source_view, target_view


def test_published_order_of_the_34_offsets():
    expected = [(0, 1), (0, 2), (0, 3), (0, 4)]
    for dy in range(1, 5):
        for dx in range(-4, 5):
            if dy**2 + dx**2 < 25:
                expected.append((dy, dx))
    assert list(offsets(5)) == expected
    assert len(expected) == 34


@pytest.mark.parametrize("radius", [2, 3, 4, 6])
def test_offsets_and_their_opposites_fill_the_disc_once(radius):
    half = offsets(radius)
    whole = [(0, 0), *half, *((-dy, -dx) for dy, dx in half)]
    disc = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if y * y + x * x < radius * radius}
    assert len(whole) == len(disc)
    assert set(whole) == disc


@pytest.mark.parametrize("radius", [1, 0, -3, 5.0])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match=f"radius: found {radius}, expected an integer of at least 2"):
        offsets(radius)


@pytest.mark.parametrize(("h", "w", "radius"), [(13, 17, 5), (5, 9, 5), (6, 8, 3), (40, 12, 6)])
def test_views_pair_each_source_with_its_neighbour(h, w, radius):
    nodes = torch.arange(h * w).view(h, w)
    reach = radius - 1
    sources = [y * w + x for y in range(h - reach) for x in range(reach, w - reach)]
    assert source_view(nodes, radius).flatten().tolist() == sources
    assert source_shape(h, w, radius) == (h - reach, w - 2 * reach)
    for dy, dx in offsets(radius):
        assert target_view(nodes, (dy, dx), radius).flatten().tolist() == [s + dy * w + dx for s in sources]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 30), (30, 8)])
def test_small_grids_have_no_source(h, w):
    assert source_shape(h, w) == (0, 0)
    for offset in offsets(5):
        assert target_view(torch.zeros(2, h, w), offset).shape == (2, 0, 0)
