"""A plan change: who loads what, when it may happen, and when it is off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.followers import MAX_LOADING_STEPS, Committed, first_transfer
from scheduler.instructions import PlanChangeOff, Send
from scheduler.transition import PlanChange
from swarm.plan import Plan
from swarm.wire.messages import CancelGroup, FollowStep, GroupLoaded, GroupNotLoaded, PrepareGroup
from tests.support.plans import plan

NOW = plan(["a", "b"], ["c", "d"])
MOVES_B = plan(["a"], ["c", "d", "b"])

TRANSFER = first_transfer(1) + 1


def loaded(num_steps: int, digest: str = "w", transfer: int = TRANSFER) -> GroupLoaded:
    return GroupLoaded(transfer=transfer, first_layer=2, last_layer=3, num_steps=num_steps, digest=digest)


def loading(target: Plan = MOVES_B) -> PlanChange:
    change = PlanChange(term=1)
    assert change.propose(NOW, target, set())
    assert change.after_commit(Committed(4, 1, 1.0), NOW) == (NOW, [])
    assert change.all_applied(5, [NOW], set(), {"o": 7})
    return change


def test_only_members_of_what_is_loaded_keep_copies() -> None:
    change = PlanChange(term=1)
    change.propose(NOW, MOVES_B, set())
    assert [change.needs_copy(NOW.span_of(group)) for group in range(3)] == [False, True, False]
    assert not change.holds_copies


def test_a_mover_is_told_what_to_load_from_whom() -> None:
    change = PlanChange(term=1)
    change.propose(NOW, replace(MOVES_B, owners=("o", "p"), owner_fractions=(1.0, 1.0)), set())
    change.after_commit(Committed(4, 1, 1.0), NOW)
    assert change.all_applied(4, [NOW], set(), {}) == []
    orders = {
        each.peer: each.message for each in change.all_applied(5, [NOW], {"d"}, {"p": 9}) if isinstance(each, Send)
    }
    trunk, ends = orders["b"], orders["p"]
    assert isinstance(trunk, PrepareGroup)
    assert isinstance(ends, PrepareGroup)
    assert (trunk.num_steps, trunk.first_layer, trunk.last_layer, trunk.donors) == (5, 2, 3, ("c",))
    assert (ends.first_layer, ends.last_layer, ends.donors, ends.next_cursor) == (0, 0, ("o",), 9)


def test_the_plan_changes_when_the_mover_has_nearly_caught_up() -> None:
    change = loading()
    held, told = change.after_commit(Committed(5, 1, 1.0), NOW)
    assert held is NOW
    assert [type(each.message) for each in told if isinstance(each, Send)] == [FollowStep]
    assert change.loaded("b", loaded(5), 9) == []
    held, told = change.after_commit(Committed(6, 1, 1.0), NOW)
    assert (held.number, held.first_step) == (2, 7)
    assert held.groups == MOVES_B.groups
    assert len(told) == 1, "the mover follows the last step, too"
    assert not change.is_on


def test_the_plan_waits_for_microbatches_that_ran_ahead() -> None:
    change = loading()
    change.loaded("b", loaded(5), 9)
    assert change.is_ready(6)
    held, told = change.after_commit(Committed(6, 1, 1.0), NOW, may_change=False)
    assert held is NOW
    assert len(told) == 1, "the mover follows"
    held, _ = change.after_commit(Committed(7, 1, 1.0), NOW)
    assert held is NOW, "it has fallen behind"
    change.loaded("b", loaded(7), 9)
    held, _ = change.after_commit(Committed(8, 1, 1.0), NOW)
    assert (held.number, held.first_step) == (2, 9)


def test_without_anything_to_load_the_next_commit_changes_the_plan() -> None:
    change = PlanChange(term=1)
    lighter = plan(["a", "b"], ["c", "d"], weights=[[1.0, 2.0], [1.0, 1.0]])
    change.propose(NOW, lighter, set())
    held, told = change.after_commit(Committed(0, 1, 1.0), NOW)
    assert (held.stages, told) == (lighter.stages, [])


@pytest.mark.parametrize(
    "event",
    [
        lambda change: change.not_loaded(
            "b", GroupNotLoaded(transfer=TRANSFER, first_layer=2, last_layer=3, problem="no donor")
        ),
        lambda change: change.lose({"a"}),
        lambda change: change.applied((2, 3), 5, "x") + change.loaded("b", loaded(5, "y"), 9),
        lambda change: change.after_commit(Committed(5 + MAX_LOADING_STEPS + 1, 1, 1.0), NOW)[1],
    ],
)
def test_what_calls_it_off(event: object) -> None:
    assert callable(event)
    change = loading()
    told = event(change)
    assert any(isinstance(each, PlanChangeOff) for each in told)
    cancelled = [each.peer for each in told if isinstance(each, Send) and isinstance(each.message, CancelGroup)]
    assert cancelled == ["b"]
    assert not change.is_on


def test_a_second_change_waits_for_the_first() -> None:
    change = loading()
    assert not change.propose(NOW, MOVES_B, set())


def test_reports_of_another_change_or_peer_change_nothing() -> None:
    change = loading()
    assert change.loaded("b", loaded(9, "other", transfer=7), 9) == []
    assert change.loaded("x", loaded(9, "other"), 9) == []
    assert change.loaded("b", loaded(99, "other"), 9) == []
    stranger = GroupNotLoaded(transfer=TRANSFER, first_layer=2, last_layer=3, problem="me")
    assert change.not_loaded("x", stranger) == []
    held, _ = change.after_commit(Committed(5, 1, 1.0), NOW)
    assert held is NOW


def test_a_change_that_would_leave_a_group_empty_is_not_begun() -> None:
    assert not PlanChange(term=1).propose(NOW, MOVES_B, {"a"})
