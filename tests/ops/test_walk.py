from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pixaff.ops import solvers, transition, walk
from pixaff.ops.neighbours import offsets
from pixaff.ops.walk import cell_scores, random_walk, upsample_scores

DATA = Path(__file__).parents[1] / "data"
SOLVERS = ("power", "chebyshev", "auto")


@pytest.fixture(scope="module")
def full_size() -> dict[str, torch.Tensor]:
    with np.load(DATA / "reference_walk_500x375.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(DATA / "reference_golden.npz") as data:
        keys = [key for key in data if key == "cam" or ".affinity" in key or ".rw_" in key]
        return {key: torch.from_numpy(data[key]) for key in keys}


def random_pair(classes: int, h: int, w: int, radius: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sources = max(h - radius + 1, 0) * max(w - 2 * radius + 2, 0)
    return (
        torch.rand(classes, h, w, generator=generator),
        torch.rand(len(offsets(radius)), sources, generator=generator).sqrt(),
    )


def dense_walk(scores: torch.Tensor, affinity: torch.Tensor, beta: float, steps: int, radius: int) -> torch.Tensor:
    """scores T^t as the paper writes it: a dense float64 matrix, filled pair by pair, columns normalised."""
    classes, h, w = scores.shape
    weights = np.eye(h * w)
    values = affinity.double().numpy()
    reach = radius - 1
    for p, (dy, dx) in enumerate(offsets(radius)):
        sources = [(y, x) for y in range(h - reach) for x in range(reach, w - reach)]
        for k, (y, x) in enumerate(sources):
            i, j = y * w + x, (y + dy) * w + x + dx
            weights[i, j] = weights[j, i] = values[p, k] ** beta
    transition = weights / weights.sum(0)
    rows = scores.double().numpy().reshape(classes, -1)
    return torch.from_numpy((rows @ np.linalg.matrix_power(transition, steps)).reshape(classes, h, w))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 64, 256])
def test_golden_walk_at_full_size(full_size, solver, steps):
    found = random_walk(full_size["scores"], full_size["affinity"], steps=steps, solver=solver)
    assert found.dtype == torch.float32
    assert (found - full_size[f"t{steps}"]).abs().max() < 1e-4


@pytest.mark.parametrize("solver", ["power", "chebyshev"])
@pytest.mark.parametrize("net", ["vgg16", "resnet38"])
@pytest.mark.parametrize("together", [False, True], ids=["single", "batch"])
def test_golden_scores_and_masks(golden, net, solver, together):
    cam = golden["cam"]
    alphas = (4, 16, 24, 32)
    full = [torch.cat([(1 - cam.amax(0, keepdim=True)) ** alpha, cam]) for alpha in alphas]
    cells = [cell_scores(one) for one in full]
    affinity = golden[f"{net}.affinity"][0]
    if together:
        walked = random_walk(cells, [affinity] * 4, solver=solver)
    else:
        walked = [random_walk(one, affinity, solver=solver) for one in cells]
    for alpha, found in zip(alphas, walked, strict=True):
        assert (found - golden[f"{net}.rw_alpha{alpha}"]).abs().max() < 1e-4
        mask = torch.tensor([0, 8, 15])[upsample_scores(found, (98, 131)).argmax(0)]
        assert torch.equal(mask, golden[f"{net}.rw_mask_alpha{alpha}"].long())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("h", "w", "radius", "beta", "steps"),
    [(6, 11, 5, 8.0, 256), (5, 9, 5, 2.5, 31), (7, 6, 3, 1.0, 2), (9, 8, 2, 4.0, 64)],
)
def test_equals_dense_powers_in_float64(h, w, radius, beta, steps, solver):
    scores, affinity = random_pair(2, h, w, radius)
    found = random_walk(scores.double(), affinity, beta, steps, radius, solver, tol=1e-11)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, dense_walk(scores, affinity, beta, steps, radius), rtol=0, atol=1e-10)


def test_tolerance_bounds_the_chebyshev_error(full_size):
    """In the norm weighted by degree, which is where the eigenvectors are orthogonal."""
    scores, affinity = full_size["scores"].double(), full_size["affinity"].double()
    exact = random_walk(scores, affinity, solver="power")
    weights = torch.ones(47, 63, dtype=torch.float64)
    for p, (dy, dx) in enumerate(offsets(5)):
        strength = affinity[p].view(43, 55) ** 8
        weights[:43, 4:59] += strength
        weights[dy : dy + 43, 4 + dx : 59 + dx] += strength
    errors = []
    for tol in (1e-1, 1e-3, 1e-5, 1e-7):
        difference = random_walk(scores, affinity, solver="chebyshev", tol=tol) - exact
        error = (difference.square() * weights).sum((1, 2)).sqrt() / (scores.square() * weights).sum((1, 2)).sqrt()
        assert error.max() < tol
        errors.append(error.max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 1e-9  # not simply the power solver


def test_eigenvalues_below_the_usual_are_noticed(monkeypatch):
    """The polynomial of too small an interval is far off, which its last term shows; the whole one is taken then."""
    scores, affinity = random_pair(2, 12, 15)
    affinity = (affinity > 0.8).to(affinity.dtype)
    exact = random_walk(scores.double(), affinity.double(), solver="power")
    for low in (solvers._LOWEST, -0.2, 0.3):
        monkeypatch.setattr(solvers, "_LOWEST", low)
        found = random_walk(scores, affinity, solver="chebyshev")
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-5)


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_a_high_grids_pattern_repeats_the_middle_row_of_a_low_one(radius):
    for h in (2 * radius - 1, 2 * radius, 3 * radius + 1, 29):
        for w in (1, 2 * radius - 2, 2 * radius - 1, 2 * radius + 4):
            slot_by_slot = transition._build_low_pattern(h, w, radius, torch.device("cpu"))
            for name, numbers in transition._build_pattern(h, w, radius, torch.device("cpu"))._asdict().items():
                expected = getattr(slot_by_slot, name)
                assert numbers.dtype == expected.dtype == torch.int32
                assert torch.equal(numbers, expected), (name, h, w)


