from __future__ import annotations

import gc

import no_network
import pytest

no_network.install()
gc.set_threshold(50_000)  # what the imports make stays, and need not be gone through again and again


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    """Fails a test that reached for the network, even where the program swallowed the refusal."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    no_network.ATTEMPTS.clear()
    yield
    assert no_network.ATTEMPTS == []
