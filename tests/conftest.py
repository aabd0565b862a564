from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import no_network
import pytest

no_network.install()
gc.set_threshold(50_000)  # what the imports make stays, and need not be gone through again and again


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Files are not flushed: no test can see that, and the many small ones would take half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    """Fails a test that reached for the network, even where the program swallowed the refusal."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    no_network.ATTEMPTS.clear()
    yield
    assert no_network.ATTEMPTS == []
