"""What an admin is told to look at."""

from __future__ import annotations

import pytest

from scheduler.dashboard.alerts import alerts
from scheduler.dashboard.view import View
from scheduler.dashboard.words import state
from tests.support.watched import NOW_S, ledger, peer_facts, seen, status


def told(view: View) -> dict[str, str]:
    return {alert.kind: alert.subject for alert in alerts(view)}


def test_a_stage_with_one_replica() -> None:
    assert told(seen()) == {"one_replica": "stage-1"}


def test_a_replica_that_is_gone_does_not_count() -> None:
    peers = status()["peers"] | {"host-a": peer_facts(state="leaving")}
    subjects = [alert.subject for alert in alerts(seen(peers=peers))]
    assert subjects == ["stage-0", "stage-1"]


def test_a_stage_without_a_host_is_critical_and_first() -> None:
    peers = status()["peers"] | {"host-c": peer_facts(state="lost")}
    first = alerts(seen(peers=peers))[0]
    assert (first.kind, first.subject, first.is_critical) == ("one_replica", "stage-1", True)


@pytest.mark.parametrize(("bound", "is_told"), [(85.0, False), (120.0, True)])
def test_a_wide_gap(bound: float, is_told: bool) -> None:
    found = told(seen({"event": "certified", "bound_tokens_per_s": bound}))
    assert ("plan_gap" in found) == is_told


@pytest.mark.parametrize(("layer_s", "is_told"), [(0.6, False), (1.0, True)])
def test_a_peer_slower_than_claimed(layer_s: float, is_told: bool) -> None:
    found = told(seen({"event": "rerated", "peer": "host-b", "layer_s": layer_s}))
    assert found.get("slow_peer") == ("host-b" if is_told else None)


def test_a_peer_that_measured_itself_anew_is_not_blamed_for_the_old_rating() -> None:
    events = {"event": "rerated", "peer": "host-b", "layer_s": 1.0}, {"event": "registered", "peer": "host-b"}
    assert "slow_peer" not in told(seen(*events))


@pytest.mark.parametrize(("ago_s", "is_told"), [(5.0, True), (5000.0, False)])
def test_a_lost_peer_is_news_for_a_while(ago_s: float, is_told: bool) -> None:
    peers = status()["peers"] | {"host-d": peer_facts(state="lost")}
    event = {"event": "lost", "peer": "host-d", "problem": "silent", "step": 1, "time_s": NOW_S - ago_s}
    assert ("lost_peer" in told(seen(event, peers=peers))) == is_told


def test_a_stalled_step() -> None:
    assert "step_stalled" not in told(seen(book=ledger(last_at_s=NOW_S - 20)))
    assert "step_stalled" in told(seen(book=ledger(last_at_s=NOW_S - 40)))


def test_a_silent_scheduler_is_all_that_counts() -> None:
    assert told(seen(written_at_s=NOW_S - 60)) == {"scheduler_silent": ""}


def test_a_paused_run_does_not_stall() -> None:
    stalled = ledger(last_at_s=NOW_S - 999)
    assert "step_stalled" in told(seen(book=stalled))
    paused = seen(book=stalled, phase="paused")
    assert "step_stalled" not in told(paused)
    assert state(paused) == ("paused by the admin", "wait")


def test_a_finished_run_needs_nobody() -> None:
    assert alerts(seen(phase="finished", written_at_s=0.0)) == ()
