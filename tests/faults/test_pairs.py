"""Two processes in one folder at once."""

from __future__ import annotations

import functools
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.commands import COMMANDS, TOO_LONG, World, kill, outputs, run, start, wait

from pixaff.io.locks import PATIENCE, folder_lock
from pixaff.stages.training import folder

pytestmark = pytest.mark.slow
TRAININGS = ("train-cam", "train-affinity", "fit")


@pytest.mark.parametrize("name", COMMANDS)
def test_two_at_once_leave_what_one_does(
    name: str,
    world: World,
    tmp_path: Path,
    rounds: int,
    seed: int,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(world.command(name, tmp_path / "one"), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    expected, chance, faults = outputs(tmp_path / "one"), random.Random(f"{name} {seed}"), []
    for number in range(rounds):
        # The tiny training is over before the second process has lost its patience, so that every other one has none.
        lock = functools.partial(folder_lock, patience=(0.05, PATIENCE)[number % 2])
        monkeypatch.setattr(folder, "folder_lock", lock)
        out, logs = tmp_path / f"two{number}", [tmp_path / f"{number}-{each}.log" for each in "ab"]
        processes = []
        for log in logs:
            processes.append(start(world.command(name, out), log))
            time.sleep(chance.choice((0.0, 0.05, 0.3)))
        ended = [wait(process, TOO_LONG) for process in processes]
        for process in processes:
            kill(process)
        # A training is refused where another is at work; everything else shares the folder.
        refused = ended.count(2)
        counts["refused"] += refused
        if not (0 in ended and all(status in (0, 2) for status in ended)):
            faults.append(f"round {number}: exit {ended}: {[log.read_text()[-300:] for log in logs]}")
        assert refused == 0 or name in TRAININGS
        found = outputs(out)
        wrong = [path for path in {**expected, **found} if expected.get(path) != found.get(path)]
        if wrong:
            faults.append(f"round {number}: {wrong} differ")
        counts["unequal" if wrong else "equal"] += 1
    assert not faults, "\n".join(faults)
    assert counts["refused"] or name not in TRAININGS
