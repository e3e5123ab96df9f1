"""Members that come, go or slow down lead to plans that the step leader can take, one at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.drafting import Draft
from scheduler.planner.heuristic import certified_plan
from scheduler.planner.instance import Assignment, Instance, Ints
from scheduler.planner.moves import Policy
from scheduler.replanning import Replanning
from scheduler.survey import survey
from swarm.config import RunConfig
from swarm.model.blueprint import layout
from swarm.model.presets import byte_llama
from swarm.plan import Plan
from swarm.wire.messages import Capabilities
from tests.support.runs import Run, capabilities

CONFIG: RunConfig = Run(
    sections={
        "data": {"context_tokens": 16},
        "model": byte_llama(num_layers=6, width=32, context_tokens=16, num_heads=2, mlp_width=64),
    }
).config
LAYOUT = layout(CONFIG)
DRAFT = Draft(CONFIG.fingerprint, LAYOUT.trunk.first)


class Swarm:
    """Members and their plan."""

    def __init__(self, policy: Policy | None = None, **layer_s: float) -> None:
        self.hosts = {
            name: capabilities(layer_seconds=seconds, up_bytes_per_s=1e9, down_bytes_per_s=1e9)
            for name, seconds in layer_s.items()
        }
        self.owners = {
            "o": capabilities(
                roles=("owner",), layer_seconds=0.0, ends_seconds=0.001, up_bytes_per_s=1e9, down_bytes_per_s=1e9
            )
        }
        stages: Ints = np.arange(len(self.hosts), dtype=np.int64) % 2
        sizes: Ints = np.array([1, LAYOUT.trunk.num_layers - 1], dtype=np.int64)
        self.plan = DRAFT.plan(self.survey(), Assignment(stages, sizes), number=1, first_step=0)
        self.replanning = Replanning(self.plan, DRAFT, self.survey, policy or Policy())

    def survey(self) -> Instance:
        return survey(CONFIG, LAYOUT, self.hosts, self.owners, "s", 2).instance

    def join(self, peer: str, facts: Capabilities) -> None:
        (self.owners if "owner" in facts.roles else self.hosts)[peer] = facts
        self.replanning.joined(peer, facts)

    def take(self, plan: Plan) -> None:
        self.replanning.changed(plan)


def test_nothing_happens_by_itself() -> None:
    assert Swarm(a=0.1, b=0.1).replanning.target() is None


def test_a_host_that_joins_is_placed_once() -> None:
    swarm = Swarm(a=0.1, b=0.1, c=0.1)
    swarm.join("d", swarm.hosts["a"])
    target = swarm.replanning.target()
    assert target is not None
    assert sorted(map(len, target.groups[:-1])) == [2, 2]
    assert "d" in target.stages[1].replicas
    assert swarm.replanning.reasons
    assert swarm.replanning.target() is None


def test_an_owner_that_joins_shares_the_ends() -> None:
    swarm = Swarm(a=0.1, b=0.1)
    swarm.join("p", swarm.owners["o"])
    target = swarm.replanning.target()
    assert target is not None
    assert target.owners == ("o", "p")
    assert len(target.owner_fractions) == 2


def test_a_stage_left_with_one_replica_gets_another() -> None:
    swarm = Swarm(a=0.1, b=0.1, c=0.1, d=0.1, e=0.1)
    del swarm.hosts["b"]
    swarm.replanning.lost("b")
    swarm.take(swarm.plan.without(frozenset({"b"}), 1))
    target = swarm.replanning.target()
    assert target is not None
    assert min(map(len, target.groups[:-1])) == 2
    assert "b" not in {peer for group in target.groups for peer in group}


def keeping_copies() -> tuple[Swarm, Plan]:
    """Four hosts that keep each other's stages, and their plan."""
    swarm = Swarm(Policy(copy_cover=1.0), a=0.1, b=0.1, c=0.1, d=0.1)
    for _ in range(2):  # two an event
        target = swarm.replanning.target()
        assert target is not None
        swarm.take(target)
        for peer, span in sorted(target.shadows):
            swarm.replanning.shadow_is_current(peer, span)
    return swarm, target


def test_hosts_with_memory_to_spare_keep_copies() -> None:
    swarm, plan = keeping_copies()
    assert [sorted(stage.shadows) for stage in plan.stages] == [["b", "d"], ["a", "c"]]
    assert swarm.replanning.target() is None
    swarm.replanning.called_off()
    assert swarm.replanning.target() is None, "they are known from the plan"


