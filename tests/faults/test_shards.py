"""Shards of one command at once, killed at random moments, started again, finished by the plain command."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.commands import TOO_LONG, World, kill, outputs, run, start, wait

from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.shards import add_up

pytestmark = pytest.mark.slow
COUNT = 3


@pytest.mark.parametrize("name", ["propagate", "cam", "crf"])
def test_killed_shards_lose_nothing(
    name: str, world: World, tmp_path: Path, rounds: int, seed: int, counts: Counter[str]
) -> None:
    begun = time.monotonic()
    assert run(world.command(name, tmp_path / "one"), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    seconds = time.monotonic() - begun
    expected, chance = _files(tmp_path / "one"), random.Random(f"{name} {seed}")
    for number in range(rounds):
        out, log = tmp_path / f"shards{number}", tmp_path / f"{number}.log"
        shards = [[*world.command(name, out), "--shard", f"{index}/{COUNT}"] for index in range(1, COUNT + 1)]
        for _ in range(2):
            processes = [start(shard, log) for shard in shards]
            time.sleep(chance.uniform(0, 1.2 * seconds))
            for process in chance.sample(processes, 2):
                kill(process)
                counts["kills"] += 1
            assert None not in [wait(process, TOO_LONG) for process in processes]
            for process in processes:
                kill(process)
        if number % 2:  # every other time the plain command has the rest to do
            assert [run(shard, log) for shard in shards] == [0] * COUNT, log.read_text()
            assert add_up(out)["missing"] == 0  # type: ignore[index]
        assert run(world.command(name, out), log) == 0, log.read_text()
        assert _files(out) == expected
        lines = read_ledger(out)
        assert {line["status"] for line in lines.images.values()} == {"done"}
        assert not lines.begun
        found = add_up(out)
        assert found is None or (found["done"], found["missing"]) == (6, 0)
        counts["equal"] += 1


def _files(folder: Path) -> dict[str, object]:
    """What the command wrote, without the ledgers and the records of shards."""
    found = outputs(folder)
    return {path: facts for path, facts in found.items() if path == "run.json" or not path.startswith("run")}
