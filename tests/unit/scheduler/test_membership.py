"""Who is registered: only what was admitted, with every figure that a plan needs."""

from __future__ import annotations

import pytest

from scheduler.membership import FIRST_ABSENCE_S, Roster
from tests.support.runs import capabilities


@pytest.mark.parametrize(
    "missing", ["layer_seconds", "layer_bytes", "graph_bytes", "up_bytes_per_s", "down_bytes_per_s"]
)
def test_a_host_that_lacks_a_figure_is_not_registered(missing: str) -> None:
    roster = Roster()
    assert not roster.announce("a", ("host",), capabilities(**{missing: 0}))
    assert roster.announce("a", ("host",), capabilities())


def test_an_owner_needs_the_time_of_its_ends() -> None:
    roster = Roster()
    facts = {"roles": ("owner",), "layer_seconds": 0.0, "layer_bytes": 0, "graph_bytes": 0}
    assert not roster.announce("o", ("owner",), capabilities(**facts))
    assert roster.announce("o", ("owner",), capabilities(**facts, ends_seconds=0.1))


def test_who_leaves_is_a_member_that_no_plan_counts_on() -> None:
    roster = Roster()
    for peer in "abc":
        roster.announce(peer, ("host",), capabilities())
        roster.enlist(peer)
    roster.leaves("b")
    roster.leaves("stranger")
    assert roster.leaving == {"b"}
    assert list(roster.hosts) == ["a", "c"]
    assert set(roster.members) == {"a", "b", "c"}
    roster.lose("b", now_s=10.0)
    assert not roster.leaving
    assert "b" not in roster.to_be_asked(11.0)
    roster.enlist("b")
    assert list(roster.hosts) == ["a", "b", "c"], "it may come back"


def test_who_pauses_is_not_asked_until_it_announces_a_role_again() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities())
    roster.enlist("a")
    roster.leaves("a")
    roster.let_go("a", now_s=10.0)
    assert not roster.announce("a", ("host",), capabilities(roles=()))
    assert roster.to_be_asked(1000.0) == []
    assert roster.announce("a", ("host",), capabilities())
    assert roster.to_be_asked(1000.0) == ["a"]


def test_who_left_in_order_may_come_back_soon_however_often() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities())
    for now_s in (100.0, 200.0, 300.0):
        roster.enlist("a")
        roster.let_go("a", now_s)
        assert roster.to_be_asked(now_s + FIRST_ABSENCE_S) == ["a"]


def test_a_role_must_be_admitted() -> None:
    assert not Roster().announce("a", ("owner",), capabilities())


def test_a_rerated_member_keeps_its_other_figures() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities(layer_seconds=0.1))
    roster.enlist("a")
    assert roster.rerate("a", 0.3) == capabilities(layer_seconds=0.3)
    assert roster.hosts["a"].layer_seconds == 0.3
    assert roster.rerate("b", 0.3) is None


def test_who_is_lost_may_come_back_later_and_later() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities())
    now_s, absences = 100.0, []
    for _ in range(9):
        assert roster.to_be_asked(now_s) == ["a"]
        assert roster.enlist("a") is not None
        assert roster.to_be_asked(now_s) == []
        roster.lose("a", now_s)
        assert "a" not in roster.members
        absence_s = next(wait for wait in range(1, 1000) if roster.to_be_asked(now_s + wait))
        absences.append(absence_s)
        now_s += absence_s
    assert absences[:3] == [5, 10, 20]
    assert absences == sorted(absences)
    assert absences[-1] == absences[-2], "there is a longest absence"


def test_a_new_term_begins_with_nobody_and_asks_everybody() -> None:
    roster = Roster()
    for peer in ("a", "b"):
        roster.announce(peer, ("host",), capabilities())
        roster.enlist(peer)
    roster.lose("a", 0.0)
    roster.dismiss_all()
    assert roster.members == {}
    assert roster.to_be_asked(0.0) == ["a", "b"]


def test_only_who_announced_itself_becomes_a_member_and_records_that_expired_are_forgotten() -> None:
    roster = Roster()
    assert roster.enlist("a") is None
    roster.announce("a", ("host",), capabilities())
    roster.forget_absent([])
    assert roster.to_be_asked(0.0) == []


def test_a_member_that_announces_another_line_is_told_once_and_keeps_its_rating() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities(up_bytes_per_s=1e7))
    roster.enlist("a")
    roster.rerate("a", 0.7)
    assert roster.relined() == {}
    roster.announce("a", ("host",), capabilities(up_bytes_per_s=2e5))
    assert roster.relined() == {"a": capabilities(up_bytes_per_s=2e5, layer_seconds=0.7)}
    assert roster.relined() == {}


def test_who_breaks_rounds_stays_away_for_longer() -> None:
    roster = Roster()
    roster.announce("a", ("host",), capabilities())
    for now_s, away_s in ((0.0, 30.0), (100.0, 60.0), (200.0, 120.0)):
        roster.enlist("a")
        roster.lose("a", now_s, least_s=30.0)
        assert roster.to_be_asked(now_s + away_s - 0.1) == []
        assert roster.to_be_asked(now_s + away_s) == ["a"]


def test_a_lost_host_is_remembered_for_a_while_an_owner_is_not() -> None:
    roster = Roster()
    for peer, role in (("h", "host"), ("o", "owner")):
        roster.announce(peer, (role,), capabilities(roles=(role,)))
        roster.enlist(peer)
    roster.lose("o", 100.0)
    assert not roster.loses_hosts(100.0)
    roster.lose("h", 100.0)
    roster.dismiss_all()
    assert roster.loses_hosts(699.0)
    assert not roster.loses_hosts(701.0)
