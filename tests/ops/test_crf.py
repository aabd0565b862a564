"""The dense CRF against the published figures, a lattice of Python dictionaries and the pydensecrf library."""

from __future__ import annotations

import importlib.util
import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pixaff.io.images import load_image
from pixaff.ops import crf, permutohedral
from pixaff.ops.crf import dense_crf, refine_labels
from pixaff.ops.permutohedral import _number, _stable_argsort, build_lattice

DATA = Path(__file__).parents[1] / "data"
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
Array = NDArray[np.float64]

needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf is not installed"
)


# The lattice once more, slowly: one point at a time, vertices in dictionaries, all labels, float64.


def slow_corners(point: Array) -> dict[tuple[int, ...], float]:
    """Lattice vertices around a point and their barycentric weights."""
    d = len(point)
    position = np.zeros(d + 1)
    for i, value in enumerate(point):
        direction = np.array([1.0] * (i + 1) + [-(i + 1.0)] + [0.0] * (d - i - 1))
        position += value * direction / np.linalg.norm(direction)
    position *= math.sqrt(2 / 3) * (d + 1)
    # float32, so that ties are ties for both.
    position = position.astype(np.float32).astype(np.float64)
    zero = np.round(position / (d + 1)).astype(int) * (d + 1)
    order = sorted(range(d + 1), key=lambda i: -(position - zero)[i])
    excess = zero.sum() // (d + 1)
    for i in order[len(order) - excess :] if excess > 0 else order[:-excess]:
        zero[i] -= math.copysign(d + 1, excess)
    residual = position - zero
    order = sorted(range(d + 1), key=lambda i: -residual[i])
    corners = {}
    for remainder in range(d + 1):
        vertex = zero + remainder
        vertex[order[d + 1 - remainder :]] -= d + 1
        ahead, behind = order[d - remainder], order[(d + 1 - remainder) % (d + 1)]
        corners[tuple(vertex.tolist())] = (residual[ahead] - residual[behind]) / (d + 1) + (remainder == 0)
    return corners


def slow_filter(points: Array, values: Array) -> Array:
    """The lattice filter of values (N, C), not normalised."""
    d = points.shape[1]
    corners = [slow_corners(point) for point in points]
    held = {vertex: np.zeros(values.shape[1]) for around in corners for vertex in around}
    for around, value in zip(corners, values, strict=True):
        for vertex, weight in around.items():
            held[vertex] = held[vertex] + weight * value
    for axis in range(d + 1):
        step = np.full(d + 1, -1)
        step[axis] = d
        held = {
            vertex: value + sum(held.get(tuple((vertex + side * step).tolist()), 0.0) for side in (-1, 1)) / 2
            for vertex, value in held.items()
        }
    found = [sum(weight * held[vertex] for vertex, weight in around.items()) for around in corners]
    return np.array(found) / (1 + 2.0**-d)


def slow_crf(image: NDArray[np.uint8], probs: Array, steps: int, weights: tuple[float, float] = (3, 10)) -> Array:
    labels, height, width = probs.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    position = np.stack([x / np.float32(3), y / np.float32(3)], 1)
    colour = image.reshape(-1, 3).astype(np.float32) / np.float32(13)
    bilateral = np.concatenate([np.stack([x, y], 1) / np.float32(80), colour], 1)
    unary = -np.log(np.maximum(probs.reshape(labels, -1).T, 1e-5))
    kernels = []
    for weight, points in zip(weights, (position, bilateral), strict=True):
        matrix = slow_filter(points, np.eye(height * width))
        scale = 1 / np.sqrt(matrix.sum(1))
        kernels.append(weight * scale[:, None] * matrix * scale)

    def softmax(scores: Array) -> Array:
        exps = np.exp(scores - scores.max(1, keepdims=True))
        return exps / exps.sum(1, keepdims=True)

    belief = softmax(-unary)
    for _ in range(steps):
        belief = softmax(-unary + sum(kernel @ belief for kernel in kernels))
    return belief.T.reshape(labels, height, width)


