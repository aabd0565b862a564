from __future__ import annotations

import no_network
import pytest

no_network.install()


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    """Fails a test that reached for the network, even where the program swallowed the refusal."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    no_network.ATTEMPTS.clear()
    yield
    assert no_network.ATTEMPTS == []
