"""Fault injection, run on demand: ``pytest tests/faults -m slow --rounds 30``; the counts are printed at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from faults.commands import World, run, run_server
from toy_set import use_tiny, write_set

from pixaff.stages.training import loop

COUNTS = pytest.StashKey[dict[str, Counter[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=4, help="Kills of each command; twenty times as many mutations.")
    parser.addoption("--seed", type=int, default=0, help="Seed of moments and mutations.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, counts in config.stash.get(COUNTS, {}).items():
        terminalreporter.write_line(f"{what}: {', '.join(f'{number} {name}' for name, number in counts.items())}")


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("--rounds", 4)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("--seed", 0)


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """What a test counts, for the summary."""
    return request.config.stash.setdefault(COUNTS, {}).setdefault(request.node.name, Counter())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Photos, labels, and all that a run of fit made of them; with tiny networks, of which this process runs none."""
    folder = tmp_path_factory.mktemp("world")
    write_set(folder, 6)
    with pytest.MonkeyPatch.context() as patch, run_server(folder):
        torch.set_num_threads(1)
        use_tiny(patch)
        patch.setattr(loop, "draw_curve", lambda folder: None)  # takes longer than a tiny training
        made = World(folder)
        assert run(made.command("fit", made.fit), folder / "fit.log") == 0, (folder / "fit.log").read_text()
        yield made
