"""Time and memory of IRN's walk and of its training losses against the published ways.

    python -m benchmarks.irn_walk [--repeats N] [--batch N] [--json]

First table: the walk at 500 x 375 pixels (94 x 125 cells), 3 scores, 256 steps, from the boundary map to the walked
scores. The published way gathers the boundary at the cells of all paths, writes a dense matrix and squares it eight
times; it is timed once. The error is the largest one of a single score against the walk in float64. Second table: the
boundary and displacement losses of crops of 512 pixels, forward and backward; the published way gathers paths and both
ends of all pairs by indices, which a training holds all the time. Gradients of both are compared. Third table: what
instances cost beside the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import arguments, peak_memory, show, take_turns
from pixaff.ops.boundary import boundary_affinity, boundary_walk, path_runs
from pixaff.ops.instances import detect_instances, displacement_centroids, instance_map, instance_scores
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import boundary_loss, displacement_loss
from pixaff.ops.neighbours import offsets, source_view, target_view
from pixaff.ops.walk import random_walk

PHOTO = (375, 500)
GRID = (94, 125)
BETA = 10.0
SQUARINGS = 8
STEPS = 2**SQUARINGS
SIDE = 128
RADIUS = 10
Rows = list[dict[str, float | str]]


def field_of(shape: Sequence[int], coarse: int, seed: int) -> Tensor:
    """Smooth noise (..., h, w) of mean 0, a wave for every `coarse` cells."""
    generator = torch.Generator().manual_seed(seed)
    *lead, h, w = shape
    noise = torch.randn(1, int(torch.tensor(lead).prod()), h // coarse + 2, w // coarse + 2, generator=generator)
    return F.interpolate(noise, (h, w), mode="bicubic", align_corners=True).reshape(*shape)


def make_boundaries(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Boundary maps: thin lines, high where a smooth field crosses 0, as a trained network gives them."""
    return torch.sigmoid(4 - 12 * field_of(shape, 16, seed).abs())


