"""What a step leader orders its members to do: one message for every replica of every group. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scheduler.instructions import Instruction, Send
from scheduler.ledger import Member
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import CloseStep, CommitStep, GoRound, Lease, ReopenStep

RECORD_KEEPERS = 2
"""Members of every group that keep a step's ledger."""

Counted = Mapping[Member, tuple[Lease, ...]]


@dataclass(frozen=True, slots=True)
class Orders:
    """Of one round of one step.

    Args:
        members: that live, group by group, in the plan's order.
    """

    term: int
    plan: Plan
    step: int
    round: int
    members: list[Member]

    def close(
        self, counted: Mapping[Member, tuple[Lease, ...]], microbatch_tokens: int, record: bytes
    ) -> list[Instruction]:
        """Compare the books and prepare the round.

        Args:
            counted: what the ledger gives each member.
            record: the step's ledger, packed.
        """
        orders: list[Instruction] = []
        for stage, peer in self.members:
            group = tuple(other for number, other in self.members if number == stage)
            order = CloseStep(
                term=self.term,
                plan=self.plan.number,
                step=self.step,
                stage=stage,
                round=self.round,
                counted=counted[stage, peer],
                members=group,
                tokens=tuple(len(counted[stage, other]) * microbatch_tokens for other in group),
                fractions=tuple(self.plan.fraction_of(stage, other) for other in group),
                record=record if group.index(peer) < RECORD_KEEPERS else b"",
            )
            orders.append(Send(peer, order))
        return orders

    def go(self) -> list[Instruction]:
        """Reduce: everybody is prepared."""
        return [
            Send(peer, GoRound(term=self.term, step=self.step, stage=stage, round=self.round))
            for stage, peer in self.members
        ]

    def reopen(self) -> list[Instruction]:
        """The round is off."""
        return [
            Send(peer, ReopenStep(term=self.term, step=self.step, stage=stage, round=self.round))
            for stage, peer in self.members
        ]

    def commit(
        self, grad_norm: float, needs_copy: Callable[[Span], bool], averages_after: Callable[[Span], int]
    ) -> list[Instruction]:
        """Apply the average.

        Args:
            needs_copy: whether members of a span keep a copy of what comes out.
            averages_after: how many steps those who follow them have all seen; -1 where nobody does.
        """
        orders: list[Instruction] = []
        for stage, peer in self.members:
            span = self.plan.span_of(stage)
            order = CommitStep(
                term=self.term,
                plan=self.plan.number,
                step=self.step,
                stage=stage,
                round=self.round,
                grad_norm=grad_norm,
                snapshot=needs_copy(span),
                averages_after=averages_after(span),
            )
            orders.append(Send(peer, order))
        return orders