def test_who_takes_over_stays_the_shadow_of_what_it_left() -> None:
    swarm, plan = keeping_copies()
    swarm.join("e", swarm.hosts["a"])
    target = swarm.replanning.target()
    assert target is not None
    swarm.take(target)
    stage = next(number for number, names in enumerate(target.groups[:-1]) if "e" in names)
    for peer in sorted(set(plan.stages[1 - stage].replicas))[:1]:
        del swarm.hosts[peer]
        swarm.replanning.lost(peer)
        swarm.take(target.without(frozenset({peer}), 2))
    target = swarm.replanning.target()
    assert target is not None
    (mover,) = set(target.stages[1 - stage].replicas) - set(plan.stages[1 - stage].replicas)
    assert mover in plan.stages[1 - stage].shadows
    assert mover in target.stages[stage].shadows


def test_a_host_that_cannot_keep_a_copy_is_named_no_more() -> None:
    swarm, plan = keeping_copies()
    peer, span = min(plan.shadows)
    swarm.replanning.shadow_is_gone(peer, span)
    target = swarm.replanning.target()
    assert target is not None
    assert peer not in {peer for peer, _ in target.shadows}
    swarm.take(target)
    swarm.replanning.called_off()
    again = swarm.replanning.target()
    assert again is None or peer not in {peer for peer, _ in again.shadows}


def test_a_shadow_that_is_lost_is_named_no_more_even_if_it_is_back_at_once() -> None:
    """The leader has forgotten it: only a plan makes it load again."""
    swarm, plan = keeping_copies()
    peer, _ = min(plan.shadows)
    swarm.replanning.lost(peer)
    swarm.join(peer, swarm.hosts[peer])
    assert swarm.replanning.target() is not None


def test_a_rerated_host_gets_another_weight_and_nobody_moves() -> None:
    swarm = Swarm(a=0.1, b=0.1, c=0.1, d=0.1)
    slower = capabilities(layer_seconds=0.15, up_bytes_per_s=1e9, down_bytes_per_s=1e9)
    swarm.hosts["a"] = slower
    swarm.replanning.rerated("a", slower)
    target = swarm.replanning.target()
    assert target is not None
    assert [stage.replicas for stage in target.stages] == [stage.replicas for stage in swarm.plan.stages]
    before, after = swarm.plan.stages[0], target.stages[0]
    index = before.replicas.index("a")
    assert after.routing_weights[index] == pytest.approx(before.routing_weights[index] * 0.1 / 0.15, rel=0.05)


def test_a_full_plan_with_other_spans_is_taken_where_it_gains_much() -> None:
    swarm = Swarm(a=0.001, b=0.1)  # the slow one holds all layers but one
    instance = swarm.survey()
    swarm.replanning.solved(instance, certified_plan(instance))
    target = swarm.replanning.target()
    assert target is not None
    assert target.predicted_tokens_per_s > 1.1 * swarm.plan.predicted_tokens_per_s
    spans = [(stage.first_layer, stage.last_layer) for stage in target.stages]
    assert spans != [(stage.first_layer, stage.last_layer) for stage in swarm.plan.stages]
    swarm.take(target)
    assert swarm.replanning.target() is None


def test_a_change_that_was_called_off_is_thought_over() -> None:
    swarm = Swarm(a=0.1, b=0.1, c=0.1)
    swarm.join("d", swarm.hosts["a"])
    assert swarm.replanning.target() is not None
    swarm.replanning.called_off()
    again = swarm.replanning.target()
    assert again is not None
    assert "d" in {peer for group in again.groups for peer in group}


def test_a_host_whose_line_became_thin_stands_by_and_the_others_go_on() -> None:
    swarm = Swarm(a=0.1, b=0.1, c=0.1, d=0.1, e=0.1, f=0.1)
    assert "a" in swarm.plan.stages[0].replicas
    thin = swarm.hosts["a"] = replace(swarm.hosts["a"], up_bytes_per_s=1e3, down_bytes_per_s=1e3)
    swarm.replanning.relined("a", thin)
    target = swarm.replanning.target()
    assert target is not None
    assert target.stages[0].replicas == ("c", "e")
    swarm.take(target)
    assert swarm.replanning.target() is None, "once"


def test_the_only_host_of_a_stage_keeps_it_whatever_its_line() -> None:
    swarm = Swarm(a=0.1, b=0.1)
    thin = swarm.hosts["a"] = replace(swarm.hosts["a"], up_bytes_per_s=1e3, down_bytes_per_s=1e3)
    swarm.replanning.relined("a", thin)
    target = swarm.replanning.target()
    assert target is None or "a" in target.stages[0].replicas


