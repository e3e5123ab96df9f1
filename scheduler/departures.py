"""Members that go while one term is led: on their own wish, at the end of the run, or sent away by the admin."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from scheduler.office import Office
from scheduler.plan_changes import PlanChanges
from scheduler.posts import Posts
from swarm.errors import SwarmError
from swarm.plan import Plan
from swarm.wire import codec
from swarm.wire.messages import MayLeave, Orders, RunFinished

_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Departures:
    """Lets them go.

    Args:
        term: that is led.
    """

    office: Office
    posts: Posts
    changes: PlanChanges
    term: int

    def wish(self, peer: str, plan: Plan) -> None:
        """Plan without a member, where others can do its part; it works until a step is committed without it."""
        roster = self.office.roster
        if peer not in roster.members or peer in roster.leaving:
            return
        alone = [group for group, peers in enumerate(plan.groups) if set(peers) - roster.leaving <= {peer}]
        if alone:
            self.office.warn(f"{peer} wants to leave, and nobody else has its part of the model yet")
            return
        self.office.tell({"event": "leaving", "peer": peer})
        self.office.status.on_state(peer, "leaving")
        roster.leaves(peer)
        self.changes.leaves(peer)

    def let_go(self, plan: Plan) -> None:
        """A step of this plan is committed: who has no part in it may go home."""
        for peer in self.office.roster.leaving:
            if not plan.groups_of(peer):
                self.posts.post(peer, MayLeave(term=self.term))
                self.office.roster.let_go(peer, time.monotonic())
                self.office.tell({"event": "left", "peer": peer})
                self.office.status.on_state(peer, "left")

    async def dismiss(self, peer: str) -> None:
        """Tell a member that the admin sent it away, while it still may be told."""
        farewell = RunFinished(term=self.term, problem="the admin revoked this peer's membership")
        with contextlib.suppress(SwarmError):
            order = Orders(items=(codec.encode(farewell),))
            await self.office.endpoint.request(peer, order, deadline_s=_FAREWELL_S)

    async def send_home(self, problem: str) -> None:
        """Tell every member that the run is over, and why if it should not be."""
        farewell = RunFinished(term=self.term, problem=problem)
        if not await self.posts.send_home(self.office.roster.members, farewell):
            self.office.warn("some members did not answer the news that the run is over")
        await self.posts.close()
