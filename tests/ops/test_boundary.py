from __future__ import annotations

import pytest
import torch
from irn_figures import PRESENT, irn_figures, pairs, path, slow_pair_affinity, slow_walk

from pixaff.ops.boundary import boundary_affinity, boundary_walk, path_runs, running_maxima, semantic_scores
from pixaff.ops.neighbours import offsets
from pixaff.ops.walk import random_walk


def random_edge(h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "beta", "steps"), [("rw_beta10_t256", 10.0, 256), ("rw_beta8_t32", 8.0, 32)])
def test_irn_walks(name: str, beta: float, steps: int) -> None:
    figures = irn_figures()
    found = boundary_walk(figures["hand_cam"], figures["hand_edge"], beta, steps)
    assert found.dtype == torch.float32
    assert (found - figures[name]).abs().max() <= 1e-4
    assert figures[name].max() > 0.3


def test_irn_walk_in_float64() -> None:
    figures = irn_figures()
    found = boundary_walk(figures["hand_cam"].double(), figures["hand_edge"].double())
    assert (found - figures["rw_beta10_t256"]).abs().max() <= 2e-5


def test_irn_semantic_mask() -> None:
    figures = irn_figures()
    scores = semantic_scores(boundary_walk(figures["hand_cam"], figures["hand_edge"]), (98, 131))
    assert scores.shape == (3, 98, 131)
    assert scores[1:].max() == 1
    values = torch.tensor([0, *(row + 1 for row in PRESENT)])
    assert torch.equal(values[scores.argmax(0)], figures["sem_seg"].long())


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_runs_are_the_paths(radius: int) -> None:
    for offset in offsets(radius):
        cells = [(run.row, run.column + x) for run in path_runs(offset) for x in range(run.cells)]
        assert cells == path(*offset)
        assert {(0, 0), offset} <= set(cells)
    if radius == 10:  # those indices take 223 MB for a crop of 512, as published
        assert sum(run.cells for offset in offsets(10) for run in path_runs(offset)) * 119 * 110 * 8 == 223_472_480


@pytest.mark.parametrize(
    ("h", "w", "radius", "borders"),
    [(7, 11, 5, "full"), (7, 11, 5, "published"), (9, 8, 3, "published"), (2, 3, 5, "full"), (1, 1, 4, "full")],
)
def test_equals_pair_after_pair(h: int, w: int, radius: int, borders: str) -> None:
    edge = random_edge(h, w)
    found = boundary_affinity(edge, radius, borders)
    rows, columns = (h, w) if borders == "full" else (h - radius + 1, w - 2 * radius + 2)
    expected = torch.zeros(len(offsets(radius)), rows, columns, dtype=torch.float64)
    shift = 0 if borders == "full" else radius - 1
    for p, source, target in pairs(h, w, radius, borders == "full"):
        expected[p, source[0], source[1] - shift] = slow_pair_affinity(edge, source, target)
    assert torch.equal(found, expected.flatten(1))
    assert torch.equal(boundary_affinity(edge.float(), radius, borders), (1 - (1 - expected).float()).flatten(1))


def test_a_batch_is_its_images() -> None:
    edges = torch.stack([random_edge(6, 12, seed) for seed in range(3)])
    assert torch.equal(boundary_affinity(edges), torch.stack([boundary_affinity(edge) for edge in edges]))


@pytest.mark.parametrize(("borders", "shape"), [("full", (5, 4)), ("published", (6, 10))])
def test_gradient_is_that_of_the_largest_cell(borders: str, shape: tuple[int, int]) -> None:
    found, expected = (random_edge(*shape, seed=1).requires_grad_() for _ in range(2))
    weights = torch.randn(len(offsets(5)), 20 if borders == "full" else 4, dtype=torch.float64)
    (boundary_affinity(found, borders=borders) * weights).sum().backward()
    h, w = shape
    grid = weights.view(len(weights), *(shape if borders == "full" else (2, 2)))
    shift = 0 if borders == "full" else 4
    for p, source, target in pairs(h, w, 5, borders == "full"):
        (slow_pair_affinity(expected, source, target) * grid[p, source[0], source[1] - shift]).backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)
    assert expected.grad is not None
    assert expected.grad.abs().max() > 0


def test_equal_cells_get_one_gradient() -> None:
    edge = torch.full((3, 6), 0.5, requires_grad=True)
    affinity = boundary_affinity(edge)
    affinity.sum().backward()
    assert edge.grad is not None
    assert edge.grad.sum() == -len(pairs(3, 6, 5, full=True))