def test_the_fallback_is_what_saves_a_wrong_interval(monkeypatch):
    scores, affinity = random_pair(2, 12, 15)
    exact = random_walk(scores.double(), affinity.double(), solver="power")
    coefficients = solvers._chebyshev_coefficients(256, 1e-5, 0.5)
    moved = transition.transition_matrix([affinity], [(12, 15)], 8.0, 5, torch.float32, 4, 3).matrix
    wrong, _ = solvers._chebyshev(moved, walk._pack([scores], torch.float32), coefficients)
    assert not torch.allclose(wrong[:, :2].t().view(2, 12, 15).double(), exact, atol=1e-2)


def test_chebyshev_and_auto_save_products(full_size, monkeypatch):
    calls = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kwargs: calls.append(1) or addmm(*args, **kwargs))
    for solver, most in (("power", 256), ("chebyshev", 64), ("auto", 64)):
        calls.clear()
        random_walk(full_size["scores"], full_size["affinity"], solver=solver)
        assert most / 2 < len(calls) <= most, solver
    calls.clear()
    random_walk(full_size["scores"], full_size["affinity"], steps=3)
    assert len(calls) == 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_ragged_batch_equals_its_images_one_by_one(solver, monkeypatch):
    shapes = [(3, 13, 17), (1, 6, 9), (5, 8, 21), (2, 1, 1), (4, 30, 5), (3, 17, 13)]
    pairs = [random_pair(*shape, seed=i) for i, shape in enumerate(shapes)]
    scores, affinities = [s for s, _ in pairs], [a for _, a in pairs]
    alone = [random_walk(s, a, solver=solver) for s, a in pairs]
    for most_nodes in (2**17, 250, 1):  # one matrix, a few, one each
        monkeypatch.setitem(walk._BATCH_NODES, "cpu", most_nodes)
        for one, found, start in zip(alone, random_walk(scores, affinities, solver=solver), scores, strict=True):
            assert found.shape == start.shape
            torch.testing.assert_close(found, one, rtol=0, atol=2e-5)


def test_an_empty_batch():
    assert random_walk([], []) == []


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 30), (30, 8)])
def test_grids_without_pairs_keep_their_scores(h, w, solver):
    scores, affinity = random_pair(2, h, w)
    assert affinity.shape == (34, 0)
    # Chebyshev's recurrence adds up float32 roundings; in float64 nothing of them is left.
    torch.testing.assert_close(random_walk(scores, affinity, solver=solver), scores, rtol=0, atol=2e-5)
    scores = scores.double()
    torch.testing.assert_close(random_walk(scores, affinity, solver=solver), scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_constants_and_lone_nodes_stay(solver):
    _, affinity = random_pair(1, 12, 15)
    scores = torch.full((2, 12, 15), 0.7, dtype=torch.float64)
    scores[1, -1, 0] = 0.1  # a corner that no source reaches: its only neighbour is itself
    found = random_walk(scores, affinity, solver=solver)
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-12)


def test_grids_above_the_cache_bound_are_walked_alike(monkeypatch):
    scores, affinity = random_pair(2, 10, 12)
    cached = random_walk(scores, affinity)
    monkeypatch.setattr(transition, "_CACHED_NODES", 0)
    monkeypatch.setattr(transition, "_cached_pattern", None)
    assert torch.equal(random_walk(scores, affinity), cached)


def test_walks_take_one_thread_and_give_the_others_back(monkeypatch):
    scores, affinity = random_pair(2, 10, 12)
    seen = set()
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kw: seen.add(torch.get_num_threads()) or addmm(*args, **kw))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        random_walk(scores, affinity)
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_inputs_are_left_alone():
    scores, affinity = random_pair(4, 10, 12)  # 4 classes: no padding, so a view would be possible
    kept_scores, kept_affinity = scores.clone(), affinity.clone()
    still = random_walk(scores, affinity.requires_grad_(), steps=0)
    assert torch.equal(still, scores)
    assert still.data_ptr() != scores.data_ptr()
    moved = random_walk(scores, affinity)
    assert not moved.requires_grad
    assert not torch.equal(moved, scores)
    assert torch.equal(scores, kept_scores)
    assert torch.equal(affinity, kept_affinity)


