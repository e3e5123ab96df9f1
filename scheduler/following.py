"""A scheduler that does not lead: it keeps up with the one that does, and notices when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from scheduler.candidacy import voters_of
from scheduler.election import Ballot
from scheduler.office import Office
from scheduler.step_record import pack, unpack
from swarm.admission import unseal
from swarm.errors import DeadlineExceeded, NotAMember, ProtocolError, SwarmError
from swarm.net.awake import awake_timeout
from swarm.net.channel import Delivery, Reply
from swarm.plan import Plan
from swarm.wire.frames import MAX_HEADER_BYTES
from swarm.wire.messages import FollowLedger, LeaderRecord, LedgerStep, LedgerTail

POLL_S = 0.5
_ANSWER_S = 1.5
_MAX_FAILURES = 2
"""Questions in a row without an answer before the leader counts as gone; whether it is, its members decide."""
_OVERLAP_STEPS = 8
"""Steps that we have already are compared with the leader's: ours may not have been the ones that went on."""
_BATCH_STEPS = 64
_BATCH_BYTES = MAX_HEADER_BYTES // 4
_GREET_S = 10.0
_DIRECTORY_S = 2.0
"""The directory also asks members that are gone, and waits for them. Those that are here know who leads."""


def ledger_tail(office: Office, request: FollowLedger, term: int, sealed_plan: bytes, *, resigned: bool) -> LedgerTail:
    """What a leader answers a standby."""
    steps: list[LedgerStep] = []
    num_bytes = 0
    for key, record in office.log.steps_from(request.from_step, _BATCH_STEPS):
        packed = pack(record.plan, record.step, key, record.work)
        num_bytes += len(packed)
        if steps and num_bytes > _BATCH_BYTES:
            break
        steps.append(LedgerStep(step=record.step, key=key, grad_norm=record.grad_norm, record=packed))
    return LedgerTail(term=term, plan=sealed_plan, steps=tuple(steps), resigned=resigned)


@dataclass(slots=True)
class Following:
    """Keeps our ledger and our knowledge of the plan up to date.

    Args:
        ballot: where the newest plan is entered.
    """

    office: Office
    ballot: Ballot
    leader: str = ""
    _gone: tuple[str, int] | None = None
    _heard: tuple[str, int] | None = None
    _greeted_at_s: float = 0.0
    _greetings: set[asyncio.Task[None]] = field(default_factory=set)

    async def find_leader(self) -> bool:
        """Whether somebody else leads, in a term as high as any we know: members say so, or the directory."""
        found = self._heard or await self._announced()
        self._heard = None
        if found is None or found[1] < self.ballot.above_term or found == self._gone:
            return False  # its record outlives it
        self.leader, self.ballot.above_term = found
        return True

    async def _announced(self) -> tuple[str, int] | None:
        try:
            async with asyncio.timeout(_DIRECTORY_S):
                records = await self.office.directory.read(LeaderRecord)
        except TimeoutError:
            return None
        self.ballot.schedulers |= records.keys()
        records.pop(self.office.peer_id, None)
        newest = max(records, key=lambda peer: records[peer].term, default="")
        return (newest, records[newest].term) if newest else None

    def hears_of(self, leader: str, term: int) -> bool:
        """A member says that this scheduler leads and answers; whether no higher term is known."""
        self._heard = leader, term
        if self._gone is not None and self._gone[0] == leader:
            self._gone = None
        return term >= self.ballot.above_term

    async def follow(self) -> str:
        """Keep up with the leader until it is gone, or wishes to be.

        Returns:
            Why we follow it no longer.
        """
        self.office.tell({"event": "following", "leader": self.leader, "term": self.ballot.above_term})
        failures = 0
        problem = ""
        was_connected = False
        while failures < _MAX_FAILURES:
            known = self.office.log.num_steps
            is_connected = self.office.endpoint.is_connected(self.leader)
            if was_connected and not is_connected:
                failures += 1  # it was killed, most likely: one more question is enough
            was_connected = is_connected
            try:
                tail = await self._ask()
                await self._take(tail)
            except SwarmError as error:
                failures, problem = failures + 1, error.problem
                self._gone = self.leader, self.ballot.above_term
                if not isinstance(error, DeadlineExceeded):  # it has waited already
                    await asyncio.sleep(POLL_S)
                continue
            failures, self._gone = 0, None
            if tail.resigned:
                return "it hands over"
            if self.office.log.num_steps == known:
                await asyncio.sleep(POLL_S)
        return f"it does not answer ({problem})"

    async def _ask(self) -> LedgerTail:
        request = FollowLedger(from_step=max(0, self.office.log.num_steps - _OVERLAP_STEPS))
        try:
            async with awake_timeout(_ANSWER_S):
                channel = await self.office.endpoint.channel(self.leader)
                if "scheduler" not in channel.roles:
                    raise NotAMember(f"{self.leader} is no scheduler", "look which member names it")
                reply, _ = await channel.request(request)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {_ANSWER_S:.1f} s", "look at its machine") from None
        if not isinstance(reply, LedgerTail):
            raise ProtocolError("it answered with something else", "update its software")
        return reply

    async def _take(self, tail: LedgerTail) -> None:
        office, log = self.office, self.office.log
        if tail.term > self.ballot.above_term:
            self.ballot.above_term = tail.term
        await office.on_disk(log.note_term, tail.term, time.time())
        if tail.plan and tail.plan != self.ballot.sealed_plan:
            plan, signer = unseal(tail.plan, Plan)
            ours = signer == self.leader and plan.fingerprint == office.config.fingerprint
            if ours and self.ballot.learn(office, plan, tail.plan):
                log.append_plan(plan.number, plan.first_step, plan.predicted_tokens_per_s)
                office.status.plan = plan
                self._greeted_at_s = 0.0
        await office.on_disk(self._enter, tail)
        self._greet()

    def _enter(self, tail: LedgerTail) -> None:
        log = self.office.log
        known = log.keys
        if tail.steps and tail.steps[0].step > 0 and known.get(tail.steps[0].step) not in (None, tail.steps[0].key):
            log.rewind(tail.steps[0].step)  # and look further back next time: nobody knows where the histories part
            return
        for entry in tail.steps:
            if known.get(entry.step) not in (None, entry.key):
                log.rewind(entry.step)  # what we led, or followed, from here on did not go on
                known = log.keys
            if entry.step >= log.num_steps:
                log.append_step(unpack(entry.record, entry.grad_norm), entry.key.term, time.time())

    def _greet(self) -> None:
        """Stay connected with every member: whom to reach should not depend on the leader's machine."""
        now_s = time.monotonic()
        if now_s - self._greeted_at_s < _GREET_S:
            return
        self._greeted_at_s = now_s
        for peer in voters_of(self.ballot.plan):
            task = asyncio.create_task(self._channel(peer))
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _channel(self, peer: str) -> None:
        with contextlib.suppress(SwarmError):
            await self.office.endpoint.channel(peer)


async def refuse_to_follow(delivery: Delivery) -> Reply:
    """A scheduler that does not lead has no ledger to be followed."""
    raise ProtocolError("this scheduler does not lead", "follow the one that does")
