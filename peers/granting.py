"""Answers schedulers that claim to lead this member: the shell around `peers.allegiance` and the oath on the disk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from peers.allegiance import Answer
from peers.archive import Archive
from peers.oath import Oath
from swarm.errors import DiskRefused, SwarmError
from swarm.net.awake import awake_timeout
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import AskLeader, Claim, Denied, Granted, LeaderSays

_LEADER_ANSWERS_S = 2.0
"""A scheduler that is silent for so long does not lead: its daemon and its loop are idle, and it pings every second."""
_LEAST_ANSWER_S = 0.5
"""For the answer of one that was silent for long already."""


@dataclass(slots=True)
class Granting:
    """One claim at a time.

    Args:
        archive: whose holdings a leader is told of.
        refuse: raises SwarmError where no claim is taken now.
        newest_plan: the number of the newest plan that we know (0: none), and its seal.
        is_under: whether we serve the leader that we granted.
        serve_under: serve a scheduler from now on.
        run_paused_by: the scheduler that told us last that the run is paused; empty where it is not.
    """

    oath: Oath
    endpoint: Endpoint
    archive: Archive
    refuse: Callable[[], None]
    newest_plan: Callable[[], tuple[int, bytes]]
    is_under: Callable[[], bool]
    serve_under: Callable[[str], Awaitable[None]]
    run_paused_by: Callable[[], str]
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever changes whom we serve."""

    async def on_claim(self, delivery: Delivery) -> Reply:
        """Grant it, or deny it and say why; a claim that cannot be kept on the disk is not granted."""
        claim, candidate = delivery.message, delivery.remote_id
        assert isinstance(claim, Claim)
        async with self.one_at_a_time:
            self.refuse()
            allegiance = self.oath.allegiance
            plan_number, sealed_plan = self.newest_plan()
            knows_plan = claim.plan >= plan_number
            answer = allegiance.answer(candidate, claim.term, knows_plan=knows_plan)
            lives = False
            if answer is Answer.ASK:
                lives = await self._leader_leads()
                answer = allegiance.answer(candidate, claim.term, knows_plan=knows_plan, leader_lives=lives)
            if answer is Answer.DENY:
                denied = Denied(term=allegiance.term, leader=allegiance.leader, leader_lives=lives, plan=sealed_plan)
                return Reply(denied)
            before = allegiance.term, allegiance.leader
            if allegiance.grant(candidate, claim.term) or not self.is_under():
                try:
                    await asyncio.to_thread(self.oath.save)
                except DiskRefused:
                    allegiance.term, allegiance.leader = before  # what a restart would not know is not granted
                    raise
                await self.serve_under(candidate)
            is_paused = self.run_paused_by() not in ("", candidate)  # who paused it knows better whether it still is
            holdings = await self.archive.holdings()
            return Reply(Granted(term=claim.term, holdings=holdings, run_is_paused=is_paused))

    async def _leader_leads(self) -> bool:
        """Direct evidence: whether the leader we obey says that it leads."""
        allegiance = self.oath.allegiance
        silent_s = self.endpoint.silent_s(allegiance.leader)
        if math.isinf(silent_s):  # we were started again, and it may not have found us yet
            silent_s = 0.0
        patience_s = max(_LEAST_ANSWER_S, _LEADER_ANSWERS_S - silent_s)
        try:
            async with awake_timeout(patience_s):
                reply, _ = await self.endpoint.request(allegiance.leader, AskLeader(term=allegiance.term))
        except (SwarmError, TimeoutError):
            return False
        return isinstance(reply, LeaderSays) and reply.leads
