"""Shadows load when nothing else does, follow every step, and take over without a load; nobody waits for them."""

from __future__ import annotations

from dataclasses import replace

from scheduler.followers import MAX_LOADING_STEPS, Committed, first_transfer
from scheduler.instructions import Instruction, PlanChangeOff, Send, ShadowIsCurrent, ShadowIsGone
from scheduler.transition import PlanChange
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import CancelGroup, FollowStep, GroupLoaded, GroupNotLoaded, PrepareGroup
from tests.support.plans import plan

SPAN: Span = (2, 3)
FIRST = first_transfer(1) + 1


def shadowed(base: Plan, *names: tuple[str, ...]) -> Plan:
    """The same plan; of each stage, who keeps a copy."""
    pairs = zip(base.stages, names, strict=True)
    return replace(base, stages=tuple(replace(stage, shadows=shadows) for stage, shadows in pairs))


NOW = shadowed(plan(["a", "b"], ["c", "d"]), (), ("b",))
MOVES_B = plan(["a"], ["c", "d", "b"])


def step(number: int) -> Committed:
    return Committed(number, 1, 1.0)


def loaded(num_steps: int, *, transfer: int = FIRST, digest: str = "w") -> GroupLoaded:
    return GroupLoaded(transfer=transfer, first_layer=2, last_layer=3, num_steps=num_steps, digest=digest)


def sent(instructions: list[Instruction], kind: type) -> list[str]:
    return [each.peer for each in instructions if isinstance(each, Send) and isinstance(each.message, kind)]


def following(holds: Plan = NOW) -> PlanChange:
    """Its shadow holds the state after five steps."""
    change = PlanChange(term=1)
    change.holds(holds)
    change.load_shadows()
    assert change.after_commit(step(4), holds) == (holds, [])
    assert sent(change.all_applied(5, [holds], set(), {}), PrepareGroup) == ["b"]
    assert change.loaded("b", loaded(5), 5) == [ShadowIsCurrent("b", SPAN)]
    return change


def test_nothing_is_loaded_before_members_copies_are_free() -> None:
    change = PlanChange(term=1)
    change.holds(NOW)
    assert not change.needs_copy(SPAN)
    change.after_commit(step(0), NOW)
    assert not change.holds_copies
    change.load_shadows()
    assert [change.needs_copy(NOW.span_of(group)) for group in range(3)] == [False, True, False]
    change.after_commit(step(1), NOW)
    assert change.holds_copies
    assert change.averages_after(SPAN) == 2


def test_a_shadow_follows_every_step_and_holds_no_copies() -> None:
    change = following()
    assert not change.holds_copies
    for number in range(5, 9):
        assert change.averages_after(SPAN) == number
        held, told = change.after_commit(step(number), NOW)
        assert held is NOW
        assert sent(told, FollowStep) == ["b"]
        assert change.loaded("b", loaded(number + 1), number + 1) == [], "that it is current is said once"


def test_steps_that_were_committed_before_a_load_could_begin_are_not_forgotten() -> None:
    change = PlanChange(term=1)
    change.holds(NOW)
    change.load_shadows()
    change.after_commit(step(4), NOW)
    assert change.after_commit(step(5), NOW) == (NOW, [])
    told = change.all_applied(5, [NOW], set(), {})
    assert [type(each.message) for each in told if isinstance(each, Send)] == [PrepareGroup, FollowStep]


def test_a_shadow_takes_over_with_the_next_commit() -> None:
    change = following()
    change.propose(NOW, MOVES_B, set())
    assert not change.needs_copy(SPAN)
    assert change.is_ready(5)
    held, told = change.after_commit(step(5), NOW)
    assert (held.number, held.first_step, held.groups) == (2, 6, MOVES_B.groups)
    assert sent(told, FollowStep) == ["b"]
    assert change.changed(NOW, held) == []
    assert change.averages_after(SPAN) == -1


def test_who_leaves_a_stage_stays_its_shadow_without_a_load() -> None:
    change = following()
    change.propose(NOW, shadowed(MOVES_B, ("b",), ()), set())
    held, _ = change.after_commit(step(5), NOW)
    (order,) = [each.message for each in change.changed(NOW, held) if isinstance(each, Send)]
    assert isinstance(order, PrepareGroup)
    assert (order.num_steps, order.first_layer, order.last_layer, order.donors) == (6, 1, 2, ("a",))
    assert change.averages_after((1, 2)) == 6


def test_a_shadow_that_fails_is_let_go_and_no_change_with_it() -> None:
    change = following()
    assert change.propose(NOW, shadowed(plan(["a", "b"], ["c", "d", "e"]), (), ("b",)), set())
    failed = GroupNotLoaded(transfer=FIRST, first_layer=2, last_layer=3, problem="no memory")
    told = change.not_loaded("b", failed)
    assert [type(each) for each in told] == [Send, ShadowIsGone]
    assert change.is_on


def test_a_shadow_with_other_weights_is_let_go() -> None:
    change = following()
    told = change.applied(SPAN, 5, "x")
    assert ShadowIsGone("b", SPAN, "b loaded other weights than the group holds") in told


