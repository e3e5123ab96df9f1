"""Which plan should come next while the run goes on: who joined, who left, who is slower than it said. Pure.

Decisions are the replanner's. This keeps them until the step leader can take a change, and turns them into a plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.drafting import Draft
from scheduler.planner.evaluator import evaluate
from scheduler.planner.heuristic import Certified
from scheduler.planner.instance import Assignment, Instance, Ints
from scheduler.planner.intake import Measured, claims_of
from scheduler.planner.moves import Decision, Policy
from scheduler.planner.replan import Replanner
from swarm.model.spans import Span
from swarm.plan import Plan, StagePlan
from swarm.wire.messages import Capabilities

_WORTH_A_RECUT = 1.1
"""Times the throughput: other spans make most hosts load other layers."""
_BUDGET_BYTES = math.inf
"""That the moves towards a full plan may fetch: two at a time, each worth its bytes, is limit enough."""

_COPY_LINE_SHARE = 0.5
"""Of what microbatches leave of a line: all-reduces need some, too."""

Resurvey = Callable[[], Instance]
"""The planner's question as of now: all members that are here."""


def policy_of(shadow_copies: float) -> Policy:
    """What moves and copies are worth.

    Args:
        shadow_copies: as the run's configuration has it.
    """
    return Policy(copy_cover=shadow_copies, copy_line_share=_COPY_LINE_SHARE)


