"""The README, followed word for word, leads everybody to a first result."""

from __future__ import annotations

import socket

import pytest

from benchmarks.cases.first_result import PEOPLE, Options, run

PORTS = (4001, 8080)
"""That the README names."""


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(any(map(is_taken, PORTS)), reason="the ports that the README names are in use")
def test_everybody_comes_to_a_first_result() -> None:
    metrics = run(Options(install=False, limit_s=1200.0)).metrics
    for name in PEOPLE:
        assert 0 < metrics[f"{name}_s"] < 1200
        assert metrics["setup_commands"] < metrics[f"{name}_commands"] <= 5