def test_a_shadow_whose_load_takes_too_long_is_let_go() -> None:
    change = PlanChange(term=1)
    change.holds(NOW)
    change.load_shadows()
    change.after_commit(step(0), NOW)
    _, told = change.after_commit(step(MAX_LOADING_STEPS + 2), NOW)
    assert any(isinstance(each, ShadowIsGone) for each in told)
    assert not change.holds_copies


def test_a_change_that_is_off_leaves_its_shadow_as_it_was() -> None:
    change = following()
    target = plan(["a"], ["c", "d", "b", "e"])
    change.propose(NOW, target, set())
    change.after_commit(step(5), NOW)
    failed = GroupNotLoaded(transfer=FIRST + 1, first_layer=2, last_layer=3, problem="no memory")
    told = change.not_loaded("e", failed)
    assert any(isinstance(each, PlanChangeOff) and each.culprit == "e" for each in told)
    assert sent(told, CancelGroup) == ["e"]
    _, told = change.after_commit(step(6), NOW)
    assert sent(told, FollowStep) == ["b"]


def test_a_mover_does_not_wait_for_shadows_that_load() -> None:
    """Members have room for one copy: the shadow begins again with the mover's."""
    change = PlanChange(term=1)
    change.holds(NOW)
    change.load_shadows()
    change.after_commit(step(4), NOW)
    change.all_applied(5, [NOW], set(), {})
    change.propose(NOW, plan(["a", "b"], ["c", "d", "e"]), set())
    assert change.needs_copy(SPAN)
    change.after_commit(step(5), NOW)
    assert change.loaded("b", loaded(5), 9) == [], "of the load that was given up"
    assert sent(change.all_applied(6, [NOW], set(), {}), PrepareGroup) == ["b", "e"]


def test_a_shadow_that_a_plan_names_no_more_is_told() -> None:
    change = following()
    change.propose(NOW, plan(["a", "b"], ["c", "d"]), set())
    held, _ = change.after_commit(step(5), NOW)
    assert sent(change.changed(NOW, held), CancelGroup) == ["b"]


def test_a_lost_shadow_is_forgotten() -> None:
    change = following()
    assert change.lose({"b"}) == []
    assert change.averages_after(SPAN) == -1
    assert change.after_commit(step(5), NOW) == (NOW, [])


def test_a_mover_that_was_loading_as_a_shadow_begins_again_with_the_others() -> None:
    """Its copy gives way to theirs."""
    change = PlanChange(term=1)
    change.holds(NOW)
    change.load_shadows()
    change.after_commit(step(4), NOW)
    change.all_applied(5, [NOW], set(), {})
    change.propose(NOW, plan(["a"], ["c", "d", "b", "e"]), set())
    _, told = change.after_commit(step(5), NOW)
    assert sent(told, CancelGroup) == ["b"]
    orders = {each.peer: each.message for each in change.all_applied(6, [NOW], set(), {}) if isinstance(each, Send)}
    assert {peer: order.num_steps for peer, order in orders.items() if isinstance(order, PrepareGroup)} == {
        "b": 6,
        "e": 6,
    }


def test_a_change_does_not_wait_for_a_shadow_that_stays_behind() -> None:
    change = following()
    change.after_commit(step(6), NOW)
    change.propose(NOW, MOVES_B, set())
    told: list[Instruction] = []
    for number in range(7, 9 + MAX_LOADING_STEPS):  # it has seen five steps all the time
        held, told = change.after_commit(step(number), NOW)
        assert held is NOW
        if told and any(isinstance(each, PlanChangeOff) for each in told):
            break
    assert any(isinstance(each, PlanChangeOff) and each.culprit == "b" for each in told)
    assert any(isinstance(each, ShadowIsGone) for each in told)


def test_a_shadow_that_stays_behind_is_let_go() -> None:
    change = following()
    _, told = change.after_commit(step(5 + MAX_LOADING_STEPS + 1), NOW)
    assert any(isinstance(each, ShadowIsGone) for each in told)


def test_averages_are_kept_for_the_one_that_is_furthest_behind() -> None:
    holds = shadowed(plan(["a", "b"], ["c", "d"]), (), ("a", "b"))
    change = PlanChange(term=1)
    change.holds(holds)
    change.load_shadows()
    change.after_commit(step(4), holds)
    change.all_applied(5, [holds], set(), {})
    change.loaded("b", loaded(5, transfer=FIRST + 1), 5)
    for number in range(5, 9):
        change.after_commit(step(number), holds)
        change.loaded("b", loaded(number + 1, transfer=FIRST + 1, digest=str(number)), 9)
    assert change.averages_after(SPAN) == 5
    change.loaded("a", loaded(7, digest="6"), 9)
    assert change.averages_after(SPAN) == 7


def test_members_that_leave_with_the_commit_are_asked_too() -> None:
    change = PlanChange(term=1)
    change.holds(NOW)
    change.load_shadows()
    change.after_commit(step(4), NOW)
    (told,) = change.all_applied(5, [NOW, plan(["a", "c", "d"], ["e"])], set(), {})
    assert isinstance(told, Send)
    assert isinstance(told.message, PrepareGroup)
    assert told.message.donors == ("c", "d", "e")


def test_donors_under_another_plan_are_those_that_have_it_and_are_there() -> None:
    later = plan(["a", "e"], ["c", "b"])
    assert later.donors_after(SPAN, ("a", "d")) == ("a", "b", "c"), "a still has what it left; d is gone"
