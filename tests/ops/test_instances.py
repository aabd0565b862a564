from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from irn_figures import PRESENT, irn_figures
from torch import Tensor

from pixaff.ops.boundary import boundary_walk
from pixaff.ops.instances import (
    connected_regions,
    detect_instances,
    displacement_centroids,
    instance_map,
    instance_scores,
)


def test_irn_centroids_and_instances() -> None:
    figures = irn_figures()
    centroids = displacement_centroids(figures["hand_displacement"])
    assert torch.equal(centroids, figures["centroids"].long())
    instances = instance_map(centroids, figures["hand_displacement"])
    assert torch.equal(instances, figures["instance_map"].long())
    assert torch.equal(displacement_centroids(figures["hand_displacement"], 100), centroids)


def test_irn_detections() -> None:
    figures = irn_figures()
    instances = figures["instance_map"].long()
    scores = instance_scores(figures["hand_cam"], instances)
    walked = boundary_walk(scores, figures["hand_edge"])
    assert (walked - figures["ins_scores"]).abs().max() <= 1e-4
    found = detect_instances(walked, (98, 131))
    masks = np.unpackbits(figures["ins_mask"].numpy(), axis=-1)[..., :131].astype(bool)
    assert len(found.scores) == len(masks) == 8
    for number, mask in enumerate(masks, 1):
        np.testing.assert_array_equal((found.map == number).numpy(), mask)
    torch.testing.assert_close(found.scores, figures["ins_score"], rtol=0, atol=1e-4)
    classes = [PRESENT[row // (int(instances.max()) + 1)] for row in found.rows]
    assert classes == figures["ins_class"].tolist()


def slow_centroids(field: Tensor, iterations: int) -> list[list[list[int]]]:
    """Cell after cell in Python floats."""
    h, w = field.shape[1:]
    values = field.tolist()
    ends: list[list[list[int]]] = [[[0] * w for _ in range(h)] for _ in range(2)]
    for row in range(h):
        for column in range(w):
            y, x = float(row), float(column)
            for _ in range(iterations):
                moves = []
                for plane in values:
                    near = [
                        plane[v][u] * (1 - abs(y - v)) * (1 - abs(x - u))
                        for v in {math.floor(y), math.ceil(y)}
                        for u in {math.floor(x), math.ceil(x)}
                    ]
                    moves.append(sum(near))
                y, x = min(max(y + moves[0], 0.0), h - 1.0), min(max(x + moves[1], 0.0), w - 1.0)
            ends[0][row][column], ends[1][row][column] = round(y), round(x)
    return ends


@pytest.mark.parametrize(("h", "w", "strength"), [(9, 12, 0.5), (9, 12, 3.0), (1, 1, 1.0), (1, 7, 2.0), (6, 1, 2.0)])
def test_centroids_equal_cell_after_cell(h: int, w: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(h)
    coarse = torch.randn(1, 2, 4, 4, generator=generator, dtype=torch.float64)
    field = strength * torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear", align_corners=True)[0]
    for iterations in (0, 1, 7, 25):
        assert displacement_centroids(field, iterations).tolist() == slow_centroids(field, iterations)


def slow_regions(labels: Tensor) -> Tensor:
    """Flood fill in reading order."""
    h, w = labels.shape
    regions = torch.zeros(h, w, dtype=torch.int64)
    count = 0
    for y in range(h):
        for x in range(w):
            if not labels[y, x] or regions[y, x]:
                continue
            count += 1
            waiting = [(y, x)]
            while waiting:
                v, u = waiting.pop()
                if 0 <= v < h and 0 <= u < w and not regions[v, u] and labels[v, u] == labels[y, x]:
                    regions[v, u] = count
                    waiting += [(v + 1, u), (v - 1, u), (v, u + 1), (v, u - 1)]
    return regions


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 20), (20, 1), (13, 17), (30, 25)])
def test_regions_equal_a_flood_fill(h: int, w: int) -> None:
    generator = torch.Generator().manual_seed(w)
    for kinds in (2, 3, 4):
        labels = torch.randint(0, kinds, (h, w), generator=generator)
        assert torch.equal(connected_regions(labels), slow_regions(labels))
        assert torch.equal(connected_regions(labels > 0), slow_regions(labels > 0))


