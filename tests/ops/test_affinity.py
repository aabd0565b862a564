from __future__ import annotations

import math

import pytest
import torch

from pixaff.ops.affinity import pair_affinity
from pixaff.ops.neighbours import offsets


def slow_affinity(features: torch.Tensor, radius: int) -> torch.Tensor:
    """Pair after pair in Python floats."""
    batch, _, h, w = features.shape
    reach = radius - 1
    values = features.tolist()
    result = []
    for b in range(batch):
        for dy, dx in offsets(radius):
            for y in range(h - reach):
                for x in range(reach, w - reach):
                    distances = [abs(plane[y][x] - plane[y + dy][x + dx]) for plane in values[b]]
                    result.append(math.exp(-sum(distances) / len(distances)))
    return torch.tensor(result, dtype=features.dtype).view(batch, len(offsets(radius)), -1)


@pytest.mark.parametrize(("h", "w", "radius"), [(13, 17, 5), (5, 9, 5), (7, 8, 3)])
def test_equals_a_double_loop(h, w, radius):
    features = torch.randn(2, 6, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = slow_affinity(features, radius)
    assert expected.shape == (2, len(offsets(radius)), (h - radius + 1) * (w - 2 * radius + 2))
    torch.testing.assert_close(pair_affinity(features, radius), expected, rtol=1e-12, atol=0)
    single = pair_affinity(features.float(), radius)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=0)


def test_gradient_is_right():
    features = torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(pair_affinity, features.requires_grad_())


def test_gradient_of_equal_features_is_zero():
    features = torch.ones(1, 3, 6, 10, requires_grad=True)
    pair_affinity(features).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().max() == 0


def test_strided_features_and_gradient():
    """Channels-last features and an expanded gradient are what training hands over."""
    plain = torch.randn(2, 5, 9, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    strided = plain.to(memory_format=torch.channels_last)
    grads = []
    for features in (plain.clone().requires_grad_(), strided.detach().requires_grad_()):
        affinity = pair_affinity(features)
        affinity.mean().backward()
        grads.append(features.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(pair_affinity(strided), pair_affinity(plain), rtol=1e-12, atol=0)


def test_nothing_of_the_size_of_all_differences_is_kept():
    features = torch.randn(1, 64, 12, 16, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        affinity = pair_affinity(features)
    assert sum(saved) <= features.numel() + affinity.numel()


def test_half_precision_is_computed_in_float32():
    features = torch.randn(1, 32, 6, 10, generator=torch.Generator().manual_seed(3)).bfloat16()
    features.requires_grad_()
    affinity = pair_affinity(features)
    assert affinity.dtype == torch.float32
    torch.testing.assert_close(affinity, pair_affinity(features.detach().float()))
    affinity.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 20), (20, 8)])
def test_small_grids_have_no_pairs(h, w):
    features = torch.randn(2, 3, h, w, requires_grad=True)
    affinity = pair_affinity(features)
    assert affinity.shape == (2, 34, 0)
    affinity.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.zeros(3, 9, 9), r"found torch.float32 \(3, 9, 9\), expected floating \(batch, channels, h, w\)"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.int64), "found torch.int64"),
        (torch.zeros(1, 0, 9, 9), "found no channels"),
    ],
)
def test_bad_features(features, words):
    with pytest.raises(ValueError, match=words):
        pair_affinity(features)
