"""The owner's desk: each transition of its table, and that no cursor is ever lost or used twice."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.window import Admission, Window
from swarm.wire.messages import GrantLeases, Lease, ReplayWork, Work
from tests.support.plans import plan

PLAN = plan(["a", "b"], ["c", "d"], window=2)


def window(next_cursor: int = 0) -> Window:
    return Window("o", PLAN, 0, next_cursor)


def grant(*numbers: int, step: int = 0, plan_number: int = 1, lease: int = 0) -> GrantLeases:
    leases = tuple(Lease(number, lease) for number in numbers)
    return GrantLeases(term=1, plan=plan_number, step=step, leases=leases)


def replay(*numbers: int, step: int = 0, attempt: int = 0, lost: tuple[str, ...] = ()) -> ReplayWork:
    work = tuple(Work(step, Lease(number, 0), attempt) for number in numbers)
    return ReplayWork(term=1, step=step, work=work, lost=lost)


def _numbers(admissions: list[Admission]) -> list[int]:
    return [admission.work.lease.number for admission in admissions]


def test_pending_goes_out_as_places_are_free() -> None:
    desk = window(7)
    assert desk.grant(grant(0, 1, 2, 3))
    first = desk.admit(0.0)
    assert _numbers(first) == [0, 1]
    assert [admission.cursor for admission in first] == [7, 8]
    assert [admission.work.attempt for admission in first] == [0, 0]
    assert desk.num_in_flight == 2
    assert desk.admit(0.0) == []
    assert desk.complete(first[0].work) == first[0].route
    assert _numbers(desk.admit(0.0)) == [2]


def test_a_grant_that_comes_twice_changes_nothing() -> None:
    desk = window()
    assert desk.grant(grant(0, 1))
    sent = desk.admit(0.0)
    assert desk.grant(grant(0, 1))
    assert desk.admit(0.0) == []
    desk.complete(sent[0].work)
    assert desk.admit(0.0) == []
    assert desk.next_cursor == 2


def test_a_grant_of_another_step_or_plan_is_stale() -> None:
    desk = window()
    assert not desk.grant(grant(0, step=1))
    assert not desk.grant(grant(0, plan_number=2))
    assert desk.stale == 2
    assert desk.admit(0.0) == []
    assert desk.next_cursor == 0


def test_done_comes_once_and_only_for_the_last_attempt() -> None:
    desk = window()
    desk.grant(grant(0))
    (first,) = desk.admit(0.0)
    assert desk.hop_failed(first.work, "c", 0.0)
    (second,) = desk.admit(0.0)
    assert second.work == Work(0, Lease(0, 0), 1)
    assert desk.complete(first.work) is None
    assert desk.complete(second.work) == second.route
    assert desk.complete(second.work) is None
    assert desk.num_in_flight == 0


def test_a_failed_hop_is_gone_around_and_counted_replicas_are_visited_again() -> None:
    desk = window()
    desk.grant(grant(0))
    (first,) = desk.admit(0.0)
    assert desk.hop_failed(first.work, first.route[1], 0.0)
    (second,) = desk.admit(0.0)
    assert second.route[0] == first.route[0]
    assert second.route[1] != first.route[1]
    assert second.cursor == first.cursor
    assert not desk.hop_failed(first.work, second.route[0], 0.0)  # the report of an attempt that is over


def test_who_finds_no_way_around_tries_less_and_less_often() -> None:
    desk = window()
    desk.grant(grant(0))
    now_s, pauses = 0.0, []
    for _ in range(8):
        (sent,) = desk.admit(now_s)
        assert desk.hop_failed(sent.work, sent.route[0], now_s)
        pause_s = desk.next_attempt_in_s(now_s) or 0.0
        assert not pause_s or desk.admit(now_s + 0.9 * pause_s) == []
        now_s += pause_s
        pauses.append(pause_s)
    assert pauses == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
    (sent,) = desk.admit(now_s)
    desk.complete(sent.work)
    desk.replay(replay(0, attempt=sent.work.attempt))
    (sent,) = desk.admit(now_s)
    assert desk.hop_failed(sent.work, sent.route[0], now_s)
    assert desk.next_attempt_in_s(now_s) is None, "what came home once begins anew"


def test_lost_peers_bring_back_only_what_went_through_them() -> None:
    desk = window()
    desk.grant(grant(0, 1))
    first, second = desk.admit(0.0)
    assert not set(first.route) & set(second.route)
    desk.peers_lost({first.route[0]})
    (again,) = desk.admit(0.0)
    assert again.work == Work(0, first.work.lease, 1)
    assert first.route[0] not in again.route
    assert desk.complete(second.work) == second.route


def test_without_a_replica_everything_waits() -> None:
    desk = window()
    desk.grant(grant(0))
    desk.admit(0.0)
    desk.peers_lost(["a", "b"])
    assert desk.admit(0.0) == []
    assert desk.num_in_flight == 0


def test_overdue_goes_again_and_is_named() -> None:
    desk = window()
    desk.grant(grant(0, 1))
    first, second = desk.admit(10.0)
    assert desk.overdue(12.0, 2.0) == []
    desk.complete(first.work)
    assert desk.overdue(12.1, 2.0) == [(second.work, second.route)]
    (again,) = desk.admit(20.0)
    assert again.work.attempt == 1
    assert desk.overdue(21.0, 2.0) == []
    assert desk.overdue(22.5, 2.0) == [(again.work, again.route)]


def test_a_replay_brings_back_what_was_done() -> None:
    desk = window(3)
    desk.grant(grant(0, 1))
    first, second = desk.admit(0.0)
    desk.complete(first.work)
    desk.replay(replay(0, 1, lost=(first.route[0],)))
    again = desk.admit(0.0)
    assert _numbers(again) == [0]  # the other one is on its way still
    assert again[0].cursor == 3
    assert again[0].work.attempt == 1
    assert first.route[0] not in again[0].route
    desk.replay(replay(0))  # twice
    assert desk.admit(0.0) == []
    assert desk.complete(again[0].work) == again[0].route
    desk.replay(replay(0))  # and once more, when that attempt has long been replaced
    assert desk.admit(0.0) == []
    assert desk.complete(second.work) == second.route


def test_what_could_not_leave_goes_again() -> None:
    desk = window()
    desk.grant(grant(0))
    (sent,) = desk.admit(0.0)
    desk.put_back(sent.work)
    assert desk.num_in_flight == 0
    (again,) = desk.admit(0.0)
    assert (again.work.attempt, again.cursor) == (1, sent.cursor)


def test_an_attempt_is_wanted_on_its_own_route_only() -> None:
    desk = window()
    desk.grant(grant(0))
    (sent,) = desk.admit(0.0)
    assert desk.is_wanted(1, sent.work, sent.route)
    assert not desk.is_wanted(1, sent.work, ("evil", *sent.route[1:]))
    assert not desk.is_wanted(2, sent.work, sent.route)
    desk.complete(sent.work)
    assert not desk.is_wanted(1, sent.work, sent.route)


def test_a_replay_of_another_step_or_of_unknown_leases_changes_nothing() -> None:
    desk = window()
    desk.grant(grant(0))
    (sent,) = desk.admit(0.0)
    desk.complete(sent.work)
    desk.replay(replay(0, step=1))
    desk.replay(replay(5))
    assert desk.stale == 1
    assert desk.admit(0.0) == []


def test_a_commit_spends_every_cursor_that_was_lent() -> None:
    """Also of a needless replay that is still on its way: the ledger has counted it."""
    desk = window()
    desk.grant(grant(0, 1, 2))
    first, second = desk.admit(0.0)
    desk.complete(second.work)
    desk.committed(0)
    assert desk.step == 1
    assert desk.next_cursor == 3
    assert desk.complete(first.work) is None
    assert desk.cursor_of(first.work) is None
    desk.grant(grant(0, 1, 2, step=1))
    assert [admission.cursor for admission in desk.admit(0.0)] == [3, 4]
    desk.committed(0)  # twice
    assert desk.step == 1
    assert desk.num_in_flight == 2


def test_a_commit_keeps_lost_peers_lost_until_a_plan_without_them() -> None:
    desk = window()
    desk.peers_lost(["a"])
    desk.committed(0)
    desk.grant(grant(0, step=1))
    assert desk.admit(0.0)[0].route[0] == "b"
    desk.committed(1)
    desk.adopt(plan(["b"], ["c", "d"], number=2))
    assert not desk.grant(grant(0, step=2))
    assert desk.grant(grant(0, step=2, plan_number=2))
    assert desk.admit(0.0)[0].route[0] == "b"


def test_the_cursor_of_an_attempt_is_known_while_it_matters() -> None:
    desk = window(9)
    desk.grant(grant(0))
    (sent,) = desk.admit(0.0)
    assert desk.cursor_of(sent.work) == 9
    assert desk.num_in_flight == 1
    assert desk.cursor_of(Work(0, Lease(0, 1), 0)) is None
    assert desk.cursor_of(Work(1, Lease(0, 0), 0)) is None
    desk.complete(sent.work)
    assert desk.cursor_of(sent.work) is None
    assert desk.num_in_flight == 0


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32))
def test_no_cursor_is_used_twice(seed: int) -> None:
    """Random leases, failures, losses, replays and commits over many steps."""
    dice = random.Random(seed)
    desk = window()
    spent: list[int] = []
    for step in range(12):
        granted = dice.randint(1, 6)
        desk.grant(grant(*range(granted), step=step, lease=0))
        done: dict[Lease, int] = {}
        attempts: dict[Lease, int] = {}
        on_the_way: list[Admission] = []
        for tick in range(30):
            now_s = 100.0 * step + tick
            on_the_way += desk.admit(now_s)
            assert desk.num_in_flight <= PLAN.window
            choice = dice.random()
            if choice < 0.5 and on_the_way:
                admission = on_the_way.pop(dice.randrange(len(on_the_way)))
                if desk.complete(admission.work) is not None:
                    done[admission.work.lease] = admission.cursor
                    attempts[admission.work.lease] = admission.work.attempt
            elif choice < 0.6 and on_the_way:
                desk.hop_failed(dice.choice(on_the_way).work, dice.choice("abcd"), now_s)
            elif choice < 0.65:
                desk.overdue(now_s, 0.5)
            elif choice < 0.7 and done:
                lease = dice.choice(sorted(done))
                desk.replay(replay(lease.number, step=step, attempt=attempts[lease]))
                del done[lease]
        desk.committed(step)
        assert not set(done.values()) & set(spent)
        spent += done.values()
    assert len(set(spent)) == len(spent)
    assert set(spent) <= set(range(desk.next_cursor))


def test_how_long_a_microbatch_takes_follows_from_the_plan() -> None:
    desk = window()
    assert desk.expected_s(64) == 0.0, "a plan that predicts nothing"
    desk.plan = replace(PLAN, predicted_tokens_per_s=32.0, owners=("o", "p"), owner_fractions=(0.5, 0.5))
    assert desk.expected_s(64) == 2 * 2 * 64 / 32.0
