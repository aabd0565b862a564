"""Kill -9 at random moments of every command, then the same command again: the outputs are those of a run in peace."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.commands import COMMANDS, World, kill, outputs, run, start, wait

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command_ends_with_the_same_outputs(
    name: str, world: World, tmp_path: Path, rounds: int, seed: int, counts: Counter[str]
) -> None:
    log, folder = tmp_path / "log", tmp_path / "peace"
    began = time.monotonic()
    assert run(world.command(name, folder), log) == 0, log.read_text()
    duration = time.monotonic() - began
    expected = outputs(folder)
    assert expected
    chance = random.Random(f"{name} {seed}")
    for number in range(rounds):
        out = tmp_path / f"out{number}"
        arguments = world.command(name, out)
        for _ in range(chance.choice((1, 1, 2, 3))):
            process = start(arguments, log)
            ended = wait(process, chance.random() * duration)
            # Now and then its workers are left behind; they end by themselves.
            kill(process, group=chance.random() < 0.8)
            counts["kills" if ended is None else "too late"] += 1
            if ended is None:
                wait(process, 10)
        assert run(arguments, log) == 0, f"round {number}: {log.read_text()}"
        found = outputs(out)
        wrong = [path for path in {**expected, **found} if expected.get(path) != found.get(path)]
        assert not wrong, f"round {number}: {wrong} differ"
        counts["equal"] += 1
        shutil.rmtree(out)
    assert counts["kills"] >= rounds / 2