@dataclass(slots=True)
class Replanning:
    """Follows the members of a running plan.

    Args:
        plan: the one that holds.
        draft: writes plans down.
        resurvey: asks for all measurements anew.
        policy: what moves and copies are worth.
    """

    plan: Plan
    draft: Draft
    resurvey: Resurvey
    policy: Policy = field(default_factory=Policy)
    reasons: list[str] = field(default_factory=list)
    _instance: Instance = field(init=False)
    _replanner: Replanner = field(init=False)
    _moves: dict[str, int] = field(default_factory=dict)
    _owners: set[str] = field(default_factory=set)
    _reweighed: bool = False
    _failed: set[str] = field(default_factory=set)
    _benched: set[str] = field(default_factory=set)
    _recut: tuple[Instance, Assignment] | None = None
    _whole: set[tuple[str, Span]] = field(default_factory=set)
    """Shadows that have what they should keep."""
    _barred: set[str] = field(default_factory=set)
    """Hosts on which a copy came to nothing."""

    def __post_init__(self) -> None:
        self._begin()

    # --- events ----------------------------------------------------------------------------------------------------

    def joined(self, peer: str, facts: Capabilities) -> None:
        """A member is here that the plan does not know."""
        if "owner" in facts.roles and peer not in self.plan.owners:
            self._owners.add(peer)
            self.reasons.append(f"{peer} brings data")
        if "host" in facts.roles and peer not in self._replanner.places.hosts:
            self._take(self._replanner.join(_claim(peer, facts)))

    def lost(self, peer: str) -> None:
        """A member is gone."""
        self._owners.discard(peer)
        self._moves.pop(peer, None)
        self._whole = {shadow for shadow in self._whole if shadow[0] != peer}
        self._reweighed |= peer in self._planned_shadows  # the plan names a copy that is not there
        self._take(self._replanner.leave(peer))

    def leaves(self, peer: str) -> None:
        """A member wants to go home: as a loss, but the next plan is due even if nobody moves."""
        self.lost(peer)
        self._reweighed = True
        self.reasons.append(f"{peer} leaves")

    def rerated(self, peer: str, facts: Capabilities) -> None:
        """A member is faster or slower than it said."""
        if peer in self._replanner.places.hosts:
            self._take(self._replanner.drifted(_claim(peer, facts)))
            self._reweighed = True
            self.reasons.append(f"{peer} takes {facts.layer_seconds * 1000:.3g} ms a layer")

    def relined(self, peer: str, facts: Capabilities) -> None:
        """A member's line is another one: it comes anew, and stands by where it would slow everybody down."""
        if peer not in self._replanner.places.hosts:
            return
        self._moves.pop(peer, None)
        self._take(self._replanner.relined(_claim(peer, facts)))
        if self._replanner.places.hosts[peer].stage < 0:
            self._benched.add(peer)
        self._reweighed = True
        self.reasons.append(f"the line of {peer} is another one")

    def shadow_is_current(self, peer: str, span: Span) -> None:
        """A host has a whole copy of a stage, and keeps it current."""
        self._whole.add((peer, span))
        stage = self.plan.group_of(span)
        if stage is not None:
            self._take(self._replanner.copied(peer, stage))

    def shadow_is_gone(self, peer: str, span: Span) -> None:
        """A host keeps no copy, and gets no other one to keep."""
        self._whole.discard((peer, span))
        self._barred.add(peer)
        self._reweighed |= peer in self._planned_shadows
        self._take(self._replanner.uncopied(peer))

    def changed(self, plan: Plan) -> None:
        """Another plan holds."""
        moved = [peer for stage in plan.stages for peer in stage.replicas if not self.plan.groups_of(peer)]
        moved += [
            peer
            for stage, old in zip(plan.stages, self.plan.stages, strict=False)
            for peer in stage.replicas
            if peer not in old.replicas
        ]
        recut = [_span(stage) for stage in plan.stages] != [_span(stage) for stage in self.plan.stages]
        # Whoever leaves a stage and stays its shadow has all of it.
        self._whole |= {(peer, span) for peer, span in plan.shadows if span in self.plan.spans_of(peer)}
        self._whole &= plan.shadows
        self.plan = plan
        if recut:
            self._begin()
            return
        for peer in moved:
            if peer in self._replanner.places.hosts:
                self._take(self._replanner.arrived(peer))

    def called_off(self, culprit: str = "") -> None:
        """The plan that was proposed does not come: think again, from what holds.

        Args:
            culprit: the peer that it failed on; it gets no other stage.
        """
        if culprit:
            self._failed.add(culprit)
        self._begin()

    def question(self) -> Instance:
        """All that are here, but for peers on which a change failed and that have no stage."""
        instance = self.resurvey()
        names = instance.hosts.names
        rows = [row for row, name in enumerate(names) if name not in self._failed or self.plan.groups_of(name)]
        return replace(instance, hosts=instance.hosts.take(np.array(rows, dtype=np.int64)))

    def solved(self, instance: Instance, found: Certified) -> None:
        """A full plan was made for all members: take it over move by move, or, where it cuts the trunk anew, whole.

        Args:
            instance: the question that it answers.
        """
        assignment = found.assignment
        if assignment.sizes.tolist() == _sizes(self.plan).tolist():
            stages = zip(instance.hosts.names, assignment.stage.tolist(), strict=True)
            target = {name: stage for name, stage in stages if stage >= 0}
            self._take(self._replanner.propose(target, assignment.sizes.tolist(), _BUDGET_BYTES))
            return
        now, then = self.promises(instance), found.evaluation.tokens_per_s
        if then > _WORTH_A_RECUT * now:
            self.reasons.append(f"other spans are {then / now - 1:.0%} faster for the hosts that are here now")
        elif assignment.fewest_replicas > 1 >= self._fewest_replicas and then > instance.replica_share * now:
            self.reasons.append("other spans give every stage two hosts")
        else:
            return
        self._recut = instance, assignment

    @property
    def _fewest_replicas(self) -> int:
        return min(len(stage.replicas) for stage in self.plan.stages)

    def promises(self, instance: Instance) -> float:
        """Tokens per second of the plan that holds, by the measurements of now; errors as `evaluate`."""
        return evaluate(*_placed(instance, self.plan)).tokens_per_s

    # --- the plan to come ------------------------------------------------------------------------------------------

    def target(self) -> Plan | None:
        """The plan to propose, once: all that was decided since the last one; None for no change."""
        shadows = self._shadows()
        if not (self._moves or self._owners or self._reweighed or self._recut) and shadows == self._planned_shadows:
            return None
        instance = self.question()
        recut, self._recut = self._recut, None
        if recut is not None and recut[0].hosts.names == instance.hosts.names:
            self._begin()
            return self.draft.plan(*recut, number=self.plan.number + 1, first_step=self.plan.first_step)
        stage_of = {peer: number for number, stage in enumerate(self.plan.stages) for peer in stage.replicas}
        stage_of = {peer: number for peer, number in stage_of.items() if peer not in self._benched} | self._moves
        self._benched.clear()
        stages = np.array([stage_of.get(name, -1) for name in instance.hosts.names], dtype=np.int64)
        known = [number for number, name in enumerate(instance.owners.names) if self._is_wanted_owner(name)]
        instance = replace(instance, owners=instance.owners.take(np.array(known, dtype=np.int64)))
        self._moves, self._owners, self._reweighed = {}, set(), False
        return self.draft.plan(
            instance,
            Assignment(stages, _sizes(self.plan)),
            number=self.plan.number + 1,
            first_step=self.plan.first_step,
            shadows=shadows,
        )

    def _shadows(self) -> dict[str, int]:
        """By host, the stage of which it should keep a copy."""
        return {name: host.copy for name, host in self._replanner.places.hosts.items() if host.copy >= 0}

    @property
    def _planned_shadows(self) -> dict[str, int]:
        return {peer: number for number, stage in enumerate(self.plan.stages) for peer in stage.shadows}

    def _is_wanted_owner(self, peer: str) -> bool:
        return peer in self.plan.owners or peer in self._owners

    # --- the replanner ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """From the plan that holds and fresh measurements; standbys are offered anew."""
        self._instance = self.question()
        copies = {
            peer: (stage, (peer, self.plan.span_of(stage)) in self._whole)
            for peer, stage in self._planned_shadows.items()
        }
        self._replanner = Replanner(*_placed(self._instance, self.plan), self.policy, copies, self._barred)
        self._moves, self._reweighed = {}, False
        self._benched.clear()
        self._owners = set(self._instance.owners.names) - set(self.plan.owners) - self._failed
        for claim in claims_of(self._instance.hosts):
            if claim.name not in self._replanner.places.hosts:
                self._take(self._replanner.join(claim))
        self._take(self._replanner.copy_more())

    def _take(self, decision: Decision) -> None:
        for move in decision.moves:
            self._moves[move.host] = move.to_stage
            self.reasons.append(move.reason)
        for copy in decision.copies:
            self.reasons.append(f"{copy.host} keeps a copy of stage {copy.stage}")


def _placed(instance: Instance, plan: Plan) -> tuple[Instance, Assignment]:
    """The planner's question without those that have no stage, and the plan as its answer."""
    stage_of = {peer: number for number, stage in enumerate(plan.stages) for peer in stage.replicas}
    rows = np.array([row for row, name in enumerate(instance.hosts.names) if name in stage_of], dtype=np.int64)
    hosts = instance.hosts.take(rows)
    stages = np.array([stage_of[name] for name in hosts.names], dtype=np.int64)
    return replace(instance, hosts=hosts), Assignment(stages, _sizes(plan))


def _sizes(plan: Plan) -> Ints:
    return np.array([stage.last_layer - stage.first_layer for stage in plan.stages], dtype=np.int64)


def _claim(peer: str, facts: Capabilities) -> Measured:
    # The region does not matter to single moves; a full plan looks at links again.
    return Measured(
        name=peer,
        memory_bytes=facts.memory_bytes,
        layer_s=facts.layer_seconds,
        up_bytes_per_s=facts.up_bytes_per_s,
        down_bytes_per_s=facts.down_bytes_per_s,
        overhead_s=facts.overhead_seconds,
    )


def _span(stage: StagePlan) -> tuple[int, int]:
    return stage.first_layer, stage.last_layer
