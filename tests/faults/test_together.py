"""Two processes in one folder: outputs are whole and equal, records tell the truth, and one training wins."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from faults.commands import TOO_LONG, World, kill, outputs, run, start, wait

from pixaff.io.whole import looks_whole

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["propagate", "cam", "crf"])
def test_two_runs_in_one_folder_end_with_the_outputs_of_one(
    name: str, world: World, tmp_path: Path, rounds: int, counts: Counter[str]
) -> None:
    assert run(world.command(name, tmp_path / "one"), tmp_path / "log") == 0
    expected = outputs(tmp_path / "one")
    for number in range(rounds):
        out = tmp_path / f"both{number}"
        running = [start(world.command(name, out), tmp_path / f"log{which}") for which in (0, 1)]
        assert [wait(process, TOO_LONG) for process in running] == [0, 0]
        found = outputs(out)
        assert found.keys() == expected.keys()
        assert {path for path in expected if found[path] != expected[path]} <= {"run.json"}
        record = json.loads((out / "run.json").read_text())
        assert (record["images"], record["done"], record["failed"]) == (6, 6, {})
        assert all(looks_whole(path) for path in out.rglob("*.png"))
        counts["equal"] += 1


@pytest.mark.parametrize("name", ["train-cam", "train-affinity", "fit"])
def test_two_trainings_in_one_folder_are_one(
    name: str, world: World, tmp_path: Path, rounds: int, counts: Counter[str]
) -> None:
    assert run(world.command(name, tmp_path / "one"), tmp_path / "log") == 0
    expected = {path: value for path, value in outputs(tmp_path / "one").items() if path.endswith(".safetensors")}
    for number in range(rounds):
        out = tmp_path / f"both{number}"
        running = [start(world.command(name, out), tmp_path / f"log{which}") for which in (0, 1)]
        ended = sorted(wait(process, TOO_LONG) or 0 for process in running)
        for process in running:
            kill(process)
        # The second waits some seconds: it finds a finished training, or is refused.
        assert ended in ([0, 0], [0, 2])
        assert {path: value for path, value in outputs(out).items() if path.endswith(".safetensors")} == expected
        counts["refused" if 2 in ended else "waited"] += 1
