"""For all tests: one thread of matrix products, or a busy two-core machine slows tiny ones a hundredfold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.support.warm import WarmServer

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)  # also a busy one
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def warm_server() -> Iterator[WarmServer]:
    """One for all tests."""
    server = WarmServer()
    yield server
    server.close()


@pytest.fixture
def warm_starts(warm_server: WarmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of fleets start in a fraction of a second."""
    monkeypatch.setattr("swarm.local.fleet.Popen", warm_server.popen)
