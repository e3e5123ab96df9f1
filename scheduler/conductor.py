"""The shell of the step leader: carries out its instructions, and brings it the members' reports, for one term."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.candidacy import Candidacy
from scheduler.collect import Collector
from scheduler.departures import Departures
from scheduler.election import claim
from scheduler.gathering import Gathered, Gathering
from scheduler.instructions import (
    Applied,
    CheckPeers,
    Finish,
    Halt,
    Instruction,
    Lost,
    NewPlan,
    PlanChangeOff,
    Record,
    Regroup,
    Send,
    ShadowIsCurrent,
    ShadowIsGone,
)
from scheduler.office import Office
from scheduler.own_checkpoint import OwnCheckpoint
from scheduler.plan_changes import PlanChanges
from scheduler.posts import Posts
from scheduler.status import plan_json
from scheduler.step import Phase, StepLeader
from swarm.admission import seal
from swarm.errors import RunError, SwarmError
from swarm.net.channel import Delivery, Reply
from swarm.net.outbox import unpack
from swarm.plan import Plan
from swarm.tasks import beside
from swarm.wire.compression import encoded_bytes
from swarm.wire.messages import (
    Ack,
    AssignPlan,
    CannotContinue,
    Denied,
    GroupLoaded,
    GroupNotLoaded,
    Heartbeat,
    Leaving,
    MicrobatchDone,
    Reports,
    RoundFailed,
    RoundReduced,
    StartOver,
    StepApplied,
    StepClosed,
    SuspectPeer,
)

_LOOK_S = 0.5
"""How often peers that announced themselves are asked to obey, before the first plan."""
_LATE_LOOK_S = 2.0
_MOST_SLACK_S = 20.0
"""Whatever a member says of its line."""


@dataclass(slots=True)
class Conductor:
    """Leads the members that granted one term.

    Args:
        candidacy: that was won.
        old_plan: of the leader before.
        min_hosts, min_owners: the first plan waits for so many.
        has_rivals: other schedulers may be elected.
        is_paused: no step begins until the admin lets it.
    """

    office: Office
    changes: PlanChanges
    checkpoint: OwnCheckpoint
    candidacy: Candidacy
    old_plan: Plan | None
    min_hosts: int
    min_owners: int
    has_rivals: bool
    is_paused: bool
    posts: Posts = field(init=False)
    plan: Plan | None = None
    sealed_plan: bytes = b""
    above_term: int = field(init=False)
    """That the next term of ours has to be."""
    _departures: Departures = field(init=False)
    _gathering: Gathering = field(init=False)
    _leader: StepLeader | None = None
    _events: asyncio.Queue[Callable[[], list[Instruction]]] = field(default_factory=asyncio.Queue)
    _collector: Collector = field(init=False)
    _ending: Halt | Regroup | Finish | None = None
    _superseded: asyncio.Event = field(default_factory=asyncio.Event)
    _superseded_by: str = ""

    def __post_init__(self) -> None:
        self.above_term = self.term
        self._collector = Collector(self.office)
        self.posts = Posts(self.office.endpoint, self._on_lost, self._on_superseded, self._slack_s)
        self._departures = Departures(self.office, self.posts, self.changes, self.term)
        self._gathering = Gathering(
            self.office,
            self.posts,
            self.changes,
            self.checkpoint,
            self.term,
            self.old_plan,
            self.min_hosts,
            self.min_owners,
        )

    @property
    def term(self) -> int:
        """That we lead."""
        return self.candidacy.term

    def _slack_s(self, peer: str) -> float:
        """A boundary tensor of every microbatch of a window may lie before a member's answer on its line."""
        facts = self.office.roster.announced.get(peer)
        if facts is None or self.plan is None:
            return 0.0
        config, line = self.office.config, max(1.0, min(facts.up_bytes_per_s, facts.down_bytes_per_s))
        values = config.microbatch_tokens * self.office.layout.hidden_size
        return min(_MOST_SLACK_S, self.plan.window * encoded_bytes(config.numerics.boundary_codecs[0], values) / line)

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> Regroup | None:
        """From the grants to the last step.

        Returns:
            None when the run is finished; else why its members must be gathered again.

        Raises:
            RunError: the run cannot go on.
            CheckpointError: the last checkpoint could not be written.
        """
        self.office.endpoint.on_request(Reports, self._on_reports)
        for peer, holdings in self.candidacy.holdings.items():
            if self.office.roster.enlist(peer) is not None:
                self._gathering.granted(peer, holdings)
                self.office.status.on_state(peer, "here")
        try:
            return await beside(self._to_the_end(), self._keep_asking())
        finally:
            self._collector.cancel()

    async def _to_the_end(self) -> Regroup | None:
        gathered = await self._gathered()
        if gathered is None:
            return Regroup(self._superseded_by, -1)
        if gathered.plan.first_step >= self.office.config.schedule.steps:
            await self._keep_the_end(gathered)
            return None
        return await self._lead(gathered)

    async def _keep_the_end(self, gathered: Gathered) -> None:
        """The leader before us committed the last step, but may not have kept its checkpoint."""
        last = Applied(gathered.plan.first_step, (), gathered.plan, checkpoint=True)
        self._collector.start(last, frozenset(), gathered.cursors)
        await self._collector.last()

    async def close(self) -> None:
        """Another term begins, here or elsewhere."""
        await self.posts.close()

    async def send_home(self, problem: str) -> None:
        """Tell every member that the run is over, and why if it should not be."""
        await self._departures.send_home(problem)

    async def _gathered(self) -> Gathered | None:
        """None where another scheduler was preferred meanwhile."""
        gathering = asyncio.create_task(self._gathering.run())
        superseded = asyncio.create_task(self._superseded.wait())
        try:
            await asyncio.wait([gathering, superseded], return_when=asyncio.FIRST_COMPLETED)
            return gathering.result() if gathering.done() else None
        finally:
            gathering.cancel()
            superseded.cancel()

    async def _lead(self, gathered: Gathered) -> Regroup | None:
        office, schedule = self.office, self.office.config.schedule
        self._leader = StepLeader(
            plan=gathered.plan,
            term=self.term,
            global_batch=office.config.batch.global_batch_microbatches,
            microbatch_tokens=office.config.microbatch_tokens,
            next_step=gathered.plan.first_step,
            num_steps=schedule.steps,
            checkpoint_every_steps=schedule.checkpoint_every_steps,
            cursors=dict(gathered.cursors),
            has_rivals=self.has_rivals,
            staleness=schedule.staleness,
            is_paused=self.is_paused,
        )
        self._send_plan(gathered.plan)
        self.changes.begin(gathered.plan)
        self.changes.wake = lambda: self._events.put_nowait(list)
        office.status.started_at_s = time.time()
        self._events.put_nowait(self._leader.start)
        await beside(self._lead_to_the_end(self._leader), self.changes.keep_solving())
        if isinstance(self._ending, Halt):
            where = f"stage {self._ending.stage}: " if self._ending.stage >= 0 else ""
            raise RunError(where + self._ending.problem, "see the audit log; the last checkpoint is whole")
        if isinstance(self._ending, Regroup):
            return self._ending
        await self._collector.last()
        return None

    async def _lead_to_the_end(self, leader: StepLeader) -> None:
        while self._ending is None:
            event = await self._events.get()
            was_paused = leader.phase is Phase.PAUSED
            instructions = event()
            if was_paused and leader.phase is not Phase.PAUSED:
                self.office.status.goes_on()
                self.office.tell({"event": "run_unpaused", "step": leader.step})
            self.office.status.enter(leader.phase.value, time.monotonic())
            await self._carry_out(instructions)
            self.office.status.waiting_for = leader.waiting_for
            if leader.phase is Phase.PAUSED and not was_paused:
                self.office.tell({"event": "run_paused", "step": leader.step})
            self._replan()

    def pause(self, is_paused: bool) -> None:
        """The admin pauses the run after the open step, or lets it go on."""
        if is_paused == self.is_paused:
            return
        self.is_paused = is_paused
        if self._leader is not None:
            self._events.put_nowait(self._leader.pause if is_paused else self._leader.unpause)

    def rival_seen(self) -> None:
        """A standby follows: from now on half of the members may obey it, for all we know."""
        self.has_rivals = True
        if self._leader is not None:
            self._leader.has_rivals = True

    # --- instructions ----------------------------------------------------------------------------------------------

    async def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Send(peer, message):
                    self.posts.post(peer, message)
                case NewPlan(plan):
                    self._send_plan(plan)
                    self.changes.holds(plan)
                case Record():
                    await self._record(instruction)
                case CheckPeers(peers):
                    await self._check(peers)
                case Lost(peer, problem, away_s):
                    self._on_lost(peer, problem, away_s)
                case Applied(checkpoint=True):
                    assert self._leader is not None
                    self._collector.start(instruction, frozenset(self._leader.lost), self._leader.cursors)
                case ShadowIsCurrent(peer, span):
                    self.changes.shadow_is_current(peer, span)
                case ShadowIsGone(peer, span, problem):
                    self.changes.shadow_is_gone(peer, span, problem)
                case PlanChangeOff(problem, culprit):
                    self.changes.called_off(problem, culprit)
                case Halt() | Regroup() | Finish():
                    self._ending = instruction

    def _send_plan(self, plan: Plan) -> None:
        office = self.office
        self.plan = plan
        self.sealed_plan = seal(office.identity, plan)
        office.log.append_plan(plan.number, plan.first_step, plan.predicted_tokens_per_s)
        office.status.plan = plan
        for peer in sorted({peer for group in plan.groups for peer in group} | office.roster.members.keys()):
            self.posts.post(peer, AssignPlan(term=self.term, sealed=self.sealed_plan))
        office.tell({"event": "plan"} | plan_json(plan))

    async def _record(self, record: Record) -> None:
        phase = self.office.status.phase
        self.office.status.enter("recording", time.monotonic())
        await self.office.on_disk(self.office.log.append_step, record, self.term, time.time())
        self.office.status.enter(phase, time.monotonic())
        self.office.tell(self.office.status.on_step(record))
        assert self.plan is not None
        self.changes.committed(self.plan, [done.route for _, done in record.work])
        self._departures.let_go(self.plan)

    async def _check(self, peers: tuple[str, ...]) -> None:
        """Whoever does not answer now is lost; then the leader may go on."""
        assert self._leader is not None
        for peer, lives in (await self.posts.alive(peers)).items():
            if not lives:
                self._on_lost(peer, "it did not answer after a failed round")
        self._events.put_nowait(self._leader.checked)

    # --- another plan ----------------------------------------------------------------------------------------------

    def _replan(self) -> None:
        """Propose what was decided, when the leader can take it and no checkpoint is on its way."""
        assert self._leader is not None
        if self._ending is not None or self._leader.is_changing or self._collector.is_busy:
            return
        target = self.changes.target()
        if target is None:
            self._leader.load_shadows()
            return
        if self._leader.propose(target):
            self.changes.proposed()
        else:
            self.changes.called_off("too many of its peers were lost")

    # --- members ---------------------------------------------------------------------------------------------------

    async def _keep_asking(self) -> None:
        """Peers that announced themselves since the election, or come back, are asked to obey."""
        while True:
            peers = self.office.roster.to_be_asked(time.monotonic())
            await asyncio.gather(*(self._ask(peer) for peer in peers))
            for peer, facts in self.office.roster.relined().items():
                self.changes.relined(peer, facts)
            await asyncio.sleep(_LOOK_S if self._leader is None else _LATE_LOOK_S)

    async def _ask(self, peer: str) -> None:
        leader = self._leader
        if leader is not None and not leader.returned(peer):
            return
        try:
            number = self.candidacy.plan_number if self.plan is None else self.plan.number
            reply = await claim(self.office, peer, self.term, number)
        except SwarmError:
            return
        if isinstance(reply, Denied):
            self._on_denied(peer, reply)
            return
        facts = self.office.roster.enlist(peer)
        if facts is None:
            return
        self.posts.welcome_back(peer)
        self.office.status.on_state(peer, "here")
        if self._leader is None:
            self._gathering.granted(peer, reply.holdings)
            return
        self.posts.post(peer, StartOver(term=self.term))
        self.posts.post(peer, AssignPlan(term=self.term, sealed=self.sealed_plan))
        self.changes.joined(peer, facts)

    def _on_denied(self, peer: str, reply: Denied) -> None:
        """A member on the other side of a split may have granted this term, or a later one, to who leads nobody now.

        Only a higher term brings it back. Where its leader does lead, our members will say so when we claim that.
        """
        if reply.term < self.term or reply.leader == self.office.peer_id:
            return
        if reply.leader_lives:
            self.office.warn(f"{peer} obeys scheduler {reply.leader} since term {reply.term}")
        else:
            self.above_term = max(self.above_term, reply.term)
            self._on_superseded(f"{peer} granted term {reply.term} to another scheduler: a higher one is needed")

    def _on_superseded(self, problem: str) -> None:
        self._superseded_by = problem
        self._superseded.set()
        self._events.put_nowait(lambda: [Regroup(problem, -1)])

    async def expel(self, peer: str) -> None:
        """The admin sent it away: it is told, while it still may be, and no plan counts on it any more."""
        await self._departures.dismiss(peer)
        self._on_lost(peer, "the admin revoked its membership")

    def _on_lost(self, peer: str, problem: str, away_s: float = 0.0) -> None:
        leader = self._leader
        if peer not in self.office.roster.members:
            return
        self.office.roster.lose(peer, time.monotonic(), away_s)
        step = self.office.log.num_steps if leader is None else leader.step
        self.office.log.append_loss(peer, step, problem)
        self.office.tell({"event": "lost", "peer": peer, "problem": problem, "step": step})
        self.office.status.on_state(peer, "lost")
        self.changes.lost(peer)
        if leader is None:
            self._gathering.lost(peer)
        else:
            self._events.put_nowait(lambda: leader.peer_lost(peer))

    async def _on_reports(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Reports)
        for report in unpack(delivery.message):
            self._take_report(delivery.remote_id, report)
        return Reply(Ack())

    def _take_report(self, peer: str, report: object) -> None:
        if isinstance(report, Heartbeat):
            self.office.status.on_heartbeat(peer, report)
            self.changes.observed(peer, report.layer_seconds)
        elif isinstance(report, Leaving):
            if self.plan is not None and self._leader is not None:
                self._departures.wish(peer, self.plan)
        elif isinstance(report, SuspectPeer):
            self.office.tell({"event": "suspect", "peer": report.peer, "by": peer, "problem": report.problem})
            self.posts.poke(report.peer)
        elif self._leader is not None:
            leader = self._leader
            self._events.put_nowait(lambda: self._lead_on(leader, peer, report))
        elif isinstance(report, GroupLoaded):
            self._gathering.loaded(peer, report)
        elif isinstance(report, GroupNotLoaded) and self._gathering.not_loaded(peer, report):
            self._on_lost(peer, f"it cannot load its layers: {report.problem}")

    def _lead_on(self, leader: StepLeader, peer: str, report: object) -> list[Instruction]:
        match report:
            case MicrobatchDone():
                return leader.done(peer, report)
            case StepClosed():
                return leader.closed(peer, report)
            case RoundReduced():
                return leader.reduced(peer, report)
            case RoundFailed():
                self.office.tell({"event": "round_failed", "peer": peer, "problem": report.problem})
                return leader.failed(peer, report)
            case CannotContinue():
                return leader.cannot_continue(peer, report)
            case GroupLoaded():
                return leader.group_loaded(peer, report)
            case GroupNotLoaded():
                return leader.group_not_loaded(peer, report)
            case StepApplied():
                self.office.log.note_weights(report.step + 1, report.stage, peer, report.digest)
                return leader.applied(peer, report)
        return []
