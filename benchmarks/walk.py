"""Time the random walk at 500 x 375 with 3 scores: dense squarings (the published way) against pixaff's solvers.

    python -m benchmarks.walk [--repeats N] [--json]

Every figure includes building the matrix from the affinities. The sparse walks keep the pattern of a grid's matrix
after their first call, which is not timed: some 4 ms, once per image size. The error is the largest one of a single
score against the same walk in float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pixaff.ops.neighbours import offsets, source_view, target_view
from pixaff.ops.walk import random_walk

INPUT = Path(__file__).parents[1] / "tests" / "data" / "reference_walk_500x375.npz"
BETA = 8.0
SQUARINGS = 8
STEPS = 2**SQUARINGS


def read_input() -> tuple[Tensor, Tensor]:
    """Scores (3, 47, 63) and affinities (34, 2365) that the tests walk too."""
    with np.load(INPUT) as data:
        return torch.from_numpy(data["scores"]), torch.from_numpy(data["affinity"])


def dense_walk(scores: Tensor, affinity: Tensor) -> Tensor:
    """scores T^256 with T built as a dense matrix and squared eight times."""
    h, w = scores.shape[1:]
    nodes = torch.arange(h * w).view(h, w)
    sources = source_view(nodes).flatten()
    weights = torch.eye(h * w, dtype=affinity.dtype)
    for values, offset in zip(affinity, offsets(), strict=True):
        targets = target_view(nodes, offset).flatten()
        weights[sources, targets] = values
        weights[targets, sources] = values
    transition = weights.pow(BETA)
    transition /= transition.sum(0)
    for _ in range(SQUARINGS):
        transition = transition @ transition
    return (scores.flatten(1) @ transition).view_as(scores)


def measure(walk: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of `repeats` calls after one that warms up, and the result."""
    result = walk()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        walk()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def run(repeats: int = 20) -> list[dict[str, float | str]]:
    """One row per way of walking: name, seconds, speedup over the dense one, error."""
    scores, affinity = read_input()
    exact = random_walk(scores.double(), affinity.double(), BETA, STEPS, solver="power")
    ways: list[tuple[str, Callable[[], Tensor], int]] = [
        (f"dense, {SQUARINGS} squarings", lambda: dense_walk(scores, affinity), min(repeats, 3)),
        (f"power, {STEPS} products", lambda: random_walk(scores, affinity, BETA, STEPS, solver="power"), repeats),
        ("chebyshev", lambda: random_walk(scores, affinity, BETA, STEPS, solver="chebyshev"), repeats),
    ]
    rows: list[dict[str, float | str]] = []
    dense_seconds = 0.0
    for name, walk, count in ways:
        seconds, result = measure(walk, count)
        dense_seconds = dense_seconds or seconds
        error = (result - exact).abs().max().item()
        rows.append({"walk": name, "seconds": seconds, "speedup": dense_seconds / seconds, "error": error})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the random walk against dense squarings.")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each sparse walk (dense: 3 at most)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    arguments = parser.parse_args()
    rows = run(max(1, arguments.repeats))
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    threads = torch.get_num_threads()
    table = Table(title=f"Random walk, 500 x 375, 3 scores, {threads} CPU threads")
    table.add_column("walk")
    for column in ("milliseconds", "times faster", "error against float64"):
        table.add_column(column, justify="right")
    for row in rows:
        milliseconds = 1000 * float(row["seconds"])
        table.add_row(str(row["walk"]), f"{milliseconds:,.1f}", f"{row['speedup']:,.0f}", f"{row['error']:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
