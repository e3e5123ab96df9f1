"""Plans: what cannot be a plan is not one, and losing peers keeps everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.model.spans import LayerSpan
from swarm.plan import Plan, StagePlan, why_not
from tests.support.strategies import message_of


def _stage(first: int, last: int, *replicas: str) -> StagePlan:
    weights = tuple(float(index + 1) for index in range(len(replicas)))
    return StagePlan(
        first_layer=first, last_layer=last, replicas=replicas, routing_weights=weights, reduce_fractions=weights
    )


PLAN = Plan(
    number=3,
    fingerprint="f",
    first_step=10,
    stages=(_stage(1, 3, "a", "b", "c"), _stage(3, 4, "d")),
    owners=("o", "p"),
    owner_fractions=(0.25, 0.75),
    standby=("s", "t"),
    window=2,
    predicted_tokens_per_s=1.0,
)


def test_groups_are_the_stages_and_then_the_owners() -> None:
    assert PLAN.groups == (("a", "b", "c"), ("d",), ("o", "p"))
    assert PLAN.ends_stage == 2
    assert PLAN.groups_of("d") == (1,)
    assert PLAN.groups_of("p") == (2,)
    assert PLAN.groups_of("s") == ()
    assert replace(PLAN, owners=("d",), owner_fractions=(1.0,)).groups_of("d") == (1, 2)


def test_without_keeps_spans_weights_and_order() -> None:
    found = PLAN.without(frozenset({"b", "o", "t", "nobody"}), 11)
    assert (found.number, found.first_step) == (4, 11)
    assert found.stages[0] == StagePlan(
        first_layer=1, last_layer=3, replicas=("a", "c"), routing_weights=(1.0, 3.0), reduce_fractions=(1.0, 3.0)
    )
    assert found.stages[1] == PLAN.stages[1]
    assert (found.owners, found.owner_fractions, found.standby) == (("p",), (0.75,), ("s",))
    assert PLAN.stages[0].replicas == ("a", "b", "c")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(message_of(Plan), st.data())
def test_without_any_peers(plan: Plan, data: st.DataObject) -> None:
    everybody = sorted({peer for group in plan.groups for peer in group} | set(plan.standby))
    lost = frozenset(data.draw(st.lists(st.sampled_from(everybody))))
    found = plan.without(lost, plan.first_step + 1)
    assert [(stage.first_layer, stage.last_layer) for stage in found.stages] == [
        (stage.first_layer, stage.last_layer) for stage in plan.stages
    ]
    for before, after in zip(plan.groups, found.groups, strict=True):
        assert list(after) == [peer for peer in before if peer not in lost]
    weights = {
        peer: weight
        for stage in plan.stages
        for peer, weight in zip(stage.replicas, stage.routing_weights, strict=True)
    }
    for stage in found.stages:
        assert stage.routing_weights == tuple(weights[peer] for peer in stage.replicas)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ()}, "an empty plan"),
        ({"window": 0}, "an empty plan"),
        ({"number": 0}, "an empty plan"),
        ({"stages": (_stage(1, 2, "a"), _stage(2, 3, "a"))}, "two stages"),
        ({"stages": (_stage(1, 2, "a"), _stage(3, 4, "b"))}, "gap"),
        ({"stages": (_stage(1, 3, "a"), _stage(2, 4, "b"))}, "gap"),
    ],
)
def test_what_is_no_plan(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(PLAN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_layer": 3}, "no span"),
        ({"first_layer": -1}, "no span"),
        ({"replicas": ("a", "a", "b")}, "do not match"),
        ({"routing_weights": (1.0,)}, "do not match"),
        ({"routing_weights": (1.0, 0.0, 1.0)}, "weights or fractions"),
        ({"routing_weights": (1.0, -1.0, 1.0)}, "weights or fractions"),
        ({"routing_weights": (1.0, float("nan"), 1.0)}, "weights or fractions"),
        ({"routing_weights": (1.0, float("inf"), 1.0)}, "weights or fractions"),
    ],
)
def test_what_is_no_stage(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(PLAN.stages[0], **changes)  # type: ignore[arg-type]


def test_a_plan_is_carried_out_only_if_it_is_the_leaders_of_this_run_and_new() -> None:
    trunk = LayerSpan(1, 4)
    assert why_not(PLAN, "leader", "leader", "f", newest=2, trunk=trunk) == ""
    assert "signed by other" in why_not(PLAN, "other", "leader", "f", newest=2, trunk=trunk)
    assert "is of run f" in why_not(PLAN, "leader", "leader", "g", newest=2, trunk=trunk)
    assert "not newer than plan 3" in why_not(PLAN, "leader", "leader", "f", newest=3, trunk=trunk)
    assert "the trunk 1 to 5" in why_not(PLAN, "leader", "leader", "f", newest=2, trunk=LayerSpan(1, 5))