def test_a_host_that_was_to_stand_by_keeps_the_stage_that_another_cut_of_the_trunk_gave_it() -> None:
    """Its line looked thin, a full plan made it the only host of a stage, and the plan after that forgot it (chaos)."""
    swarm = Swarm(a=0.1, b=0.1, c=0.1, d=0.1, e=0.1)
    thin = swarm.hosts["a"] = replace(swarm.hosts["a"], up_bytes_per_s=1e5, down_bytes_per_s=1e5)
    swarm.replanning.relined("a", thin)
    stages: Ints = np.array([0, 1, 1, 1, 1], dtype=np.int64)
    sizes: Ints = np.array([2, LAYOUT.trunk.num_layers - 2], dtype=np.int64)
    recut = DRAFT.plan(swarm.survey(), Assignment(stages, sizes), number=2, first_step=1)
    assert recut.stages[0].replicas == ("a",)
    swarm.take(recut)
    swarm.join("f", swarm.hosts["b"])
    target = swarm.replanning.target()
    assert target is not None
    assert "a" in {peer for stage in target.stages for peer in stage.replicas}


def test_a_host_whose_line_changed_and_that_stays_still_counts_where_it_serves() -> None:
    """It was taken to load its own stage for ever, so no one of that stage could be spared for another (chaos)."""
    swarm = Swarm(a=0.1, b=0.1, c=0.1, d=0.1, e=0.1)
    for _ in range(2):  # at first one of them moves, since that pays
        for peer in ("a", "b", "c", "d", "e"):
            swarm.hosts[peer] = replace(swarm.hosts[peer], up_bytes_per_s=0.9 * swarm.hosts[peer].up_bytes_per_s)
            swarm.replanning.relined(peer, swarm.hosts[peer])
        target = swarm.replanning.target()
        assert target is not None
        swarm.take(target)
    two, three = sorted(target.stages, key=lambda stage: len(stage.replicas))
    assert (len(two.replicas), len(three.replicas)) == (2, 3)
    gone = two.replicas[0]
    del swarm.hosts[gone]
    swarm.replanning.lost(gone)
    swarm.take(target.without(frozenset({gone}), 2))
    mended = swarm.replanning.target()
    assert mended is not None
    assert sorted(map(len, mended.groups[:-1])) == [2, 2]


def test_a_swarm_that_loses_hosts_gives_up_half_of_its_speed_for_two_hosts_a_stage() -> None:
    """A fast host and three slow ones: alone in its stage, the fast one carries most of the model."""
    swarm = Swarm(a=0.002, b=0.1, c=0.1)
    swarm.join("d", capabilities(layer_seconds=0.1, up_bytes_per_s=1e9, down_bytes_per_s=1e9))
    calm = certified_plan(swarm.survey())
    losing = certified_plan(replace(swarm.survey(), replica_share=0.0))
    assert calm.assignment.fewest_replicas == 1
    assert losing.assignment.fewest_replicas == 2
    assert losing.evaluation.tokens_per_s < 0.75 * calm.evaluation.tokens_per_s
    swarm.replanning.solved(replace(swarm.survey(), replica_share=0.0), losing)
    target = swarm.replanning.target()
    assert target is not None
    assert min(len(stage.replicas) for stage in target.stages) == 2


def test_the_plan_says_which_lines_take_coarse_tensors() -> None:
    config = Run(
        sections={
            "data": {"context_tokens": 16},
            "model": byte_llama(num_layers=6, width=32, context_tokens=16, num_heads=2, mlp_width=64),
            "numerics": {"boundary_codec": "auto"},
        }
    ).config
    swarm = Swarm(a=0.01, b=0.01)
    swarm.hosts["b"] = capabilities(layer_seconds=0.01, up_bytes_per_s=40e3, down_bytes_per_s=1e9)
    instance = survey(config, LAYOUT, swarm.hosts, swarm.owners, "s", 2).instance
    assignment = Assignment(np.array([0, 1], dtype=np.int64), np.array([2, 2], dtype=np.int64))
    plan = Draft.of(config, LAYOUT).plan(instance, assignment, number=1, first_step=0)
    assert [(line.peer, line.codec) for line in plan.thin_lines] == [("b", "int4")]
    assert not Draft(config.fingerprint, 1, {"bf16": 1.0}).plan(instance, assignment, number=1, first_step=0).thin_lines