def test_half_precision_is_walked_in_float32():
    scores, affinity = random_pair(2, 10, 12)
    scores, affinity = scores.half(), affinity.bfloat16()
    found = random_walk(scores, affinity)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, random_walk(scores.float(), affinity.float()))


def test_autocast_leaves_the_walk_alone():
    scores, affinity = random_pair(2, 10, 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = random_walk(scores, affinity)
    assert torch.equal(found, random_walk(scores, affinity))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu(full_size):
    small = random_pair(5, 13, 17)
    scores, affinities = [full_size["scores"], small[0]], [full_size["affinity"], small[1]]
    on_device = random_walk([s.cuda() for s in scores], [a.cuda() for a in affinities])
    for found, expected in zip(on_device, random_walk(scores, affinities), strict=True):
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


def test_cell_scores_average_and_count_the_padding_as_zero():
    scores = torch.rand(2, 11, 17)
    cells = cell_scores(scores)
    assert cells.shape == (2, 2, 3)
    torch.testing.assert_close(cells[:, 0, 0], scores[:, :8, :8].mean((1, 2)))
    torch.testing.assert_close(cells[:, 1, 2], scores[:, 8:, 16:].sum((1, 2)) / 64)
    assert cell_scores(torch.ones(1, 1, 1)).item() == pytest.approx(1 / 64)


def test_upsampling_is_bilinear_between_cell_centres():
    ramp = torch.arange(3.0).expand(1, 2, 3)
    large = upsample_scores(ramp, (13, 22))
    assert large.shape == (1, 13, 22)
    expected = ((torch.arange(22) + 0.5) / 8 - 0.5).clamp(0, 2)
    torch.testing.assert_close(large[0, 5], expected)


def test_the_beta_warning_of_sparse_tensors_stays_quiet_and_others_do_not():
    code = """
import warnings, torch
from pixaff.ops.walk import random_walk
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    random_walk(torch.rand(1, 6, 9), torch.rand(34, 2))
    warnings.warn("mine")
print([str(warning.message) for warning in caught])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['mine']"
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta": 0}, "beta: found 0, expected a number above 0"),
        ({"beta": float("nan")}, "beta: found nan"),
        ({"steps": -1}, "steps: found -1"),
        ({"steps": 2.0}, r"steps: found 2\.0"),
        ({"solver": "dense"}, "solver: found 'dense', expected 'auto', 'power' or 'chebyshev'"),
        ({"tol": 0}, "tol: found 0"),
        ({"radius": 1}, "radius: found 1"),
        (
            {"radius": 4},
            r"affinity: found torch.float32 \(34, 48\), expected floating \(22, 70\) for a 10x16 grid, radius 4",
        ),
        ({"scores": torch.zeros(10, 16)}, r"scores: found torch.float32 \(10, 16\)"),
        ({"scores": torch.zeros(0, 10, 16)}, r"scores: found torch.float32 \(0, 10, 16\)"),
        ({"scores": torch.zeros(2, 10, 16, dtype=torch.int64)}, r"scores: found torch.int64"),
        ({"affinity": torch.zeros(1, 34, 48)}, r"affinity: found torch.float32 \(1, 34, 48\)"),
        ({"affinity": torch.full((34, 48), 1.5)}, r"affinity: found values 1\.5 to 1\.5, expected 0 to 1"),
        ({"affinity": torch.full((34, 48), float("nan"))}, "affinity: found values nan"),
        ({"affinity": torch.zeros(34, 48, device="meta")}, "affinity: found on meta, expected on cpu"),
        (
            {
                "scores": [torch.zeros(1, 10, 16), torch.zeros(1, 10, 16, device="meta")],
                "affinity": [torch.zeros(34, 48)] * 2,
            },
            "scores: found on meta, expected on cpu like the first scores",
        ),
        ({"affinity": [torch.zeros(34, 48)]}, "found a tensor and a list"),
        ({"scores": [], "affinity": [torch.zeros(34, 48)]}, "found 0 and 1"),
        ({"scores": torch.zeros(1, device="meta").expand(1, 2**13, 2**13)}, "expected at most 31122951 nodes"),
    ],
)
def test_bad_arguments(change, words):
    arguments = {"scores": torch.zeros(2, 10, 16), "affinity": torch.zeros(34, 48)} | change
    with pytest.raises(ValueError, match=words):
        random_walk(**arguments)


def test_bad_sizes():
    with pytest.raises(ValueError, match=r"found grid \(2, 3\), expected \(2, 4\) for the size \(16, 25\)"):
        upsample_scores(torch.zeros(1, 2, 3), (16, 25))
    with pytest.raises(ValueError, match=r"scores: found torch.float32 \(2, 3\)"):
        cell_scores(torch.zeros(2, 3))
