"""Time and memory of the random walk against dense squarings, the published way, and how they grow.

    python -m benchmarks.walk [--repeats N] [--large] [--busy] [--json]

First table: 500 x 375 pixels, 3 scores, 256 steps. Every figure includes building the matrix from the affinities. The
sparse walks keep the pattern of a grid's matrix after their first call, which is not timed: some 4 ms, once per image
size. The error is the largest one of a single score against the same walk in float64. Second table: a batch of 16
images of different sizes against the same images one after the other. Third, with --large: five sizes up to 3840 x
2160. Fourth: what a product must read, how fast that is compared with plain reading of as many bytes, and the same
product as a stencil, without a matrix: for each of the 34 offsets, both ways, one multiply-add of whole planes. With
--busy there is one table only: walks while other programs hold all cores but one, against the same on the machine as it
is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import arguments, load, peak_memory, show, take_turns
from pixaff.ops.neighbours import offsets, source_shape, source_view, target_view
from pixaff.ops.transition import transition_matrix
from pixaff.ops.walk import random_walk

INPUT = Path(__file__).parents[1] / "tests" / "data" / "reference_walk_500x375.npz"
BETA = 8.0
SQUARINGS = 8
STEPS = 2**SQUARINGS
SIZES = ((250, 188), (500, 375), (1000, 750), (2000, 1500), (3840, 2160))
Rows = list[dict[str, float | str]]


def read_input() -> tuple[Tensor, Tensor]:
    """Scores (3, 47, 63) and affinities (34, 2365) that the tests walk too."""
    with np.load(INPUT) as data:
        return torch.from_numpy(data["scores"]), torch.from_numpy(data["affinity"])


def dense_transition(affinity: Tensor, grid: tuple[int, int], beta: float) -> Tensor:
    """T as a dense matrix (h w, h w)."""
    h, w = grid
    nodes = torch.arange(h * w, device=affinity.device).view(h, w)
    sources = source_view(nodes).flatten()
    weights = torch.eye(h * w, dtype=affinity.dtype, device=affinity.device)
    for values, offset in zip(affinity, offsets(), strict=True):
        targets = target_view(nodes, offset).flatten()
        weights[sources, targets] = values
        weights[targets, sources] = values
    transition = weights.pow(beta)
    transition /= transition.sum(0)
    return transition


def dense_walk(scores: Tensor, affinity: Tensor) -> Tensor:
    """scores T^256 with T squared eight times."""
    transition = dense_transition(affinity, (scores.shape[1], scores.shape[2]), BETA)
    for _ in range(SQUARINGS):
        transition = transition @ transition
    return (scores.flatten(1) @ transition).view_as(scores)


def random_input(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Scores and affinities of an image (width, height): smooth scores, affinities as a network gives them."""
    h, w = -(-size[1] // 8), -(-size[0] // 8)
    generator = torch.Generator().manual_seed(h * w)
    rows, columns = source_shape(h, w)
    affinity = torch.rand(len(offsets()), rows * columns, generator=generator) ** 0.25
    return torch.rand(3, h, w, generator=generator), affinity


def compare(repeats: int) -> tuple[Rows, dict[str, float]]:
    """One row per way of walking: name, milliseconds, speed-up over the dense one, error."""
    scores, affinity = read_input()
    exact = random_walk(scores.double(), affinity.double(), BETA, STEPS, solver="power")
    ways: dict[str, Callable[[], Tensor]] = {
        f"dense, {SQUARINGS} squarings": lambda: dense_walk(scores, affinity),
        f"power, {STEPS} products": lambda: random_walk(scores, affinity, BETA, STEPS, solver="power"),
        "chebyshev": lambda: random_walk(scores, affinity, BETA, STEPS, solver="chebyshev"),
    }
    errors = [(way() - exact).abs().max().item() for way in ways.values()]
    # Each by itself: beside another walk, whose matrix fills the caches, it would be timed with cold ones.
    seconds = [
        take_turns([way], count)[0] for way, count in zip(ways.values(), (repeats, *2 * [20 * repeats]), strict=True)
    ]
    rows: Rows = [
        {"walk": name, "milliseconds": 1000 * s, "times_faster": seconds[0] / s, "error": error}
        for name, s, error in zip(ways, seconds, errors, strict=True)
    ]
    return rows, {"times_faster": seconds[0] / seconds[2]}


def compare_batch(repeats: int) -> tuple[Rows, dict[str, float]]:
    """16 images of different sizes, together and one after the other."""
    pairs = [random_input((320 + 16 * i, 500 - 12 * i)) for i in range(16)]
    scores, affinities = [s for s, _ in pairs], [a for _, a in pairs]

    def alone() -> None:
        for one_scores, one_affinity in pairs:
            random_walk(one_scores, one_affinity, BETA, STEPS)

    works: dict[str, Callable[[], object]] = {
        "one by one": alone,
        "one batch": lambda: random_walk(scores, affinities, BETA, STEPS),
    }
    for work in works.values():
        work()
    seconds = take_turns([*works.values()], repeats)
    rows: Rows = [{"16_images": name, "milliseconds": 1000 * s} for name, s in zip(works, seconds, strict=True)]
    return rows, {"batch_to_sum": seconds[1] / seconds[0]}


def prepare(size: tuple[int, int]) -> Callable[[], Tensor]:
    """The call whose memory is measured."""
    random_walk(*random_input((64, 64)))
    scores, affinity = random_input(size)
    return lambda: random_walk(scores, affinity, BETA, STEPS)


def compare_sizes(repeats: int) -> tuple[Rows, dict[str, float]]:
    """Milliseconds and peak memory of growing images, in all and for 1,000 cells."""
    rows: Rows = []
    for size in SIZES:
        work = prepare(size)
        work()
        (seconds,) = take_turns([work], repeats)
        cells = -(-size[0] // 8) * -(-size[1] // 8)
        memory = peak_memory(prepare, size) / 1e6
        each: dict[str, float | str] = {
            "ms_per_1000_cells": 1e6 * seconds / cells,
            "MB_per_1000_cells": 1000 * memory / cells,
        }
        name = f"{size[0]} x {size[1]}"
        rows.append({"image": name, "cells": cells, "milliseconds": 1000 * seconds, "peak_MB": memory, **each})
    growth = {
        f"{what}_against_proportional": float(rows[-1][f"{unit}_per_1000_cells"])
        / float(rows[0][f"{unit}_per_1000_cells"])
        for what, unit in (("time", "ms"), ("memory", "MB"))
    }
    return rows, growth


def stencil_product(affinity: Tensor, x: Tensor, degrees: Tensor) -> Tensor:
    """D^-1 W x of planes x (C, h, w), for affinities (34, rows, columns) that have their power already."""
    y = x.clone()
    for weights, offset in zip(affinity, offsets(), strict=True):
        source_view(y).addcmul_(weights, target_view(x, offset))
        target_view(y, offset).addcmul_(weights, source_view(x))
    return y.div_(degrees)


def compare_busy(repeats: int) -> tuple[Rows, dict[str, float]]:
    """Milliseconds of an ordinary and of a large image, without and with other programs."""
    rows: Rows = []
    for size in (SIZES[1], SIZES[-1]):
        work = prepare(size)
        work()
        seconds = []
        for busy in (False, True):
            with load(busy):
                seconds.extend(take_turns([work], repeats))
        times = {"quiet_ms": 1000 * seconds[0], "busy_ms": 1000 * seconds[1], "ratio": seconds[1] / seconds[0]}
        rows.append({"image": f"{size[0]} x {size[1]}", **times})
    return rows, {"largest_ratio": max(float(row["ratio"]) for row in rows)}


def compare_products(repeats: int) -> tuple[Rows, dict[str, float]]:
    """Bytes that a product with the matrix moves at least, and the rate, against reading as many on the same core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: Rows = []
    for size in SIZES[1:4:2]:
        scores, affinity = random_input(size)
        h, w = scores.shape[1:]
        matrix, degrees = transition_matrix([affinity], [(h, w)], BETA, 5, torch.float32)
        x = torch.rand(h * w, 4)
        y = torch.zeros_like(x)
        planes, powers = x.t().reshape(4, h, w).contiguous(), (affinity**BETA).view(-1, *source_shape(h, w))
        stencil = partial(stencil_product, powers, planes, degrees.view(h, w))
        torch.testing.assert_close(stencil().flatten(1), (matrix @ x).t())
        moved = matrix.values().numel() * 8 + (h * w + 1) * 4 + 3 * x.numel() * 4
        plain = torch.rand(moved // 4)
        works: list[Callable[[], object]] = [partial(torch.addmm, y, matrix, x, beta=-1, alpha=2, out=y), plain.sum]
        product, reading = take_turns(works, 100 * repeats)
        (without,) = take_turns([stencil], 20 * repeats)
        name = f"{size[0]} x {size[1]}"
        rates = {"GB_per_second": moved / product / 1e9, "plain_reading": moved / reading / 1e9}
        times = {"ms": 1000 * product, "stencil_ms": 1000 * without}
        rows.append({"image": name, "MB_moved": moved / 1e6, **rates, "share": reading / product, **times})
    torch.set_num_threads(threads)
    return rows, {"cores": 1}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--large", action="store_true", help="walk images of up to 3840 x 2160 as well")
    parser.add_argument("--busy", action="store_true", help="only: with other programs on all cores but one")
    options = parser.parse_args()
    if options.busy:
        show("Random walk while other programs compute", *compare_busy(options.repeats), options.json)
        return
    show("Random walk, 500 x 375, 3 scores, 256 steps", *compare(options.repeats), options.json)
    show("A batch of images", *compare_batch(options.repeats), options.json)
    if options.large:
        show("How the walk grows", *compare_sizes(options.repeats), options.json)
    show("Distance from the limit: one product", *compare_products(options.repeats), options.json)


if __name__ == "__main__":
    main()
