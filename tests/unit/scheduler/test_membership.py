"""Who is registered: only what was admitted, with every figure that a plan needs."""

from __future__ import annotations

import pytest

from scheduler.membership import Roster
from tests.support.runs import capabilities


@pytest.mark.parametrize(
    "missing", ["layer_seconds", "layer_bytes", "graph_bytes", "up_bytes_per_s", "down_bytes_per_s"]
)
def test_a_host_that_lacks_a_figure_is_not_registered(missing: str) -> None:
    roster = Roster(1, 1)
    assert not roster.register("a", ("host",), capabilities(**{missing: 0}))
    assert roster.register("a", ("host",), capabilities())


def test_an_owner_needs_the_time_of_its_ends() -> None:
    roster = Roster(1, 1)
    facts = {"roles": ("owner",), "layer_seconds": 0.0, "layer_bytes": 0, "graph_bytes": 0}
    assert not roster.register("o", ("owner",), capabilities(**facts))
    assert roster.register("o", ("owner",), capabilities(**facts, ends_seconds=0.1))


def test_a_role_must_be_admitted() -> None:
    assert not Roster(1, 1).register("a", ("owner",), capabilities())


def test_a_rerated_member_keeps_its_other_figures() -> None:
    roster = Roster(1, 1)
    roster.register("a", ("host",), capabilities(layer_seconds=0.1))
    assert roster.rerate("a", 0.3) == capabilities(layer_seconds=0.3)
    assert roster.hosts["a"].layer_seconds == 0.3
    assert roster.rerate("b", 0.3) is None
