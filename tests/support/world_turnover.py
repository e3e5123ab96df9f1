"""A world whose leaders die, too: members grant terms, and a new leader goes on from what they can bring.

The old leader's last orders may still arrive, or never; members that grant late are not in the new plan; the new
leader's own ledger may lack the last step.
"""

from __future__ import annotations

from dataclasses import replace

from peers.allegiance import Answer
from scheduler.candidacy import Candidacy, Outcome, voters_of
from scheduler.followers import first_transfer
from scheduler.recovery import NO_ROUND, Ledger, State, newest_state, plan_as_before
from scheduler.step import Phase, StepLeader
from scheduler.step_record import unpack
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import (
    Claim,
    Denied,
    Granted,
    GroupLoaded,
    Holding,
    PrepareGroup,
    Regroup,
    RoundKey,
    StartOver,
)
from tests.support.world import World
from tests.support.world_members import Journaled, Member


class TurnoverWorld(World):
    """Runs one schedule in which leaders die `turnovers` times."""

    def __init__(self, seed: int, *, turnovers: int, **options: int) -> None:
        super().__init__(seed, **options)
        self.turnovers_left = turnovers
        self.keys: list[RoundKey] = []
        self.candidacy: Candidacy | None = None
        self.waiting_for: set[tuple[Span, str]] = set()
        self.next_plan: Plan | None = None
        self.log_steps = 0

    # --- events ----------------------------------------------------------------------------------------------------

    def one_event(self) -> None:
        is_led = self.candidacy is None and self.next_plan is None
        if is_led and self.turnovers_left and self.random.random() < 0.01 and self.has_living_majority():
            self.leader_dies()
            return
        deaths, changes = self.deaths_left, self.changes_left
        if not is_led:
            self.deaths_left = self.changes_left = 0  # who dies now may be the last who holds something
        super().one_event()
        if not is_led:
            self.deaths_left, self.changes_left = deaths, changes

    def has_living_majority(self) -> bool:
        voters = voters_of(self.plan)
        groups_live = all(set(names) - self.dead for names in self.plan.groups)
        # In the window of a plan change, the journals of spans that members left would help; they are not modelled.
        nobody_moves = all(
            member.plan == self.plan.number and (member.replica is not None or not self.plan.groups_of(member.name))
            for member in self.living()
        )
        return groups_live and nobody_moves and 2 * len(voters - self.dead) > len(voters)

    def living(self) -> list[Member]:
        return [member for member in self.members.values() if member.name not in self.dead]

    def leader_dies(self) -> None:
        """Of its last orders to every member, some are lost; a candidate asks everybody who lives."""
        self.turnovers_left -= 1
        self.fired["leader died"] += 1
        for (sender, _), queue in self.queues.items():
            if sender == self.leader_name:
                for _ in range(self.random.randint(0, len(queue))):
                    queue.pop()
        self.pending_checks.clear()
        term = self.leader.term + 1
        self.leader_name = f"leader-{term}"
        self.candidacy = Candidacy(term, self.plan.number, voters_of(self.plan))
        # The same scheduler started again has the whole ledger; a standby may lack the last step. (Not right after a
        # plan change: who comes late to a plan has no record of the step before, and those who have may be away.)
        lag = self.random.randint(0, 1) if self.plan.first_step < len(self.records) else 0
        self.log_steps = max(0, len(self.records) - lag)
        for member in self.living():
            self.send(self.leader_name, member.name, Claim(term=term, plan=self.plan.number))

    def deliver(self, sender: str, receiver: str, message: object) -> None:
        if isinstance(message, Claim):
            self.on_claim(self.members[receiver], sender, message)
        elif isinstance(message, Granted | Denied):
            self.on_vote(sender, receiver, message)
        elif receiver not in self.members and (self.candidacy is not None or self.next_plan is not None):
            if receiver == self.leader_name and isinstance(message, GroupLoaded):
                self.on_ready(sender, message)
            else:
                self.fired["report between leaders"] += 1
        elif isinstance(message, Regroup):
            if sender == self.members[receiver].allegiance.leader:
                self.on_regroup(self.members[receiver], message)
        elif isinstance(message, StartOver):
            if sender == self.members[receiver].allegiance.leader and not self.plan.groups_of(receiver):
                self.fired["started over"] += 1
                self.forget(self.members[receiver])
        else:
            super().deliver(sender, receiver, message)

    # --- votes -----------------------------------------------------------------------------------------------------

    def on_claim(self, member: Member, candidate: str, claim: Claim) -> None:
        knows_plan = claim.plan >= member.plan
        answer = member.allegiance.answer(candidate, claim.term, knows_plan=knows_plan)
        if answer is Answer.ASK:
            answer = member.allegiance.answer(candidate, claim.term, knows_plan=knows_plan, leader_lives=False)
        if answer is Answer.DENY:
            denied = Denied(term=member.allegiance.term, leader=member.allegiance.leader, leader_lives=False, plan=b"")
            self.send(member.name, candidate, denied)
            return
        member.allegiance.grant(candidate, claim.term)
        self.send(member.name, candidate, Granted(term=claim.term, holdings=self.holdings(member), run_is_paused=False))

    def holdings(self, member: Member) -> tuple[Holding, ...]:
        if member.replica is None and not member.weights:
            return ()
        committed = len(member.weights)
        journaled = member.journaled if member.journaled and member.journaled.step == committed else None
        first_layer, last_layer = member.span
        return (
            Holding(
                first_layer=first_layer,
                last_layer=last_layer,
                first_steps=max(member.base, committed - self.random.randint(0, 2)),
                committed_steps=committed,
                last_steps=committed + (journaled is not None),
                committed_key=member.key,
                last_key=member.key if journaled is None else journaled.key,
                grad_norm=1.0 if committed and member.key != NO_ROUND else 0.0,
                square_norm=0.0 if journaled is None else 1.0,
            ),
        )

    def on_vote(self, peer: str, candidate: str, reply: Granted | Denied) -> None:
        candidacy = self.candidacy
        if candidacy is None or candidate != self.leader_name:
            self.fired["late vote"] += 1
            if isinstance(reply, Granted) and candidate == self.leader_name:
                self.send(candidate, peer, StartOver(term=reply.term))
            return
        if isinstance(reply, Denied):
            candidacy.denied(peer, reply, 0)
            return
        candidacy.granted(peer, reply)
        everybody = candidacy.holdings.keys() >= {member.name for member in self.living()}
        here = set(candidacy.holdings)
        groups_here = all(here & set(names) for names in self.plan.groups)
        if candidacy.outcome is Outcome.WON and (everybody or (groups_here and self.random.random() < 0.3)):
            self.fired["elected early" if not everybody else "elected by all"] += 1
            self.regroup(candidacy, everybody=everybody)

    # --- the state to go on from -----------------------------------------------------------------------------------

    def regroup(self, candidacy: Candidacy, *, everybody: bool) -> None:
        keys = {step: key for step, key in enumerate(self.keys) if step < self.log_steps}
        ledger = Ledger(self.log_steps, keys, 1.0 if self.log_steps else 0.0)
        state = newest_state(candidacy.holdings, ledger, (0, self.num_layers), None)
        newest = max((held.committed_steps for holdings in candidacy.holdings.values() for held in holdings), default=0)
        if state.num_steps < max(newest, self.log_steps) and not everybody:
            self.fired["waited for holders"] += 1
            return
        if not everybody and not all(
            self.records_of(candidacy, state, step) for step in range(self.log_steps, state.num_steps)
        ):
            self.fired["waited for the ledger"] += 1
            return
        assert state.num_steps >= len(self.records), "a committed step is lost"
        assert state.num_steps <= len(self.records) + 1
        self.settle_ledger(candidacy, state)
        plan = plan_as_before(self.plan, state, self.plan.number + 1)
        if plan is None:
            gone = frozenset(self.members) - candidacy.holdings.keys()
            plan = self.plan.without(gone, state.num_steps)
            assert all(plan.groups)
            self.fired["members load before the first step"] += 1
        self.candidacy, self.next_plan, self.plan = None, plan, plan
        self.undetected = [name for name in self.undetected if plan.groups_of(name)]
        self.order(candidacy, state, plan)

    def records_of(self, candidacy: Candidacy, state: State, step: int) -> list[Journaled]:
        """What members who are here keep of a step's ledger."""
        return [
            kept
            for peer in sorted(candidacy.holdings)
            for kept in (self.members[peer].records.get(step), self.members[peer].journaled)
            if kept is not None
            and kept.step == step
            and kept.record
            and (step + 1 < state.num_steps or state.key in (NO_ROUND, kept.key))
        ]

    def settle_ledger(self, candidacy: Candidacy, state: State) -> None:
        """Some member has what our ledger lacks, also of the step that the old leader may not have committed."""
        for step in range(self.log_steps, state.num_steps):
            found = self.records_of(candidacy, state, step)
            assert found, f"nobody has the ledger of step {step}"
            record = unpack(found[0].record, 1.0)
            if step < len(self.records):
                assert record.work == self.records[step].work, "two ledgers of one step"
            else:
                self.fired["committed by the next leader"] += 1
                self.leader = replace_term(self.leader, state.key.term)
                self.check_record(record)

    def order(self, candidacy: Candidacy, state: State, plan: Plan) -> None:
        term = candidacy.term
        cursors: dict[str, int] = {}
        for record in self.records:
            for owner, done in record.work:
                cursors[owner] = max(cursors.get(owner, 0), done.cursor + 1)
        for peer in candidacy.holdings:
            order = Regroup(
                term=term,
                num_steps=state.num_steps,
                key=state.key,
                grad_norm=state.grad_norm,
                share=bool(state.spans_of(peer)),
            )
            self.send(self.leader_name, peer, order)
        for group, names in enumerate(plan.groups):
            first_layer, last_layer = plan.span_of(group)
            for peer in names:
                self.waiting_for.add((plan.span_of(group), peer))
                load = PrepareGroup(
                    term=term,
                    transfer=first_transfer(term),
                    num_steps=state.num_steps,
                    first_layer=first_layer,
                    last_layer=last_layer,
                    next_cursor=cursors.get(peer, 0),
                    donors=tuple(sorted(state.holders or {})),
                )
                self.send(self.leader_name, peer, load)
        self.leader = StepLeader(
            plan,
            term,
            self.leader.global_batch,
            self.leader.microbatch_tokens,
            state.num_steps,
            self.leader.num_steps,
            self.leader.checkpoint_every_steps,
            cursors,
            staleness=self.staleness,
        )

    def on_ready(self, peer: str, report: GroupLoaded) -> None:
        if self.next_plan is None or report.transfer != first_transfer(self.leader.term):
            return  # of a plan change that the old leader had begun
        assert report.num_steps == self.next_plan.first_step
        self.waiting_for.discard(((report.first_layer, report.last_layer), peer))
        if self.waiting_for:
            return
        plan, self.next_plan = self.next_plan, None
        for name in self.members:
            self.send(self.leader_name, name, plan)
        if plan.first_step == self.leader.num_steps:
            self.leader.phase, self.leader.step = Phase.FINISHED, plan.first_step
            self.finished = True
            return
        self.carry_out(list(self.leader.start()))

    # --- members ---------------------------------------------------------------------------------------------------

    def on_regroup(self, member: Member, order: Regroup) -> None:
        weights: list | None = list(member.weights) if member.replica is not None or member.weights else None
        if weights is not None and len(weights) == order.num_steps - 1:
            kept = member.journaled
            if kept is not None and kept.step == len(weights) and kept.key == order.key:
                weights.append(kept.average)
                member.records[kept.step] = kept
                member.key = kept.key
                self.fired["applied under the next leader"] += 1
        if weights is not None and len(weights) < order.num_steps:
            weights = None
        elif weights is not None and len(weights) > order.num_steps:
            raise AssertionError("a member had applied what nobody committed")
        member.brought = None if weights is None else (member.span, weights)
        member.weights = weights or []
        brought = member.brought
        self.forget(member)
        member.brought, member.weights = brought, weights or []
        member.copies = {order.num_steps: member.brought} if order.share and member.brought else {}

    def forget(self, member: Member) -> None:
        member.replica = member.window = member.shadow = member.adopting = member.average = None
        member.journaled = member.brought = None
        member.weights = []
        member.contributions.clear()
        member.back_contributions.clear()
        member.waiting.clear()
        member.shared, member.copies, member.loads, member.left = {}, {}, {}, {}

    def on_prepare(self, member: Member, order: PrepareGroup) -> None:
        super().on_prepare(member, order)
        load = member.loads[order.first_layer, order.last_layer]
        span = (order.first_layer, order.last_layer)
        brought = (span, []) if order.num_steps == 0 else member.brought
        if brought is not None and brought[0] == span and len(brought[1]) == order.num_steps:
            load.weights = list(brought[1])
            self.report_loaded(member, load)
            member.brought = None

    def check_record(self, record) -> None:
        super().check_record(record)
        if len(self.keys) < len(self.records):
            self.keys.append(RoundKey(self.leader.term, record.round))


def replace_term(leader: StepLeader, term: int) -> StepLeader:
    """For `check_record`: the rounds of a step that its leader had prepared."""
    return replace(leader, term=term)
