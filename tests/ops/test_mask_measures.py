"""The measures from which alpha is chosen, against slow and plain ones."""

from __future__ import annotations

import itertools

import pytest
import torch

from pixaff.ops.affinity import pair_affinity
from pixaff.ops.mask_measures import ALPHAS, cautious_alpha, foreground, normalized_cuts, overlaps
from pixaff.ops.neighbours import offsets, source_shape


def random_masks(count: int, h: int, w: int) -> torch.Tensor:
    return (
        torch.rand(count, h, w, generator=torch.Generator().manual_seed(h))
        < torch.linspace(0.1, 0.9, count)[:, None, None]
    )


def test_alphas_ascend() -> None:
    assert list(ALPHAS) == sorted(set(ALPHAS))
    assert ALPHAS[0] < 0.1
    assert ALPHAS[-1] > 10


def test_foreground_is_where_a_class_leads() -> None:
    generator = torch.Generator().manual_seed(0)
    classes, backgrounds = torch.rand(3, 4, 5, generator=generator), torch.rand(6, 4, 5, generator=generator)
    found = foreground(classes, backgrounds)
    for a, y, x in itertools.product(range(6), range(4), range(5)):
        assert found[a, y, x] == any(classes[c, y, x] > backgrounds[a, y, x] for c in range(3))
    assert found.any()
    assert not found.all()


def test_overlaps_count_cells() -> None:
    masks, reference = random_masks(4, 5, 6), random_masks(2, 5, 6)[1]
    for mask, (both, either) in zip(masks, overlaps(masks, reference).tolist(), strict=True):
        shown, other = ({tuple(at) for at in torch.nonzero(one).tolist()} for one in (mask, reference))
        assert (both, either) == (len(shown & other), len(shown | other))


@pytest.mark.parametrize("borders", ["full", "published"])
def test_normalized_cuts_are_those_of_the_dense_graph(borders: str) -> None:
    h, w, radius = 9, 11, 3
    features = torch.rand(1, 4, h, w, generator=torch.Generator().manual_seed(1))
    affinity = pair_affinity(features, radius, borders)[0] ** 8
    rows, columns = source_shape(h, w, radius, borders)
    left = 0 if borders == "full" else radius - 1
    dense = torch.zeros(h * w, h * w, dtype=torch.float64)
    for pair, (dy, dx) in enumerate(offsets(radius)):
        for source, (y, x) in enumerate(itertools.product(range(rows), range(left, left + columns))):
            if y + dy < h and 0 <= x + dx < w:
                one, other = y * w + x, (y + dy) * w + x + dx
                dense[one, other] = dense[other, one] = float(affinity[pair, source])
    masks = random_masks(5, h, w)
    for mask, found in zip(masks, normalized_cuts(masks, affinity, radius, borders).tolist(), strict=True):
        inside = mask.flatten()
        cut = dense[inside][:, ~inside].sum()
        assert found == pytest.approx(float(cut / dense[inside].sum() + cut / dense[~inside].sum()), rel=1e-4)
    none = torch.stack([torch.zeros(h, w, dtype=torch.bool), torch.ones(h, w, dtype=torch.bool)])
    assert normalized_cuts(none, affinity, radius, borders).tolist() == [1, 1]


def test_lowest_cut_follows_the_edges_of_the_image() -> None:
    """Squares of several sizes over a square whose features differ from the rest."""
    features = torch.zeros(1, 2, 24, 24)
    features[:, :, 7:17, 7:17] = 3
    masks = torch.zeros(9, 24, 24, dtype=torch.bool)
    for k in range(9):
        masks[k, 11 - k : 13 + k, 11 - k : 13 + k] = True
    cuts = normalized_cuts(masks, pair_affinity(features, 5, "full")[0] ** 8)
    assert masks[4, 7:17, 7:17].all()
    assert int(cuts.argmin()) == 4
    assert cuts[4] < 1e-6 < cuts[3]


def test_smallest_alpha_that_agrees_almost_best() -> None:
    alphas = (0.1, 0.2, 0.4, 0.8)
    agreement = torch.tensor([0.5, 0.77, 0.8, 0.7])
    assert cautious_alpha(alphas, agreement) == 0.2
    assert cautious_alpha(alphas, agreement, tolerance=0) == 0.4
    assert cautious_alpha(alphas, agreement, torch.tensor([0.1, 0.3, 0.3, 0.3])) == 0.1  # the lowest cut is smaller
    assert cautious_alpha(alphas, agreement, torch.tensor([0.3, 0.3, 0.3, 0.1])) == 0.2  # and here larger
    assert cautious_alpha(alphas, cuts=torch.tensor([0.3, 0.3, 0.3, 0.1])) == 0.8
    with pytest.raises(ValueError, match="at least one"):
        cautious_alpha(alphas)