def scene(height: int, width: int, labels: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A noisy picture of a few coloured regions, and label probabilities that roughly follow them."""
    rng = np.random.default_rng(seed)
    centres = rng.random((labels + 2, 2)) * [height, width]
    grid = np.stack(np.mgrid[:height, :width], -1)[..., None, :]
    region = ((grid - centres) ** 2).sum(-1).argmin(-1)
    image = rng.integers(0, 256, (labels + 2, 3))[region] + rng.normal(0, 8, (height, width, 3))
    probs = np.eye(labels)[np.minimum(region, labels - 1)].transpose(2, 0, 1) * 0.4
    probs = probs + rng.random((labels, height, width)) * 0.6
    return image.clip(0, 255).astype(np.uint8), (probs / probs.sum(0)).astype(np.float32)


@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_lattice_filter_equals_the_slow_one(features: int) -> None:
    rng = np.random.default_rng(features)
    points = rng.normal(0, 1.5, (60, features)).astype(np.float32)
    values = rng.normal(0, 1, (60, 4))
    lattice = build_lattice([torch.from_numpy(column.copy()) for column in points.T])
    scale = 1 / np.sqrt(slow_filter(points, np.ones((60, 1))))
    expected = scale * slow_filter(points, scale * values)
    np.testing.assert_allclose(lattice.filter(torch.from_numpy(values).float()), expected, atol=1e-5)


def test_lattice_filter_is_close_to_the_gaussian() -> None:
    side = 24
    axes = torch.meshgrid(torch.arange(side) / 4.0, torch.arange(side) / 4.0, indexing="ij")
    points = torch.stack([axis.reshape(-1) for axis in axes], 1)
    kernel = torch.exp(-torch.cdist(points, points).square() / 2)
    scale = kernel.sum(1).rsqrt()
    spikes = torch.zeros(side * side, 2)
    spikes[12 * side + 12, 0] = spikes[0, 1] = 1
    exact = scale[:, None] * kernel @ (scale[:, None] * spikes)
    found = build_lattice(list(axes)).filter(spikes)
    assert (found - exact).abs().max() < 0.2 * exact.max()
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0).min() > 0.99


@pytest.mark.parametrize("box", [204, 2**40])
def test_codes_are_numbered_alike_by_table_and_by_sorting(box: int) -> None:
    codes = torch.randint(2, 202, (150,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    numbers, neighbours = _number(codes, [1, -2], box)
    known = sorted(set(codes.tolist()))
    assert [known[number] for number in numbers] == codes.tolist()
    for shift, (before, after) in zip([1, -2], neighbours.tolist(), strict=True):
        assert [known.index(code + shift) if code + shift in known else len(known) for code in known] == before
        assert [known.index(code - shift) if code - shift in known else len(known) for code in known] == after


@pytest.mark.parametrize("limit", [100, 2**16, 2**16 + 1, 2**20])
def test_argsort_is_stable_at_every_size(limit: int) -> None:
    numbers = torch.randint(0, limit, (3000,), generator=torch.Generator().manual_seed(limit), dtype=torch.int32)
    numbers[1000:2000] = numbers[:1000]
    expected = torch.sort(numbers, stable=True).indices
    torch.testing.assert_close(_stable_argsort(numbers, limit), expected.int())


def test_points_far_apart_keep_their_values() -> None:
    points = [torch.tensor([0.0, 1e4, -2e4, 3e4]), torch.tensor([0.0, 5e3, 2e4, 1.0]), torch.arange(4) * 9e3]
    values = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    torch.testing.assert_close(build_lattice(points).filter(values), values)


def test_lattice_too_large_to_number_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer standard deviations"):
        build_lattice([torch.tensor([0.0, 1e6])] * 5)


@pytest.mark.parametrize("alpha", [4, 24, 32])
def test_golden_posteriors(alpha: int) -> None:
    reference = np.load(DATA / "reference_golden.npz")
    image = np.asarray(Image.open(DATA / "crf_image.png"))
    cam = reference["cam"]
    probs = np.concatenate([(1 - cam.max(0, keepdims=True)) ** alpha, cam])
    found = dense_crf(image, probs, engine="torch").numpy()
    expected = reference[f"crf_alpha{alpha}"]
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.999
    assert np.abs(found - expected).mean() <= 1e-6
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (9, 13)])
@pytest.mark.parametrize("labels", [1, 2, 4, 7])
def test_equals_the_slow_mean_field(size: tuple[int, int], labels: int) -> None:
    image, probs = scene(*size, labels)
    np.testing.assert_allclose(dense_crf(image, probs, engine="torch"), slow_crf(image, probs, 10), atol=2e-5)


@pytest.mark.parametrize("level", [0, 255])
def test_flat_image_equals_the_slow_mean_field(level: int) -> None:
    _, probs = scene(8, 11, 3)
    image = np.full((8, 11, 3), level, np.uint8)
    np.testing.assert_allclose(dense_crf(image, probs, engine="torch"), slow_crf(image, probs, 10), atol=2e-5)


def test_heavy_kernels_do_not_overflow() -> None:
    image, probs = scene(9, 8, 3)
    found = dense_crf(image, probs, 3, "torch", weight_gaussian=150, weight_bilateral=400)
    np.testing.assert_allclose(found, slow_crf(image, probs, 3, (150, 400)), atol=1e-3)


def test_no_steps_normalise_the_input() -> None:
    image, probs = scene(6, 5, 3)
    np.testing.assert_allclose(dense_crf(image, 3 * probs, 0, "torch"), probs, atol=1e-6)


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_several_sets_of_scores_equal_one_at_a_time(labels: int) -> None:
    image, first = scene(40, 61, labels)
    _, second = scene(40, 61, labels, seed=1)
    both = dense_crf(image, np.stack([first, second]), engine="torch")
    assert both.shape == (2, labels, 40, 61)
    for one, found in zip((first, second), both, strict=True):
        torch.testing.assert_close(found, dense_crf(image, one, engine="torch"), atol=1e-5, rtol=0)


def photo_and_soft_scores(name: str, labels: int) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """A photo, and scores of blobs that only roughly follow it."""
    image, _ = load_image(PHOTOS / name, 240)
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    spots = [(0.45, 0.55, 0.3), (0.2, 0.2, 0.15), (0.8, 0.2, 0.2)][: labels - 1]
    blobs = [np.exp(-np.hypot(y / height - a, x / width - b) / radius) for a, b, radius in spots]
    scores = torch.from_numpy(np.stack([np.full(image.shape[:2], 0.4), *blobs])).float()
    return image, scores / scores.sum(0)


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("name", ["astronaut.jpg", "chelsea.jpg"])
def test_relaxed_steps_of_refined_labels_lead_to_the_labels_of_ten_plain_ones(name: str, labels: int) -> None:
    image, scores = photo_and_soft_scores(name, labels)
    best = scores.argmax(0)
    sure = torch.stack([torch.where(best == row, 0.9, 0.1 / (labels - 1)) for row in range(labels)])
    expected = dense_crf(image, sure, 10, "torch", weight_bilateral=4).argmax(0)
    found = refine_labels(image, scores).argmax(0)
    assert (found == expected).float().mean() >= 0.999
    if labels == 2:  # further labels leave the CRF little to move
        assert (found == best).float().mean() < 0.99
        plain = dense_crf(image, sure, 5, "torch", weight_bilateral=4).argmax(0)
        assert (plain != expected).float().mean() > 0.005


def test_one_column_equals_a_matrix_of_columns() -> None:
    image, probs = scene(40, 61, 2)
    both = dense_crf(image, np.stack([probs, probs]), 4, "torch", relaxation=1.5)
    torch.testing.assert_close(dense_crf(image, probs, 4, "torch", relaxation=1.5), both[0], atol=1e-5, rtol=0)


def test_points_are_placed_alike_in_parts_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = list(torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 3)
    whole = build_lattice(features)
    monkeypatch.setattr(permutohedral, "_PART", 64)
    parts = build_lattice(features)
    for name in ("splat", "slice"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert torch.equal(one.values(), other.values())
        assert torch.equal(one.col_indices(), other.col_indices())
        assert torch.equal(one.crow_indices(), other.crow_indices())
    assert torch.equal(whole.neighbours, parts.neighbours)


@needs_pydensecrf
def test_refined_labels_of_both_engines_are_the_same() -> None:
    image, scores = photo_and_soft_scores("chelsea.jpg", 3)
    expected = refine_labels(image, scores, "pydensecrf").argmax(0)
    assert (refine_labels(image, scores, "torch").argmax(0) == expected).float().mean() >= 0.999


@needs_pydensecrf
@pytest.mark.parametrize(
    ("size", "labels"), [((120, 167), 2), ((167, 120), 4), ((1, 1), 3), ((1, 40), 2), ((30, 30), 1)]
)
def test_equals_pydensecrf(size: tuple[int, int], labels: int) -> None:
    image, probs = scene(*size, labels)
    expected = dense_crf(image, probs, engine="pydensecrf")
    found = dense_crf(image, probs, engine="torch")
    assert (found.argmax(0) == expected.argmax(0)).float().mean() >= 0.999
    assert (found - expected).abs().mean() <= 1e-5
    assert (found - expected).abs().max() <= 1e-3


@needs_pydensecrf
def test_equals_pydensecrf_with_other_kernels() -> None:
    image, probs = scene(60, 75, 3)
    kernels = {"sxy_gaussian": 1.5, "weight_gaussian": 5, "sxy_bilateral": 30.0, "srgb": 4, "weight_bilateral": 2.5}
    expected = dense_crf(image, np.stack([probs, probs]), 4, "pydensecrf", **kernels)
    found = dense_crf(image, np.stack([probs, probs]), 4, "torch", **kernels)
    assert (found - expected).abs().max() <= 1e-3
    assert (found - dense_crf(image, np.stack([probs, probs]), 4, "torch")).abs().max() > 0.1


@needs_pydensecrf
def test_flat_image_equals_pydensecrf() -> None:
    _, probs = scene(50, 64, 3)
    image = np.zeros((50, 64, 3), np.uint8)
    expected = dense_crf(image, probs, engine="pydensecrf")
    assert (dense_crf(image, probs, engine="torch") - expected).abs().max() <= 1e-3


def test_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    image, probs = scene(4, 5, 2)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "pixaff\[pydensecrf\]"'):
        dense_crf(image, probs, engine="pydensecrf")
    torch.testing.assert_close(dense_crf(image, probs), dense_crf(image, probs, engine="torch"))


@needs_pydensecrf
@pytest.mark.parametrize(("mkl", "expected"), [(True, "torch"), (False, "pydensecrf")])
def test_auto_takes_torch_where_its_products_are_fast(
    monkeypatch: pytest.MonkeyPatch, mkl: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert crf._pick_engine("auto", torch.device("cpu")) == expected
    assert crf._pick_engine("auto", torch.device("cuda")) == "torch"


@pytest.mark.parametrize("engine", ["torch", pytest.param("pydensecrf", marks=needs_pydensecrf)])
def test_arrays_and_tensors_of_any_layout(engine: str) -> None:
    image, probs = scene(20, 24, 3)
    expected = dense_crf(image, probs, engine=engine)
    frozen = image.copy()
    frozen.flags.writeable = False
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    mirrored = image[:, ::-1].copy()[:, ::-1]
    for other in (frozen, planes, mirrored):
        torch.testing.assert_close(dense_crf(other, torch.from_numpy(probs).double(), engine=engine), expected)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(expected.sum(0), torch.ones(20, 24))


def test_one_thread_computes_and_the_others_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    softmax = crf._softmax_
    monkeypatch.setattr(crf, "_softmax_", lambda *args: seen.add(torch.get_num_threads()) or softmax(*args))
    image, probs = scene(9, 13, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = dense_crf(image, probs, engine="torch")
        assert seen == {1}
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert torch.equal(dense_crf(image, probs, engine="torch"), two)
    finally:
        torch.set_num_threads(threads)


def test_autocast_leaves_the_crf_alone() -> None:
    image, probs = scene(9, 13, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = dense_crf(image, probs, engine="torch")
    assert torch.equal(found, dense_crf(image, probs, engine="torch"))


def test_cached_position_lattices_are_few_and_kept_apart() -> None:
    crf._cached_position_lattice.cache_clear()
    for height, width in [*pairwise(range(5, 20)), (5, 6)]:
        image, probs = scene(height, width, 2)
        first = dense_crf(image, probs, engine="torch")
        torch.testing.assert_close(dense_crf(image, probs, engine="torch"), first, rtol=0, atol=0)
    info = crf._cached_position_lattice.cache_info()
    assert (info.currsize, info.hits) == (8, 15)
    other = dense_crf(image, probs, 1, "torch", sxy_gaussian=1)
    assert (other - dense_crf(image, probs, 1, "torch")).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("image", "probs", "options", "message"),
    [
        (torch.zeros(4, 5, 3), torch.ones(2, 4, 5), {}, r"uint8 \(H, W, 3\), found torch.float32"),
        (torch.zeros(4, 5, dtype=torch.uint8), torch.ones(2, 4, 5), {}, r"found torch.uint8 \(4, 5\)"),
        (None, torch.ones(2, 5, 4), {}, r"size \(4, 5\), found \(5, 4\)"),
        (None, torch.ones(4, 5), {}, r"\(C, H, W\) or \(A, C, H, W\), found torch.float32 \(4, 5\)"),
        (None, torch.ones(2, 4, 5, dtype=torch.int64), {}, "found torch.int64"),
        (None, torch.ones(0, 4, 5), {}, r"\(0, 4, 5\)"),
        (None, torch.full((2, 4, 5), torch.nan), {}, "NaN"),
        (None, torch.ones(2, 4, 5), {"steps": -1}, "steps=-1"),
        (None, torch.ones(2, 4, 5), {"srgb": 0}, "sizes 3, 80 and 0"),
        (None, torch.ones(2, 4, 5), {"weight_gaussian": -2}, "weights -2"),
        (None, torch.ones(2, 4, 5), {"engine": "numpy"}, "'numpy'"),
        (None, torch.ones(2, 4, 5), {"relaxation": 2.5}, "found 2.5"),
        (None, torch.ones(2, 4, 5), {"relaxation": 1.5, "engine": "pydensecrf"}, "expected a relaxation of 1"),
    ],
)
def test_wrong_input_is_described(
    image: torch.Tensor | None, probs: torch.Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(torch.zeros(4, 5, 3, dtype=torch.uint8) if image is None else image, probs, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    image, probs = scene(120, 167, 3)
    expected = dense_crf(image, np.stack([probs, probs**2]))
    found = dense_crf(image, np.stack([probs, probs**2]), device="cuda")
    assert found.device.type == "cuda"
    assert (found.cpu().argmax(1) == expected.argmax(1)).float().mean() >= 0.999
    assert (found.cpu() - expected).abs().mean() <= 1e-5