def dense_walk(scores: Tensor, edge: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """scores T^(2^squarings), T a dense matrix that is squared again and again."""
    h, w = edge.shape
    affinity = boundary_affinity(edge)
    nodes = torch.arange(h * w).view(h, w)
    weights = torch.eye(h * w, dtype=edge.dtype)
    for values, (dy, dx) in zip(affinity.view(-1, h, w), offsets(), strict=True):
        rows, left, right = slice(0, h - dy), max(0, -dx), w - max(0, dx)
        sources, targets = nodes[rows, left:right].flatten(), nodes[dy:, left + dx : right + dx].flatten()
        weights[sources, targets] = values[rows, left:right].flatten()
        weights[targets, sources] = values[rows, left:right].flatten()
    transition = weights.pow_(BETA)
    transition /= transition.sum(0)
    for _ in range(squarings):
        transition = transition @ transition
    return ((scores * (1 - edge)).flatten(1) @ transition).view_as(scores)


def compare_walks(repeats: int) -> tuple[Rows, dict[str, float]]:
    """One row per way of walking: name, milliseconds, speed-up over the dense one, error."""
    edge = make_boundaries(GRID)
    scores = field_of((3, *GRID), 24, 1).clamp(0, 1)
    exact = random_walk(
        (scores * (1 - edge)).double(), boundary_affinity(edge).double(), BETA, STEPS, solver="power", borders="full"
    )
    found: list[Tensor] = []
    (dense,) = take_turns([lambda: found.append(dense_walk(scores, edge))], 1)
    work = partial(boundary_walk, scores, edge, BETA, STEPS)
    found.append(work())
    (sparse,) = take_turns([work], 20 * repeats)
    (paths,) = take_turns([partial(boundary_affinity, edge)], 20 * repeats)
    names = (f"published: dense, {SQUARINGS} squarings", "boundary_walk")
    rows: Rows = [
        {
            "walk": name,
            "milliseconds": 1000 * seconds,
            "times_faster": dense / seconds,
            "error": (one - exact).abs().max().item(),
        }
        for name, seconds, one in zip(names, (dense, sparse), found, strict=True)
    ]
    return rows, {"times_faster": dense / sparse, "ms_of_the_affinities": 1000 * paths}


class PathIndices:
    """Indices into a flat map of the cells of all paths, and of both ends of all pairs, as published."""

    def __init__(self) -> None:
        nodes = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
        by_length: dict[int, list[Tensor]] = {}
        order: dict[int, list[int]] = {}
        for p, offset in enumerate(offsets(RADIUS)):
            cells = [(run.row, run.column + x) for run in path_runs(offset) for x in range(run.cells)]
            path = torch.stack([target_view(nodes, cell, RADIUS).flatten() for cell in cells])
            by_length.setdefault(len(cells), []).append(path)
            order.setdefault(len(cells), []).append(p)
        self.paths = [torch.stack(paths) for paths in by_length.values()]
        self.sources = source_view(nodes, RADIUS).flatten()
        places = [p for numbers in order.values() for p in numbers]
        self.order = torch.tensor(places)
        steps = torch.tensor(offsets(RADIUS))
        self.targets = torch.stack([target_view(nodes, offsets(RADIUS)[p], RADIUS).flatten() for p in places])
        self.steps = steps[self.order].float()

    @property
    def bytes(self) -> int:
        """Memory that a training holds for them."""
        return sum(one.nbytes for one in (*self.paths, self.sources, self.order, self.targets, self.steps))

    def affinity(self, edge: Tensor) -> Tensor:
        """Affinities (B, P, L) of boundary maps (B, h, w), offsets in the order of the indices."""
        flat = edge.flatten(1)
        parts = []
        for path in self.paths:
            values = flat.index_select(1, path.flatten()).view(len(edge), *path.shape)
            parts.append(
                1 - F.max_pool2d(values.flatten(0, 1)[:, None], (path.shape[1], 1)).view(len(edge), len(path), -1)
            )
        return torch.cat(parts, 1)

    def loss(self, edge: Tensor, field: Tensor, labels: Tensor) -> Tensor:
        """The four terms, weighted, from gathered pairs."""
        bg, fg, neg = (kind[:, self.order].float() for kind in pair_labels(labels, RADIUS))
        affinity = self.affinity(edge)
        alike, unlike = -torch.log(affinity + 1e-5), -torch.log(1 + 1e-5 - affinity)
        flat = field.flatten(2)
        targets = flat.index_select(2, self.targets.flatten()).view(*flat.shape[:2], *self.targets.shape)
        change = flat.index_select(2, self.sources)[:, :, None] - targets
        moving = (change - self.steps.t()[None, :, :, None]).abs()
        boundary = (alike * bg).sum() / bg.sum() / 4 + (alike * fg).sum() / fg.sum() / 4
        boundary = boundary + (unlike * neg).sum() / neg.sum() / 2
        moved = (moving * fg[:, None]).sum() / fg.sum() / 2 + (change.abs() * bg[:, None]).sum() / bg.sum() / 2
        return boundary + moved / 2


def lean_loss(edge: Tensor, field: Tensor, labels: Tensor) -> Tensor:
    """The same, offset by offset."""
    return boundary_loss(edge, labels, RADIUS).total + displacement_loss(field, labels, RADIUS).total


def prepare(published: bool, batch: int) -> Callable[[], tuple[Tensor, ...]]:
    """The measured call: forward and backward; gives the gradients. The published one makes its indices before."""
    edge = make_boundaries((batch, SIDE, SIDE)).requires_grad_()
    field = (3 * field_of((batch, 2, SIDE, SIDE), 16, 1)).requires_grad_()
    height = field_of((batch, SIDE, SIDE), 24, 2)
    labels = torch.full(height.shape, 255, dtype=torch.uint8)
    labels[height < -0.1], labels[height > 0.1], labels[height > 0.8] = 0, 1, 2
    loss = PathIndices().loss if published else lean_loss
    return lambda: torch.autograd.grad(loss(edge, field, labels), (edge, field))


def compare_losses(repeats: int, batch: int) -> tuple[Rows, dict[str, float]]:
    """Both ways by seconds and memory, and their ratios."""
    ways = {"published: path indices": True, "pixaff": False}
    works = [prepare(published, batch) for published in ways.values()]
    expected, found = (work() for work in works)
    difference = max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, expected, strict=True)
    )
    seconds = take_turns(works, repeats)
    works.clear()
    memory = [peak_memory(prepare, published, batch) for published in ways.values()]
    held = [PathIndices().bytes, 0]
    rows: Rows = [
        {"way": name, "seconds": s, "peak_MB": m / 1e6, "held_MB": h / 1e6}
        for name, s, m, h in zip(ways, seconds, memory, held, strict=True)
    ]
    ratios = {"time_ratio": seconds[1] / seconds[0], "memory_ratio": memory[1] / (memory[0] + held[0])}
    return rows, {"crops": batch, **ratios, "gradient_difference": difference}


def time_instances(repeats: int) -> tuple[Rows, dict[str, float]]:
    """Milliseconds of each step from a displacement field to detections."""
    edge, field = make_boundaries(GRID), 4 * field_of((2, *GRID), 24, 3)
    scores = field_of((3, *GRID), 24, 1).clamp(0, 1)
    centroids = displacement_centroids(field)
    instances = instance_map(centroids, field)
    cut = instance_scores(scores, instances)
    walked = boundary_walk(cut, edge)
    works: dict[str, Callable[[], object]] = {
        "displacement_centroids": partial(displacement_centroids, field),
        "instance_map": partial(instance_map, centroids, field),
        "boundary_walk of the classes": partial(boundary_walk, scores, edge),
        "boundary_walk of the instances": partial(boundary_walk, cut, edge),
        "detect_instances": partial(detect_instances, walked, PHOTO),
    }
    seconds = [take_turns([work], 4 * repeats)[0] for work in works.values()]
    rows: Rows = [{"step": name, "milliseconds": 1000 * s} for name, s in zip(works, seconds, strict=True)]
    return rows, {"instances": int(instances.max()) + 1, "walked_scores": len(cut)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="crops of the losses (default: %(default)s)")
    options = parser.parse_args()
    show("IRN's walk, 500 x 375, 3 scores, 256 steps", *compare_walks(options.repeats), options.json)
    title = "IRN's losses, forward and backward, crops of 512"
    show(title, *compare_losses(options.repeats, options.batch), options.json)
    show("Instances, 500 x 375, 3 classes", *time_instances(options.repeats), options.json)


if __name__ == "__main__":
    main()
