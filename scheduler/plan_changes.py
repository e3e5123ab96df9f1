"""What leads to another plan: members that come, go, or are slower than they said; and full plans in the background."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from scheduler.drafting import Draft
from scheduler.membership import Roster
from scheduler.planner.heuristic import Certified
from scheduler.planner.instance import Instance
from scheduler.planner.moves import Policy
from scheduler.rating import Rating
from scheduler.replanning import Replanning
from scheduler.status import Event
from scheduler.survey import Survey
from swarm.errors import SwarmError
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import Capabilities

_SOLVE_PAUSE_S = 5.0
"""Between what makes a full plan worth while and its making: newcomers come in groups."""

Planner = Callable[[Instance], Certified]
"""From what members measured to who hosts what; raises ModelTooLarge or RunError where there is no plan."""


@dataclass(slots=True)
class PlanChanges:
    """Watches the members of a running plan.

    Args:
        roster: who is here.
        draft: writes plans down.
        survey: what members measured, as of now.
        planner: makes full plans.
        policy: what moves and copies are worth.
        tell: shows people what happens.
        wake: called when there is something to propose.
    """

    roster: Roster
    draft: Draft
    survey: Callable[[], Survey]
    planner: Planner
    policy: Policy
    tell: Event
    wake: Callable[[], None] = lambda: None
    _rating: Rating = field(default_factory=Rating)
    _replanning: Replanning | None = None
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, plan: Plan) -> None:
        """The run begins with this plan."""
        with self._told():
            self._replanning = Replanning(plan, self.draft, lambda: self.survey().instance, self.policy)
        for peer, facts in self.roster.hosts.items():
            self._rating.claim(peer, facts.layer_seconds)

    # --- members ---------------------------------------------------------------------------------------------------

    def joined(self, peer: str, facts: Capabilities) -> None:
        """A member came after the first plan."""
        if self._replanning is None:
            return
        self._rating.claim(peer, facts.layer_seconds)
        with self._told():
            self._replanning.joined(peer, facts)
        self._dirty.set()
        self.wake()

    def lost(self, peer: str) -> None:
        """A member is gone."""
        if self._replanning is None:
            return
        with self._told():
            self._replanning.lost(peer)
        self._dirty.set()

    def leaves(self, peer: str) -> None:
        """A member wants to go home."""
        if self._replanning is None:
            return
        with self._told():
            self._replanning.leaves(peer)
        self._dirty.set()
        self.wake()

    def relined(self, peer: str, facts: Capabilities) -> None:
        """A member's line is another one by now."""
        if self._replanning is None or "host" not in facts.roles:
            return
        self.tell({"event": "relined", "peer": peer, "up": facts.up_bytes_per_s, "down": facts.down_bytes_per_s})
        with self._told():
            self._replanning.relined(peer, facts)
        self._dirty.set()
        self.wake()

    def observed(self, peer: str, layer_s: float) -> None:
        """A member times its layers while it trains."""
        self._rating.tell(peer, layer_s)

    def committed(self, plan: Plan, routes: Iterable[tuple[str, ...]]) -> None:
        """A step was committed: believe what members deliver."""
        for peer, layer_s in self._rating.counted(plan, routes).items():
            facts = self.roster.rerate(peer, layer_s)
            if facts is not None and self._replanning is not None:
                self.tell({"event": "rerated", "peer": peer, "layer_s": layer_s})
                with self._told():
                    self._replanning.rerated(peer, facts)
                self._dirty.set()

    def shadow_is_current(self, peer: str, span: Span) -> None:
        """A host holds what it keeps a copy of."""
        if self._replanning is not None:
            self.tell({"event": "shadow", "peer": peer, "layers": list(span)})
            with self._told():
                self._replanning.shadow_is_current(peer, span)

    def shadow_is_gone(self, peer: str, span: Span, problem: str) -> None:
        """A host keeps no copy of it."""
        if self._replanning is not None:
            self.tell(
                {"event": "warning", "problem": f"{peer} keeps no copy of layers {span[0]}-{span[1] - 1}: {problem}"}
            )
            with self._told():
                self._replanning.shadow_is_gone(peer, span)

    # --- plans -----------------------------------------------------------------------------------------------------

    def holds(self, plan: Plan) -> None:
        """Another plan holds."""
        if self._replanning is None:
            return
        with self._told():
            self._replanning.changed(plan)

    def called_off(self, problem: str, culprit: str = "") -> None:
        """The plan that was proposed will not come."""
        assert self._replanning is not None
        self.tell({"event": "warning", "problem": f"the plan does not change: {problem}"})
        with self._told():
            self._replanning.called_off(culprit)

    def target(self) -> Plan | None:
        """The plan to propose, once; None for no change."""
        if self._replanning is None:
            return None
        try:
            return self._replanning.target()
        except SwarmError as error:
            self.called_off(error.problem)
            return None

    def proposed(self) -> None:
        """The leader took it."""
        assert self._replanning is not None
        self.tell({"event": "plan_change", "reasons": list(self._replanning.reasons)})
        self._replanning.reasons.clear()

    async def keep_solving(self) -> None:
        """After members came, went or were rated anew, plan from scratch; single moves cannot cut the trunk anew."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_SOLVE_PAUSE_S)
            self._dirty.clear()
            with self._told():
                if self._replanning is None:
                    continue
                instance = self._replanning.question()
                found = await asyncio.to_thread(self.planner, instance)
                self._replanning.solved(instance, found)
                self.tell(
                    {
                        "event": "bound",
                        "bound_tokens_per_s": found.bound_tokens_per_s,
                        "plan": self._replanning.plan.number,
                        "predicted_tokens_per_s": self._replanning.promises(instance),
                    }
                )
            self.wake()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """That there is no better plan must not end a run that has one."""
        try:
            yield
        except SwarmError as error:
            self.tell({"event": "warning", "problem": f"no better plan: {error}"})
