"""Where a run goes on, from what members can bring."""

from __future__ import annotations

import math

import pytest

from scheduler.recovery import NO_ROUND, Ledger, State, newest_state, plan_as_before
from swarm.model.spans import ENDS, Span
from swarm.plan import Plan, StagePlan
from swarm.wire.messages import Holding, RoundKey

TRUNK = (1, 5)
A, B = (1, 3), (3, 5)
KEY = RoundKey(2, 1)


def holds(
    span: Span,
    committed: int,
    *,
    first: int = 0,
    pending: RoundKey | None = None,
    key: RoundKey = KEY,
    grad_norm: float = 0.5,
) -> Holding:
    return Holding(
        first_layer=span[0],
        last_layer=span[1],
        first_steps=first,
        committed_steps=committed,
        last_steps=committed + (pending is not None),
        committed_key=key,
        last_key=key if pending is None else pending,
        grad_norm=grad_norm,
        square_norm=0.0 if pending is None else 4.0,
    )


def found(*holdings: Holding, ledger: Ledger | None = None, checkpoint: int | None = None) -> State:
    by_peer = {f"p{number}": (holding,) for number, holding in enumerate(holdings)}
    return newest_state(by_peer, ledger or Ledger(), TRUNK, checkpoint)


def test_nobody_holds_anything() -> None:
    assert found() == State(0)


def test_everybody_holds_the_same() -> None:
    state = found(holds(A, 7), holds(B, 7), holds(ENDS, 7))
    assert (state.num_steps, state.key, state.grad_norm) == (7, KEY, 0.5)
    assert state.spans_of("p0") == {A}
    assert state.spans_of("p2") == {ENDS}


def test_a_commit_that_reached_one_group_only_is_finished_for_the_others() -> None:
    state = found(holds(A, 7), holds(B, 6, pending=KEY), holds(ENDS, 6, pending=KEY))
    assert state.num_steps == 7
    assert state.key == KEY
    assert state.grad_norm == 0.5, "as it was committed"


def test_an_average_of_a_round_that_was_given_up_is_not_taken() -> None:
    state = found(holds(A, 7), holds(B, 6, pending=RoundKey(2, 9)), holds(ENDS, 7), ledger=Ledger(6))
    assert state.num_steps == 6


def test_a_round_that_every_group_holds_may_have_been_committed() -> None:
    state = found(*(holds(span, 6, pending=KEY) for span in (A, B, ENDS)))
    assert state.num_steps == 7
    assert state.grad_norm == math.sqrt(12.0)


@pytest.mark.parametrize("missing", range(3))
def test_a_round_that_one_group_lacks_was_not(missing: int) -> None:
    holdings = [holds(span, 6, pending=KEY) for span in (A, B, ENDS)]
    holdings[missing] = holds((A, B, ENDS)[missing], 6)
    assert found(*holdings).num_steps == 6


def test_two_groups_with_averages_of_different_rounds_have_none_in_common() -> None:
    pending = [KEY, RoundKey(2, 2), KEY]
    state = found(*(holds(span, 6, pending=key) for span, key in zip((A, B, ENDS), pending, strict=True)))
    assert state.num_steps == 6


def test_a_step_that_the_ledger_has_was_committed() -> None:
    ledger = Ledger(7, {6: KEY}, 3.0)
    state = found(*(holds(span, 6, pending=KEY) for span in (A, B, ENDS)), ledger=ledger)
    assert (state.num_steps, state.grad_norm) == (7, 3.0)


def test_a_history_that_the_ledger_does_not_have_is_ignored() -> None:
    ledger = Ledger(7, {6: RoundKey(3, 1), 5: RoundKey(3, 1)}, 3.0)
    other = holds(B, 7, key=RoundKey(2, 1))
    mine = [holds(span, 7, key=RoundKey(3, 1)) for span in (A, ENDS)]
    assert found(*mine, other, ledger=ledger).num_steps == 0
    assert found(*mine, other, holds(B, 7, key=RoundKey(3, 1)), ledger=ledger).num_steps == 7


def test_a_group_whose_members_are_gone_takes_the_run_back() -> None:
    state = found(holds(A, 7), holds(B, 7, first=5), holds(ENDS, 7), holds((3, 4), 6, first=3))
    assert state.num_steps == 7
    assert found(holds(A, 7, first=5), holds(B, 5), holds(ENDS, 7, first=5)).num_steps == 5
    assert found(holds(A, 7, first=6), holds(B, 5), holds(ENDS, 7, first=6)).num_steps == 0
    assert found(holds(A, 7, first=6), holds(ENDS, 7, first=6), checkpoint=4).num_steps == 4


def test_spans_of_another_plan_make_the_trunk_too() -> None:
    assert found(holds((1, 4), 7), holds((2, 5), 7), holds(ENDS, 7)).num_steps == 7


def test_members_that_lack_the_norm_of_a_step_that_nobody_knows_cannot_take_it() -> None:
    state = found(holds(A, 7, grad_norm=0.0), holds(B, 6, pending=KEY), holds(ENDS, 7, grad_norm=0.0))
    assert state.num_steps == 6


def test_who_can_go_on_at_once_keeps_its_place() -> None:
    stages = tuple(
        StagePlan(
            first_layer=first,
            last_layer=last,
            replicas=replicas,
            routing_weights=(1.0,) * len(replicas),
            reduce_fractions=(1.0,) * len(replicas),
        )
        for (first, last), replicas in ((A, ("a", "b")), (B, ("c",)))
    )
    plan = Plan(
        number=4,
        fingerprint="f",
        first_step=2,
        stages=stages,
        owners=("o",),
        owner_fractions=(1.0,),
        standby=(),
        window=2,
        predicted_tokens_per_s=1.0,
    )
    holders = {"b": frozenset({A}), "c": frozenset({B}), "o": frozenset({ENDS})}
    again = plan_as_before(plan, State(9, NO_ROUND, 0.0, holders), 7)
    assert again is not None
    assert (again.number, again.first_step, again.groups) == (7, 9, (("b",), ("c",), ("o",)))
    assert plan_as_before(plan, State(9, NO_ROUND, 0.0, {"b": frozenset({A})}), 7) is None
