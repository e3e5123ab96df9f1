"""The scheduler's process: leads a term when members grant it, follows another scheduler when they do not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from functools import partial

from scheduler.candidacy import Candidacy
from scheduler.conductor import Conductor
from scheduler.drafting import Draft
from scheduler.election import Ballot, elect, is_won
from scheduler.following import Following, ledger_tail
from scheduler.instructions import Regroup
from scheduler.office import Office
from scheduler.own_checkpoint import OwnCheckpoint
from scheduler.plan_changes import PlanChanges, Planner
from scheduler.reception import Reception
from scheduler.replanning import policy_of
from scheduler.revoking import Revocations
from scheduler.survey import Survey, survey
from swarm.address_book import AddressBook
from swarm.durable import keeping
from swarm.errors import DiskRefused, ProtocolError, Superseded, SwarmError
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import LIFETIME_S, expiry
from swarm.net.signpost import Signpost
from swarm.tasks import beside
from swarm.wire.messages import (
    AskLeader,
    FetchState,
    FollowLedger,
    LeaderRecord,
    LeaderSays,
    LedgerTail,
    ListState,
    Revoke,
)

_STATUS_S = 1.0
_LOOK_S = 0.5
_ANNOUNCE_AGAIN_S = 2.0
_HAND_OVER_S = 5.0
_CANDIDATES_APART_S = 1.5
"""Candidates that failed try again at different times within so long, or they would take members from one another."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the admin asked for.

    Attributes:
        min_hosts, min_owners: the run begins when so many are here.
        num_stages: of the trunk; 0 leaves it to the planner.
        planner: decides on plans.
        resume: go on with a run that has steps.
        standby: follow the scheduler that leads, until members elect us.
        relay: carry other members' traffic to those that cannot be dialled.
    """

    min_hosts: int
    min_owners: int
    num_stages: int
    planner: Planner
    resume: bool = False
    standby: bool = False
    relay: bool = False


@dataclass(slots=True)
class _Standby:
    """What a scheduler that follows us knows."""

    asked_at_s: float
    knows_all: bool
    is_told: bool


@dataclass(slots=True)
class Node:
    """The composition root of the admin's process."""

    office: Office
    reception: Reception
    checkpoint: OwnCheckpoint
    wishes: Wishes
    signpost: Signpost
    revocations: Revocations
    _ballot: Ballot = field(default_factory=Ballot)
    _conductor: Conductor | None = None
    _standbys: dict[str, _Standby] = field(default_factory=dict)
    _standby_asked: asyncio.Event = field(default_factory=asyncio.Event)
    _resigns: bool = False
    _attempts: int = 0
    _claims_again: bool = False
    """Our term is over, and we are asking for the next one: who follows us waits for that."""

    async def run(self) -> None:
        """Until the last step is committed, by us or by another scheduler.

        Raises:
            RunError: the run cannot go on.
        """
        self._serve()
        problem = "the scheduler was stopped"
        try:
            await beside(
                self._lead_or_follow(),
                self._announce(),
                self._keep_status(),
                self._keep_looking(),
                self._keep_revoking(),
                self._keep_pausing(),
            )
            self.office.status.phase = "finished"
            problem = ""
        except SwarmError as error:
            self.office.status.phase = problem = error.problem
            raise
        finally:
            await self._leave(problem)
            self.office.status.save()

    async def _lead_or_follow(self) -> None:
        self._ballot.needs_votes = self.wishes.standby
        if self.wishes.standby:
            self._ballot.remember(self.office)
        min_hosts, min_owners = self.wishes.min_hosts, self.wishes.min_owners
        if self.wishes.standby:
            min_hosts = min_owners = 1
        while (candidacy := await self._win()) is not None:
            self.office.tell({"event": "leading", "term": candidacy.term})
            self._conductor = self._new_conductor(candidacy, min_hosts, min_owners)
            ending = await self._conductor.run()
            if ending is None:
                return
            await self._step_down(ending)
            min_hosts = min_owners = 1

    async def _step_down(self, ending: Regroup) -> None:
        """The term is over, the run is not."""
        conductor, self._conductor = self._conductor, None
        assert conductor is not None
        where = f"stage {ending.stage} has no host: " if ending.stage >= 0 else ""
        self.office.tell({"event": "regroup", "problem": where + ending.problem})
        if conductor.plan is not None:
            self._ballot.learn(self.office, conductor.plan, conductor.sealed_plan)
        self._ballot.above_term = max(self._ballot.above_term, conductor.above_term)
        self._ballot.needs_votes = conductor.has_rivals
        self._claims_again = True
        await conductor.close()
        self.office.roster.dismiss_all()

    # --- elections -------------------------------------------------------------------------------------------------

    async def _win(self) -> Candidacy | None:
        """Until members grant us a term; None where the run was finished without us."""
        following = Following(self.office, self._ballot)
        is_urgent = self._claims_again
        while True:
            if self._ballot.needs_votes and not is_urgent and await following.find_leader():
                self.office.status.phase = "following another scheduler"
                problem = await following.follow()
                self.office.tell({"event": "leader_gone", "leader": following.leader, "problem": problem})
            candidacy = await elect(self.office, self._ballot)
            self._claims_again = False
            if is_won(candidacy):
                return candidacy
            is_urgent = candidacy.may_claim_at_once
            if is_urgent:
                continue
            if self._is_finished and not candidacy.holdings:
                return None  # everybody went home
            if candidacy.living_leader is not None and following.hears_of(*candidacy.living_leader):
                continue
            self.office.status.phase = "waiting for more than half of the members"
            self._attempts += 1
            await asyncio.sleep(self._pause_s())

    @property
    def _is_finished(self) -> bool:
        return self.office.log.num_steps >= self.office.config.schedule.steps

    def _pause_s(self) -> float:
        """Different at every scheduler and every time, without a source of chance."""
        digest = hashlib.sha256(f"{self.office.peer_id}/{self._attempts}".encode()).digest()
        return _CANDIDATES_APART_S * (0.2 + digest[0] / 255)

    def _new_conductor(self, candidacy: Candidacy, min_hosts: int, min_owners: int) -> Conductor:
        office = self.office
        for problem in self.checkpoint.look():
            office.warn(problem)
        if candidacy.run_is_paused:
            self._inherit_pause()
        ask = partial(_survey, office, self.wishes.num_stages)
        draft = Draft.of(office.config, office.layout)
        changes = PlanChanges(
            office.roster, draft, ask, self.wishes.planner, policy_of(office.config.schedule.shadow_copies), office.tell
        )
        return Conductor(
            office,
            changes,
            self.checkpoint,
            candidacy,
            self._ballot.plan,
            min_hosts,
            min_owners,
            bool(self._standbys) or self.wishes.standby,
            is_paused=office.run_dir.paused.exists(),
        )

    def _inherit_pause(self) -> None:
        """The run was paused in another scheduler's folder; from now on its admin lets it go on in ours."""
        folder = self.office.run_dir
        if folder.paused.exists():
            return
        try:
            with keeping(folder.paused):
                pass
        except DiskRefused as error:
            self.office.warn(f"the run was paused, and goes on: {error}")
            return
        self.office.warn(f"another scheduler paused the run: `swarm unpause-run {folder.root}` lets it go on")

    # --- other schedulers, and members that ask --------------------------------------------------------------------

    def _serve(self) -> None:
        endpoint = self.office.endpoint
        self.reception.open(endpoint)
        endpoint.on_request(AskLeader, self._on_ask_leader)
        endpoint.on_request(FollowLedger, self._on_follow, role="scheduler")
        endpoint.on_request(Revoke, self.revocations.on_revoke, role="scheduler")
        endpoint.on_request(ListState, self.office.shelf.list)
        endpoint.on_request(FetchState, self.office.shelf.fetch)

    async def _on_ask_leader(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, AskLeader)
        conductor = self._conductor
        leads = conductor is not None and conductor.term == delivery.message.term and not self._resigns
        return Reply(LeaderSays(leads=leads))

    async def _on_follow(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, FollowLedger)
        conductor = self._conductor
        if conductor is None and self._claims_again:
            ballot = self._ballot
            return Reply(LedgerTail(term=ballot.above_term, plan=ballot.sealed_plan, steps=(), resigned=False))
        if conductor is None:
            raise Superseded("this scheduler does not lead", "follow the one that does")
        if delivery.remote_id not in self._standbys:
            self.office.tell({"event": "standby", "peer": delivery.remote_id})
        conductor.rival_seen()
        plan = conductor.sealed_plan or self._ballot.sealed_plan
        tail = await asyncio.to_thread(
            ledger_tail, self.office, delivery.message, conductor.term, plan, resigned=self._resigns
        )
        knows_all = delivery.message.from_step + len(tail.steps) >= self.office.log.num_steps
        self._standbys[delivery.remote_id] = _Standby(time.monotonic(), knows_all=knows_all, is_told=self._resigns)
        self._standby_asked.set()
        return Reply(tail)

    async def _leave(self, problem: str) -> None:
        """Hand over to a standby, or send everybody home."""
        conductor = self._conductor
        if conductor is None:
            return
        self._resigns = bool(problem)
        if await self._standbys_know() and problem:
            self.office.tell({"event": "handed_over"})
            await conductor.close()
        else:
            await conductor.send_home(problem)

    async def _standbys_know(self) -> bool:
        """Wait until standbys that still ask know every step, and that we resign; False where there are none."""
        for standby in self._standbys.values():
            standby.knows_all = False
        deadline_s = time.monotonic() + _HAND_OVER_S
        while True:
            now_s = time.monotonic()
            here = [each for each in self._standbys.values() if now_s - each.asked_at_s < _HAND_OVER_S]
            if not here or now_s > deadline_s:
                return False
            if all(each.knows_all and each.is_told == self._resigns for each in here):
                return True
            self._standby_asked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._standby_asked.wait()

    # --- in the background -----------------------------------------------------------------------------------------

    async def _announce(self) -> None:
        announced: tuple[int, bytes] = (0, b"")
        announced_at_s = 0.0
        while True:
            conductor = self._conductor
            if conductor is not None:
                news = conductor.term, conductor.sealed_plan
                if news != announced or time.monotonic() - announced_at_s > LIFETIME_S / 3:
                    record = LeaderRecord(
                        certificate=self.office.endpoint.certificate,
                        term=conductor.term,
                        addresses=self.office.addresses,
                        plan=conductor.sealed_plan,
                        expires_at_s=expiry(),
                    )
                    if await self.office.directory.publish(record):
                        announced, announced_at_s = news, time.monotonic()
            await asyncio.sleep(_ANNOUNCE_AGAIN_S)

    async def _keep_status(self) -> None:
        status = self.office.status
        while True:
            await asyncio.sleep(_STATUS_S)
            status.term = 0 if self._conductor is None else self._conductor.term
            await asyncio.to_thread(status.save)
            if self._conductor is not None and status.started_at_s:
                self.office.tell(status.progress())

    async def _keep_revoking(self) -> None:
        """Whom the admin sends away leaves plans and connections, here and at every member."""
        office = self.office
        while True:
            try:
                new = await asyncio.to_thread(self.revocations.look)
            except ProtocolError as error:
                office.warn(f"{office.run_dir.revoked}: {error.problem}")
                new = frozenset()
            conductor = self._conductor
            for peer in new:
                office.tell({"event": "revoked", "peer": peer})
                if conductor is not None:
                    await conductor.expel(peer)
            office.endpoint.drop(new)
            if conductor is not None:
                await self.revocations.spread(office.endpoint, {*office.roster.announced, *self._standbys})
            await asyncio.sleep(_STATUS_S)

    async def _keep_pausing(self) -> None:
        """What `swarm pause-run` and `unpause-run` leave in the run's folder."""
        while True:
            is_paused = await asyncio.to_thread(self.office.run_dir.paused.exists)
            if self._conductor is not None:
                self._conductor.pause(is_paused)
            await asyncio.sleep(_STATUS_S)

    async def _keep_looking(self) -> None:
        while True:
            await self.reception.look()
            members = [address for facts in self.office.roster.announced.values() for address in facts.addresses]
            with contextlib.suppress(DiskRefused):  # the audit log says so
                await asyncio.to_thread(AddressBook(self.office.run_dir.neighbours).keep, members)
            await asyncio.sleep(_LOOK_S)


def _survey(office: Office, num_stages: int) -> Survey:
    roster = office.roster
    loses = roster.loses_hosts(time.monotonic())
    if loses and len(roster.hosts) < 2 * num_stages:
        num_stages = 0  # two hosts a stage come before a wish
    return survey(
        office.config, office.layout, roster.hosts, roster.owners, office.peer_id, num_stages, loses_hosts=loses
    )
