"""The shell of a candidacy: asks members for a term, and hears what they can bring."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.candidacy import Candidacy, Outcome, voters_of
from scheduler.office import Office
from swarm.admission import unseal
from swarm.durable import keeping
from swarm.errors import DeadlineExceeded, DiskRefused, ProtocolError, SwarmError
from swarm.net.awake import awake_timeout
from swarm.plan import Plan
from swarm.wire.messages import Claim, Denied, Granted, LeaderRecord

CLAIM_S = 6.0
"""A member may have to ask its leader first, and to bring an order to an end."""

_STRAGGLERS_S = 1.0


@dataclass(slots=True)
class Ballot:
    """What a scheduler goes into an election with.

    Attributes:
        plan: the newest that it knows, if there was one.
        sealed_plan: the same, as its leader signed it.
        above_term: a term that somebody holds already.
        needs_votes: other schedulers may be elected, so a majority of that plan's members has to agree.
        schedulers: whose plans are believed: whoever was found in the directory as one that leads or led.
    """

    plan: Plan | None = None
    sealed_plan: bytes = b""
    above_term: int = 0
    needs_votes: bool = False
    schedulers: set[str] = field(default_factory=set)

    def learn(self, office: Office, plan: Plan, sealed: bytes) -> bool:
        """Somebody whom we believe made a plan; whether it is newer than what we knew."""
        if self.plan is not None and plan.number <= self.plan.number:
            return False
        self.plan, self.sealed_plan = plan, sealed
        try:
            with keeping(office.run_dir.plan) as file:
                file.write(sealed)
        except DiskRefused as error:  # after a restart, members that know it deny whoever does not
            office.warn(str(error))
        return True

    def remember(self, office: Office) -> None:
        """The plan that was known when this scheduler ran last; nothing where the file is damaged."""
        with contextlib.suppress(OSError, SwarmError):
            sealed = office.run_dir.plan.read_bytes()
            plan, _ = unseal(sealed, Plan)
            if plan.fingerprint == office.config.fingerprint:
                self.plan, self.sealed_plan = plan, sealed


async def elect(office: Office, ballot: Ballot) -> Candidacy:
    """Ask everybody who is here, and every member of the last plan, for the next term.

    Args:
        ballot: what was learned from those who denied is entered for the next time.

    Returns:
        The candidacy, won or not.
    """
    number = 0 if ballot.plan is None else ballot.plan.number
    term = await office.on_disk(office.log.begin_term, time.time(), ballot.above_term)
    voters = voters_of(ballot.plan) if ballot.needs_votes else None
    candidacy = Candidacy(term, max(number, office.log.last_plan), voters)
    asking = [asyncio.create_task(_ask(office, ballot, candidacy, peer)) for peer in _everybody(office, ballot.plan)]
    await _until_decided(candidacy, asking)
    ballot.above_term = max(ballot.above_term, candidacy.newest_term)
    return candidacy


async def _until_decided(candidacy: Candidacy, asking: list[asyncio.Task[None]]) -> None:
    """Wait for a majority, and a little longer for the others: who is late is asked again by the one who leads."""
    waiting = set(asking)
    while waiting and (candidacy.voters is None or candidacy.outcome is Outcome.OPEN):
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if waiting and not candidacy.may_claim_at_once:
        await asyncio.wait(waiting, timeout=_STRAGGLERS_S)
    for task in asking:
        task.cancel()


def _everybody(office: Office, plan: Plan | None) -> Iterable[str]:
    return sorted(voters_of(plan) | office.roster.announced.keys())


async def _ask(office: Office, ballot: Ballot, candidacy: Candidacy, peer: str) -> None:
    try:
        reply = await claim(office, peer, candidacy.term, candidacy.plan_number)
    except SwarmError:
        candidacy.silent(peer)
        return
    if isinstance(reply, Denied):
        plan = await _newer_plan(office, ballot, reply)
        candidacy.denied(peer, reply, 0 if plan is None else plan.number)
    else:
        candidacy.granted(peer, reply)


async def claim(office: Office, peer: str, term: int, plan_number: int) -> Granted | Denied:
    """Ask one member to obey us.

    Args:
        plan_number: of the newest plan we know.

    Raises:
        SwarmError: it cannot be reached, or answers nonsense.
    """
    question = Claim(term=term, plan=plan_number)
    try:
        async with awake_timeout(CLAIM_S):
            reply, _ = await office.endpoint.request(peer, question)
    except TimeoutError:
        raise DeadlineExceeded(f"{peer} did not answer a claim within {CLAIM_S:.0f} s", "look at its machine") from None
    if not isinstance(reply, Granted | Denied):
        raise ProtocolError(f"{peer} answered a claim with something else", "update its software")
    return reply


async def _newer_plan(office: Office, ballot: Ballot, reply: Denied) -> Plan | None:
    """A plan newer than ours, if one of the run's schedulers signed it."""
    if not reply.plan:
        return None
    try:
        plan, signer = unseal(reply.plan, Plan)
    except SwarmError:
        return None
    if signer not in {office.peer_id, *ballot.schedulers}:  # in a hurry: the directory asks members that are gone, too
        ballot.schedulers |= (await office.directory.read(LeaderRecord, latest=False)).keys()
    if signer not in {office.peer_id, *ballot.schedulers} or plan.fingerprint != office.config.fingerprint:
        return None
    ballot.learn(office, plan, reply.plan)
    return plan


def is_won(candidacy: Candidacy) -> bool:
    """Whether we lead."""
    return candidacy.outcome is Outcome.WON
