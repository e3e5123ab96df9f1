"""Between an election and the first step: which state the members go on from, under which plan, until all hold it.

A first start, a restart after everything was killed, another scheduler's turn, and a stage that lost its last host all
come this way; they differ in what members can bring.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.audit_log import AuditLog
from scheduler.followers import first_transfer
from scheduler.office import Office
from scheduler.own_checkpoint import OwnCheckpoint
from scheduler.plan_changes import PlanChanges
from scheduler.posts import Posts
from scheduler.recovery import NO_ROUND, Ledger, State, newest_state, plan_as_before
from scheduler.step_record import unpack
from swarm.errors import ModelTooLarge, RunError, SwarmError
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import (
    AskRecord,
    GroupLoaded,
    GroupNotLoaded,
    Holding,
    PrepareGroup,
    RecordFound,
    Regroup,
)

_PATIENCE_S = 20.0
"""For members that hold newer states than those who are here; longer where computing again would take longer."""
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Gathered:
    """Every member of the plan holds the state after `plan.first_step` steps."""

    plan: Plan
    cursors: Mapping[str, int]


@dataclass(slots=True)
class Gathering:
    """One term's.

    Args:
        term: that members granted.
        old_plan: of the leader before, if its members should go on with it.
        min_hosts, min_owners: to wait for.
    """

    office: Office
    posts: Posts
    changes: PlanChanges
    checkpoint: OwnCheckpoint
    term: int
    old_plan: Plan | None
    min_hosts: int
    min_owners: int
    holdings: dict[str, tuple[Holding, ...]] = field(default_factory=dict)
    _plan: Plan | None = None
    _ready: dict[tuple[Span, str], str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # --- events ----------------------------------------------------------------------------------------------------

    def granted(self, peer: str, holdings: tuple[Holding, ...]) -> None:
        """A member obeys us, and can bring these states."""
        self.holdings[peer] = holdings
        self._changed.set()

    def lost(self, peer: str) -> None:
        """A member is gone."""
        self.holdings.pop(peer, None)
        self._ready = {key: digest for key, digest in self._ready.items() if key[1] != peer}
        if self._plan is not None:
            self._plan = self._plan.without(frozenset({peer}), self._plan.first_step)
        self._changed.set()

    def loaded(self, peer: str, report: GroupLoaded) -> None:
        """A member holds a group's state."""
        if self._plan is None or report.transfer != self._transfer or report.num_steps != self._plan.first_step:
            return
        self._ready[(report.first_layer, report.last_layer), peer] = report.digest
        self._changed.set()

    def not_loaded(self, peer: str, report: GroupNotLoaded) -> bool:
        """A member cannot; whether that was asked of it."""
        return report.transfer == self._transfer

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> Gathered:
        """Until every member of a plan holds the same state.

        Raises:
            ModelTooLarge: the members of a new run cannot hold the model.
            RunError: they cannot be arranged as the admin asked; or replicas of one group hold different weights.
        """
        while True:
            state, plan = await self._decide()
            await self._settle_ledger(state)
            gathered = await self._load(state, plan)
            if gathered is not None:
                return gathered
            self.office.warn("a group lost all of its members before the first step; gathering again")

    async def _decide(self) -> tuple[State, Plan]:
        """Wait for members until they can bring a state and carry the model."""
        waiting_for = ""
        since_s = time.monotonic()
        while True:
            problem = self._missing()
            if not problem:
                state = self._state()
                newest = self._newest
                if state.num_steps >= newest or time.monotonic() - since_s > self._patience_s(newest - state.num_steps):
                    try:
                        return state, await self._plan_for(state)
                    except (ModelTooLarge, RunError) as error:
                        if not self.office.log.last_plan:
                            raise  # nobody was ever at work: the admin should hear it now
                        problem = f"more hosts: {error.problem}"
                else:
                    problem = f"members that hold step {newest}; those here can go on from step {state.num_steps}"
            if problem != waiting_for:
                waiting_for = problem
                self.office.tell({"event": "waiting", "for": problem})
                self.office.status.phase = f"waiting for {problem}"
            await self._news()

    def _patience_s(self, num_lost: int) -> float:
        return max(_PATIENCE_S, num_lost * self.office.log.step_s)

    async def _news(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._changed.wait()
        except TimeoutError:
            return

    def _missing(self) -> str:
        roster = self.office.roster
        hosts = max(0, self.min_hosts - len(roster.hosts))
        owners = max(0, self.min_owners - len(roster.owners))
        return f"{hosts} more hosts and {owners} more owners" if hosts or owners else ""

    # --- which state -----------------------------------------------------------------------------------------------

    def _state(self) -> State:
        return newest_state(self.holdings, ledger_of(self.office.log), self._trunk, self.checkpoint.num_steps)

    @property
    def _newest(self) -> int:
        """The newest state that anybody knows to be committed."""
        held = [each.committed_steps for holdings in self.holdings.values() for each in holdings]
        return max([self.office.log.num_steps, *held])

    @property
    def _trunk(self) -> Span:
        trunk = self.office.layout.trunk
        return trunk.first, trunk.last

    async def _settle_ledger(self, state: State) -> None:
        """Let our ledger end where the run goes on: owners kept what we have not heard of."""
        log = self.office.log
        until_s = time.monotonic() + _PATIENCE_S  # for all of them
        for step in range(log.num_steps, state.num_steps):
            grad_norm = state.grad_norm if step + 1 == state.num_steps else 0.0
            while not (found := await self._fetch_record(state, step, grad_norm)) and time.monotonic() < until_s:
                await self._news()  # of members that are late
            if not found:
                self.office.warn(f"no member has the ledger of step {step}; it is with the scheduler that led it")
        if log.num_steps > state.num_steps:
            log.rewind(state.num_steps)

    async def _fetch_record(self, state: State, step: int, grad_norm: float) -> bool:
        for peer in sorted(self.holdings, key=lambda peer: (peer not in (state.holders or {}), peer)):
            try:
                reply, data = await self.office.endpoint.request(peer, AskRecord(step=step))
                if isinstance(reply, RecordFound) and data:
                    if step + 1 == state.num_steps and state.key not in (NO_ROUND, reply.key):
                        continue  # of a round that was given up
                    record = unpack(data, grad_norm or reply.grad_norm)
                    self.office.log.append_step(record, reply.key.term, time.time())
                    return True
            except SwarmError:
                continue
        return False

    # --- which plan ------------------------------------------------------------------------------------------------

    async def _plan_for(self, state: State) -> Plan:
        number = max(self.office.log.last_plan, 0 if self.old_plan is None else self.old_plan.number) + 1
        if self.old_plan is not None and (plan := plan_as_before(self.old_plan, state, number)) is not None:
            return plan
        question = self.changes.survey()
        for note in question.notes:
            self.office.warn(note)
        found = await asyncio.to_thread(self.changes.planner, question.instance)
        rate = found.evaluation.tokens_per_s
        self.office.tell(self.office.status.certify(rate, found.bound_tokens_per_s, question))
        return self.changes.draft.plan(question.instance, found.assignment, number=number, first_step=state.num_steps)

    # --- until all of them hold it ---------------------------------------------------------------------------------

    @property
    def _transfer(self) -> int:
        return first_transfer(self.term)

    async def _load(self, state: State, plan: Plan) -> Gathered | None:
        """Everybody goes to the state; None where a group is empty before that."""
        self._plan, self._ready = plan, {}
        cursors = {**self.checkpoint.cursors_at(state.num_steps), **self.office.log.cursors}
        self._order(state, plan, cursors)
        self.office.status.phase = "members get their layers ready"
        told = -1
        while missing := self._still_loading():
            if missing != told:
                self.office.tell({"event": "building", "missing": missing})
                told = missing
            await self._news()
        if missing is None:
            return None
        for group, peers in enumerate(self._plan.groups):
            span = self._plan.span_of(group)
            if len({self._ready[span, peer] for peer in peers}) > 1:
                raise RunError(
                    f"the replicas of stage {group} hold different weights after {state.num_steps} steps",
                    "run the same torch version and processor kind in a stage",
                )
        return Gathered(self._plan, cursors)

    def _order(self, state: State, plan: Plan, cursors: Mapping[str, int]) -> None:
        movers = [
            (peer, plan.span_of(group))
            for group, peers in enumerate(plan.groups)
            for peer in peers
            if plan.span_of(group) not in state.spans_of(peer)
        ]
        # After the last step, only the checkpoint may be missing: it is made from the copies.
        is_over = state.num_steps >= self.office.config.schedule.steps
        for peer in sorted(self.holdings):
            order = Regroup(
                term=self.term,
                num_steps=state.num_steps,
                key=state.key,
                grad_norm=state.grad_norm,
                share=(bool(movers) or is_over) and bool(state.spans_of(peer)),
            )
            self.posts.post(peer, order)
        donors = tuple(sorted(state.holders or {}))
        if state.num_steps == self.checkpoint.num_steps:
            donors = (*donors, self.office.peer_id)
        for group, peers in enumerate(plan.groups):
            first_layer, last_layer = plan.span_of(group)
            for peer in peers:
                load = PrepareGroup(
                    term=self.term,
                    transfer=self._transfer,
                    num_steps=state.num_steps,
                    first_layer=first_layer,
                    last_layer=last_layer,
                    next_cursor=cursors.get(peer, 0),
                    donors=donors,
                )
                self.posts.post(peer, load)

    def _still_loading(self) -> int | None:
        """How many; None where a group has nobody left."""
        assert self._plan is not None
        if not all(self._plan.groups):
            return None
        expected = {
            (self._plan.span_of(group), peer) for group, peers in enumerate(self._plan.groups) for peer in peers
        }
        return len(expected - self._ready.keys())


def ledger_of(log: AuditLog) -> Ledger:
    """What members' claims are held against."""
    return Ledger(log.num_steps, log.keys, log.grad_norm)