def test_no_more_than_the_map_is_kept_for_the_backward_pass() -> None:
    edge = torch.rand(2, 30, 40, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        boundary_affinity(edge, 10, "published")
    assert 0 < sum(saved) <= edge.numel()


def test_running_maxima_end_with_the_row() -> None:
    grid = torch.tensor([[3.0, 1.0, 2.0]])
    assert [maxima.tolist() for maxima in running_maxima(grid, 5)] == [[[3, 1, 2]], [[3, 2, 2]], [[3, 2, 2]]]


@pytest.mark.parametrize(("h", "w", "radius"), [(7, 9, 5), (2, 3, 5), (1, 1, 5), (1, 12, 3)])
def test_walk_equals_a_dense_matrix(h: int, w: int, radius: int) -> None:
    edge = random_edge(h, w, seed=2) ** 3
    scores = torch.stack([random_edge(h, w, seed) for seed in (3, 4)])
    expected = slow_walk(scores, edge, 10.0, 256, radius)
    found = boundary_walk(scores, edge, radius=radius)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-5
    torch.testing.assert_close(boundary_walk(scores, edge, steps=0, radius=radius), scores * (1 - edge))


def test_a_closed_boundary_keeps_scores_inside() -> None:
    edge = torch.zeros(15, 16)
    edge[:, 7:9] = 1  # a wall of one cell would do where no path passes beside it
    scores = torch.zeros(1, 15, 16)
    scores[:, :, :7] = 0.8
    walked = boundary_walk(scores, edge, steps=1000)
    assert walked[:, :, 9:].abs().max() == 0
    torch.testing.assert_close(walked[:, :, :7], scores[:, :, :7], rtol=0, atol=1e-4)


def test_no_boundaries_and_nothing_but_boundaries() -> None:
    scores = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(5))
    flat = torch.zeros(9, 11)
    torch.testing.assert_close(
        boundary_walk(scores, flat),
        random_walk(scores, torch.ones(34, 99) * (boundary_affinity(flat) > 0), 10.0, borders="full"),
    )
    assert boundary_walk(scores, torch.ones(9, 11)).abs().max() == 0


def test_lists_are_walked_like_each_alone() -> None:
    scores = [torch.rand(c, h, w) for c, h, w in ((2, 9, 12), (1, 3, 4), (3, 12, 9))]
    edges = [random_edge(*one.shape[1:]).float() for one in scores]
    found = boundary_walk(scores, edges)
    for one, one_scores, one_edge in zip(found, scores, edges, strict=True):
        torch.testing.assert_close(one, boundary_walk(one_scores, one_edge), rtol=0, atol=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    edge = torch.rand(8, 10).bfloat16()
    assert boundary_affinity(edge).dtype == torch.float32
    assert torch.equal(boundary_affinity(edge), boundary_affinity(edge.float()))


def test_semantic_scores_without_any_object() -> None:
    scores = semantic_scores(torch.zeros(2, 3, 4), (12, 14))
    assert scores.argmax(0).max() == 0
    assert scores.isfinite().all()
    assert torch.equal(scores[0], torch.full((12, 14), 0.25))


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: boundary_affinity(torch.zeros(1, 1, 4, 4)), r"edge: found torch.float32 \(1, 1, 4, 4\), expected"),
        (lambda: boundary_affinity(torch.zeros(4, 4, dtype=torch.uint8)), "edge: found torch.uint8"),
        (lambda: boundary_affinity(torch.zeros(4, 4), 1), "radius: found 1"),
        (lambda: boundary_affinity(torch.zeros(4, 4), borders="some"), "borders: found 'some'"),
        (lambda: boundary_walk(torch.zeros(2, 4, 4), torch.zeros(4, 5)), r"edge: found torch.float32 \(4, 5\), exp"),
        (lambda: boundary_walk(torch.zeros(4, 4), torch.zeros(4, 4)), r"scores: found torch.float32 \(4, 4\)"),
        (lambda: boundary_walk(torch.zeros(1, 4, 4), torch.full((4, 4), 1.5)), "edge: found values 1.5 to 1.5"),
        (lambda: boundary_walk(torch.zeros(1, 4, 4), torch.full((4, 4), torch.nan)), "edge: found values nan"),
        (lambda: boundary_walk([torch.zeros(1, 4, 4)], []), "scores and edge: found 1 and 0"),
        (lambda: boundary_walk([torch.zeros(1, 4, 4)], torch.zeros(4, 4)), "found a tensor and a list"),
        (lambda: semantic_scores(torch.zeros(1, 4, 4), (17, 16)), r"found grid \(4, 4\), expected \(5, 4\)"),
    ],
)
def test_misuse(work, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        work()
