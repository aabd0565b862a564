"""Time what stands between a user and the first result: `pixaff --help`, a small `pixaff evaluate`, and the first mask.

    python -m benchmarks.startup [--repeats N] [--json]

All are compared with ``python -c "import torch"``, in fresh processes that take turns; the first round is not counted.
Processor seconds say more on a busy machine. The second table has what the time of the first mask is spent on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import Row, arguments, show
from pixaff.io.masks import write_mask

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"
STEPS = """
import json, sys, time
marks = [time.perf_counter()]
import torch; marks.append(time.perf_counter())
import pixaff.cli.app, pixaff.predictor, pixaff.stages.propagate; marks.append(time.perf_counter())
model = pixaff.load("lite"); marks.append(time.perf_counter())
made = model(sys.argv[1]); marks.append(time.perf_counter())
made.save(sys.argv[2]); marks.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""
NAMES = ("import torch", "other imports", "load both networks", "labels, CAMs, walk, CRF", "write the mask")


def run(command: Sequence[str]) -> tuple[float, float, str]:
    """Seconds, processor seconds and output of a process."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, spent, done.stdout


def in_turn(
    commands: Sequence[Sequence[str]], repeats: int, first: Callable[[], object]
) -> list[list[tuple[float, float, str]]]:
    """The runs of several commands that take turns; ``first`` is called before each."""
    runs: list[list[tuple[float, float, str]]] = [[] for _ in commands]
    for _ in range(1 + repeats):
        for command, found in zip(commands, runs, strict=True):
            first()
            found.append(run(command))
    return [found[1:] for found in runs]


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mask = np.zeros((375, 500), np.uint8)
        mask[100:200, 100:300] = 8
        for side in ("found", "truth"):
            write_mask(folder / side / "photo.png", mask)
        program = [sys.executable, "-m", "pixaff"]
        made = folder / "made.png"
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "pixaff --help": [*program, "--help"],
            "pixaff evaluate, one pair": [*program, "evaluate", str(folder / "found"), str(folder / "truth")],
            "pixaff propagate, one photo": [*program, "propagate", str(PHOTO), "--out", str(made), "--device", "cpu"],
            "steps": [sys.executable, "-c", STEPS, str(PHOTO), str(folder / "again.png")],
        }
        runs = in_turn([*commands.values()], options.repeats, lambda: made.unlink(missing_ok=True))
    seconds = [statistics.median(one[0] for one in found) for found in runs]
    spent = [statistics.median(one[1] for one in found) for found in runs]
    rows: list[Row] = [
        {
            "command": command,
            "seconds": seconds[i],
            "of_import_torch": seconds[i] / seconds[0],
            "processor_seconds": spent[i],
            "of_that_of_torch": spent[i] / spent[0],
        }
        for i, command in enumerate([*commands][:-1])
    ]
    show("Start-up", rows, {"runs": options.repeats}, options.json)
    steps = [json.loads(output) for _, _, output in runs[-1]]
    medians = [statistics.median(column) for column in zip(*steps, strict=True)]
    shares: list[Row] = [
        {"step": name, "seconds": median, "share": median / sum(medians)}
        for name, median in zip(NAMES, medians, strict=True)
    ]
    show("The first mask, from Python", shares, {"runs": options.repeats}, options.json)


if __name__ == "__main__":
    main()
