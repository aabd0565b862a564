"""The full neighbourhood: every cell with all its neighbours on the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixaff.ops.affinity import pair_affinity
from pixaff.ops.neighbours import offsets, pairs_inside, source_shape, source_view
from pixaff.ops.walk import random_walk

GRIDS = [(6, 11, 5), (5, 9, 5), (3, 14, 5), (14, 3, 5), (7, 6, 3), (1, 1, 5), (1, 7, 5), (2, 2, 2), (9, 8, 6)]


def features_of(h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 6, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 3


def dense_weights(features: torch.Tensor, radius: int) -> np.ndarray:
    """Affinity of every two nodes closer than the radius, from their places alone; 1 on the diagonal, else 0."""
    rows = features[0].flatten(1).t().numpy()
    h, w = features.shape[2:]
    y, x = np.divmod(np.arange(h * w), w)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    return np.exp(-np.abs(rows[:, None] - rows).mean(2)) * near


def dense_walk(scores: torch.Tensor, weights: np.ndarray, beta: float, steps: int) -> torch.Tensor:
    powers = weights**beta
    rows = scores.double().numpy().reshape(len(scores), -1)
    return torch.from_numpy(rows @ np.linalg.matrix_power(powers / powers.sum(0), steps)).view(scores.shape)


@pytest.mark.parametrize(("h", "w", "radius"), GRIDS)
def test_affinities_of_all_pairs_on_the_grid_and_zero_beyond(h, w, radius):
    features = features_of(h, w)
    affinity = pair_affinity(features, radius, "full")
    assert affinity.shape == (1, len(offsets(radius)), h * w)
    found = np.zeros((h * w, h * w))
    for p, (dy, dx) in enumerate(offsets(radius)):
        for i in range(h * w):
            y, x = i // w + dy, i % w + dx
            if 0 <= y < h and 0 <= x < w:
                found[i, y * w + x] = affinity[0, p, i]
            else:
                assert affinity[0, p, i] == 0
    # Each pair is there once, so the sum with the other direction has them all.
    np.testing.assert_allclose(found + found.T + np.eye(h * w), dense_weights(features, radius), rtol=1e-12)


@pytest.mark.parametrize("solver", ["power", "chebyshev", "auto"])
@pytest.mark.parametrize(("h", "w", "radius"), GRIDS)
def test_the_walk_equals_dense_powers(h, w, radius, solver):
    features = features_of(h, w)
    scores = torch.rand(3, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    affinity = pair_affinity(features, radius, "full")[0]
    for beta, steps in ((8.0, 64), (2.5, 31), (1.0, 0)):
        found = random_walk(scores, affinity, beta, steps, radius, solver, 1e-11, "full")
        expected = dense_walk(scores, dense_weights(features, radius), beta, steps)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_ragged_batch_equals_its_images_one_by_one():
    grids = [(13, 17), (1, 1), (4, 21), (17, 13)]
    affinities = [pair_affinity(features_of(h, w, seed=w).float(), 5, "full")[0] for h, w in grids]
    scores = [torch.rand(1 + i, h, w) for i, (h, w) in enumerate(grids)]
    together = random_walk(scores, affinities, borders="full")
    for start, affinity, found in zip(scores, affinities, together, strict=True):
        assert found.shape == start.shape
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, random_walk(start, affinity, borders="full"), rtol=0, atol=2e-5)


def test_published_pairs_are_among_the_full_ones():
    features = features_of(9, 14)
    full = pair_affinity(features, 5, "full").view(34, 9, 14)
    torch.testing.assert_close(source_view(full).flatten(1), pair_affinity(features)[0], rtol=1e-12, atol=0)


def mirrored_walk(features, scores, dims, borders):
    """The walk of the mirrored image, mirrored back."""
    affinity = pair_affinity(features.flip(dims), 5, borders)[0]
    return random_walk(scores.flip(dims), affinity, 4.0, 64, 5, "auto", 1e-9, borders).flip(dims)


@pytest.mark.parametrize("dims", [(-1,), (-2,), (-2, -1)])
def test_a_mirrored_image_is_walked_as_the_image(dims):
    features = features_of(10, 15)
    scores = torch.rand(2, 10, 15, dtype=torch.float64)
    full = [mirrored_walk(features, scores, which, "full") for which in ((), dims)]
    torch.testing.assert_close(full[1], full[0], rtol=0, atol=1e-7)
    published = [mirrored_walk(features, scores, which, "published") for which in ((), dims)]
    assert (published[1] - published[0]).abs().max() > 1e-3


def test_what_leaves_the_grid_counts_for_nothing():
    """Affinities of another program may hold anything where a pair has no second end."""
    affinity = torch.rand(34, 6 * 7)
    scores = torch.rand(2, 6, 7)
    cut = affinity * pairs_inside(6, 7)
    assert not torch.equal(cut, affinity)
    torch.testing.assert_close(random_walk(scores, affinity, borders="full"), random_walk(scores, cut, borders="full"))


def test_gradient_is_right():
    features = torch.randn(1, 2, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pair_affinity(x, 3, "full"), features.requires_grad_())


def test_borders_must_be_known_and_alike():
    features = features_of(6, 11)
    for call in (
        lambda: pair_affinity(features, 5, "open"),
        lambda: source_shape(6, 11, 5, "open"),
        lambda: random_walk(torch.rand(1, 6, 11), torch.rand(34, 66), borders="open"),
    ):
        with pytest.raises(ValueError, match="borders: found 'open', expected 'published' or 'full'"):
            call()
    with pytest.raises(ValueError, match=r"expected floating \(34, 66\) for a 6x11 grid, radius 5 and full borders"):
        random_walk(torch.rand(1, 6, 11), pair_affinity(features)[0], borders="full")
