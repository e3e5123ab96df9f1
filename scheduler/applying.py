"""Committed steps whose members have still to say what their weights are now. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.instructions import Applied
from scheduler.ledger import Member
from swarm.plan import Plan
from swarm.wire.messages import StepApplied


@dataclass(slots=True)
class _Step:
    plan: Plan
    checkpoint: bool
    waiting: set[Member]
    digests: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Applying:
    """One entry a step, in order; a step is over when all of its members reported, or are lost."""

    _steps: dict[int, _Step] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._steps)

    @property
    def members(self) -> set[Member]:
        """Whose report is awaited."""
        return {member for step in self._steps.values() for member in step.waiting}

    @property
    def makes_checkpoint(self) -> bool:
        """Whether members still make a checkpoint's copy."""
        return any(step.checkpoint for step in self._steps.values())

    def begin(self, step: int, plan: Plan, members: Iterable[Member], *, checkpoint: bool) -> None:
        """A step was committed.

        Args:
            plan: that it ran under.
            members: who apply it.
            checkpoint: they keep a copy.
        """
        self._steps[step] = _Step(plan, checkpoint, set(members))

    def report(self, peer: str, report: StepApplied) -> Plan | None:
        """A member holds the weights after a step: the step's plan; None where nobody waits for its word."""
        step = self._steps.get(report.step)
        member = (report.stage, peer)
        if step is None or member not in step.waiting:
            return None
        step.waiting.discard(member)
        return step.plan

    def agrees(self, report: StepApplied) -> bool:
        """Whether all replicas of the stage that reported so far hold the same."""
        return self._steps[report.step].digests.setdefault(report.stage, report.digest) == report.digest

    def forget(self, peer: str) -> None:
        """A peer is lost: nobody waits for it."""
        for step in self._steps.values():
            step.waiting = {member for member in step.waiting if member[1] != peer}

    def settled(self) -> list[Applied]:
        """Steps that are over now and have no earlier one before them, in order; they are forgotten."""
        found = []
        for number in sorted(self._steps):
            step = self._steps[number]
            if step.waiting:
                break
            del self._steps[number]
            digests = tuple(step.digests[stage] for stage in sorted(step.digests))
            found.append(Applied(number + 1, digests, step.plan, step.checkpoint))
        return found