def test_a_spiral_and_a_comb_are_one_region() -> None:
    spiral = torch.zeros(41, 41, dtype=torch.bool)
    at, step = np.array([20, 20]), np.array([0, 1])
    for side in range(1, 20):
        for _ in range(2 * side):
            spiral[tuple(at)] = True
            at += step
        step = np.array([step[1], -step[0]])
    comb = torch.zeros(30, 41, dtype=torch.bool)
    comb[:, ::2] = True
    comb[-1] = True
    for shape in (spiral, spiral.t(), comb, comb.flip(0), comb.t()):
        assert connected_regions(shape).max() == 1
        assert torch.equal(connected_regions(shape), slow_regions(shape))
        assert torch.equal(connected_regions(~shape), slow_regions(~shape))


def test_nothing_and_everything_is_labelled() -> None:
    assert connected_regions(torch.zeros(4, 5, dtype=torch.uint8)).max() == 0
    assert torch.equal(connected_regions(torch.full((4, 5), 7)), torch.ones(4, 5, dtype=torch.int64))


SIZE = (96, 128)


class Scene:
    """A photo of discs whose centres, classes and cells are known, and what a perfect network says of it."""

    def __init__(self, discs: list[tuple[int, int, int]], radius: float = 6.0) -> None:
        h, w = SIZE[0] // 4, SIZE[1] // 4
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        self.objects = torch.zeros(h, w, dtype=torch.int64)
        self.displacement = torch.zeros(2, h, w)
        classes = max((row for *_, row in discs), default=0) + 1
        self.cams = torch.zeros(classes, h, w)
        for number, (y, x, row) in enumerate(discs, 1):
            inside = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2) & (self.objects == 0)
            self.objects[inside] = number
            self.displacement[:, inside] = torch.stack([y - rows, x - columns])[:, inside].float()
            self.cams[row][inside] = 1
        around = torch.nn.functional.pad(self.objects[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0]
        unlike = [around[1 + dy : h + 1 + dy, 1 + dx : w + 1 + dx] != self.objects for dy, dx in ((0, 1), (1, 0))]
        self.edge = (unlike[0] | unlike[1]).float() * 0.99

    def detect(self):
        instances = instance_map(displacement_centroids(self.displacement), self.displacement)
        count = int(instances.max()) + 1
        walked = boundary_walk(instance_scores(self.cams, instances), self.edge)
        found = detect_instances(walked, SIZE)
        return found, (found.rows // count).tolist()

    def check(self, found_classes: list[int]) -> None:
        found, classes = self.detect()
        assert sorted(classes) == sorted(found_classes)
        assert found.scores.min() > 0.5
        for number in range(1, len(classes) + 1):
            mask = found.map[2::4, 2::4] == number
            objects = self.objects[mask]
            best = objects.mode().values
            assert best > 0
            covered, true = mask & (self.objects == best), self.objects == best
            assert covered.sum() / (mask | true).sum() > 0.7


def test_one_object() -> None:
    Scene([(12, 15, 0)]).check([0])


def test_touching_objects_of_one_class_are_apart() -> None:
    scene = Scene([(12, 9, 0), (12, 21, 0)])
    assert (scene.objects[12] > 0).sum() == 25  # the two share a side
    assert connected_regions(scene.objects > 0).max() == 1
    scene.check([0, 0])


def test_a_class_that_appears_twice_beside_another() -> None:
    Scene([(8, 7, 0), (15, 24, 0), (8, 16, 1)], radius=5).check([0, 0, 1])


def test_no_object() -> None:
    scene = Scene([])
    instances = instance_map(displacement_centroids(scene.displacement), scene.displacement)
    assert instances.max() == 0
    found, _ = scene.detect()
    assert len(found.scores) == len(found.rows) == 0
    assert found.map.max() == 0


def test_cells_that_end_nowhere_are_an_instance_of_their_own() -> None:
    """Left of column 6 the field turns in circles of two cells: no region of short displacements is ever reached."""
    field = torch.zeros(2, 5, 12)
    field[1, :, 0:6:2], field[1, :, 1:6:2] = 3.0, -3.0
    field[1, :, 4:6] = -4.0
    field[1, :, 0:2] = 4.0
    instances = instance_map(displacement_centroids(field), field)
    assert instances.unique().tolist() == [0, 1]
    assert (instances[:, 6:] == 1).all()
    assert (instances[:, 0] == 0).all()
    everywhere = torch.full((2, 5, 12), 3.0)
    assert instance_map(displacement_centroids(everywhere), everywhere).max() == 0


def test_instances_are_numbered_without_gaps() -> None:
    """Regions in which no centroid lies are passed over."""
    field = torch.zeros(2, 4, 9)
    field[1, :, 4] = 5.0
    field[0, 0, 0:2] = 3.0
    centroids = torch.zeros(2, 4, 9, dtype=torch.int64)
    centroids[1] = 8
    assert instance_map(centroids, field).tolist() == [[0] * 9] * 4
    centroids[1, 0, :3] = 2
    instances = instance_map(centroids, field)
    assert instances[0, :3].tolist() == [0, 0, 0]
    assert instances[1].tolist() == [1] * 9


def test_scores_are_cut_class_by_class() -> None:
    scores = torch.rand(2, 3, 4)
    instances = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1], [2, 2, 2, 1]])
    cut = instance_scores(scores, instances)
    assert cut.shape == (6, 3, 4)
    for row in range(6):
        assert torch.equal(cut[row], scores[row // 3] * (instances == row % 3))


def test_pieces_and_fragments() -> None:
    """Of one row: a large piece, a small one and one below 1 % of the pixels."""
    walked = torch.zeros(2, 25, 25)
    walked[0, 2:12, 2:12] = 0.4
    walked[0, 2:6, 20:24] = 0.3
    walked[0, 20:22, 4:6] = 0.25
    walked[1, 18:24, 12:20] = 0.2
    found = detect_instances(walked, (100, 100), background=0.25, fragment=0.01)
    assert found.rows.tolist() == [0, 0, 0, 1]
    assert found.scores[0] == 1
    assert found.scores[1] == pytest.approx(0.75, abs=1e-3)
    assert found.scores[2] == 0
    assert found.scores[3] == pytest.approx(0.5, abs=1e-3)
    assert [int(found.map[y, x]) for y, x in ((20, 20), (16, 88), (84, 20), (84, 64), (0, 0))] == [1, 2, 3, 4, 0]


def test_sizes_that_no_cell_fills() -> None:
    found = detect_instances(torch.ones(1, 2, 3), (5, 9))
    assert found.map.shape == (5, 9)
    assert found.map.unique().tolist() == [1]
    assert found.scores.tolist() == [1]


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: displacement_centroids(torch.zeros(3, 4, 4)), r"displacement: found torch.float32 \(3, 4, 4\)"),
        (lambda: displacement_centroids(torch.zeros(2, 4, 4, dtype=torch.int64)), "displacement: found torch.int64"),
        (lambda: displacement_centroids(torch.full((2, 4, 4), torch.nan)), "displacement: found NaN"),
        (lambda: displacement_centroids(torch.zeros(2, 4, 4), -1), "iterations: found -1"),
        (lambda: instance_map(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)), "centroids: found torch.float32"),
        (
            lambda: instance_map(torch.full((2, 4, 4), 4), torch.zeros(2, 4, 4)),
            r"centroids: found cells off the grid, expected rows 0..3 and columns 0..3",
        ),
        (lambda: instance_scores(torch.zeros(1, 4, 4), torch.zeros(4, 5).long()), "scores and instances: found"),
        (lambda: connected_regions(torch.zeros(4, 4)), "labels: found torch.float32"),
        (lambda: detect_instances(torch.zeros(1, 4, 4), (99, 9)), r"found grid \(4, 4\)"),
    ],
)
def test_misuse(work, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        work()
