"""A swarm of the production state machines on an adversarial network, without tensors or clocks.

Plans change at any moment: hosts get other spans, standbys a first one, owners come in. What a member loads is
modelled by the list of averages that its weights are made of.

Messages between two peers stay in order, as on a stream, but may come twice; between different pairs they interleave
at will. Peers die at any moment, rounds fail at any moment, frames and hops get lost. A group's gradient is modelled
by what it counted, so that every invariant is a statement about sets.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

from peers.replica import Replica
from peers.window import Window
from scheduler.instructions import (
    Applied,
    CheckPeers,
    Finish,
    Halt,
    Lost,
    NewPlan,
    PlanChangeOff,
    Record,
    Send,
    ShadowIsCurrent,
    ShadowIsGone,
)
from scheduler.step import Phase, StepLeader
from swarm.model.spans import ENDS, Span
from swarm.plan import Plan, StagePlan
from swarm.wire.messages import (
    BoundaryTensor,
    GroupLoaded,
    GroupNotLoaded,
    HopFailed,
    Lease,
    MicrobatchDone,
    RoundFailed,
    RoundReduced,
    StepApplied,
    StepClosed,
)
from tests.support.world_members import TOKENS, Member, Members


class World(Members):
    """Runs one schedule of events drawn from a seed."""

    def __init__(
        self,
        seed: int,
        *,
        stages: int,
        replicas: int,
        owners: int,
        batch: int,
        steps: int,
        deaths: int,
        changes: int = 0,
        staleness: int = 0,
        pauses: int = 0,
    ):
        self.random = random.Random(seed)
        self.staleness = staleness
        self.deaths_left = deaths
        self.changes_left = changes
        self.pauses_left = pauses
        self.fired: Counter[str] = Counter()
        hosts = [[f"h{stage}.{index}" for index in range(replicas)] for stage in range(stages)]
        plan = self.make_plan([(2 * stage, 2 * stage + 2) for stage in range(stages)], hosts, owners)
        self.num_layers = 2 * stages
        self.members = {
            name: Member(
                name,
                Replica(group, 1, 0, staleness),
                plan.span_of(group),
                Window(name, plan, 0, 0, staleness) if group == stages else None,
            )
            for group, names in enumerate(plan.groups)
            for name in names
        }
        if changes:
            for name in ("h9.0", "h9.1", "o9"):
                self.members[name] = Member(name, None, ENDS)
        self.plan = plan
        self.leader_name = "leader-1"
        self.leader = StepLeader(plan, 1, batch, TOKENS, 0, steps, 3, staleness=staleness)
        self.queues: dict[tuple[str, str], deque[object]] = {}
        self.rounds: dict[tuple[int, int, int, int], dict[str, dict[Lease, int]]] = {}
        self.records: list[Record] = []
        self.cursors: dict[tuple[str, int, Lease], int] = {}  # owner, step, lease: the text it carries
        self.plan_numbers: dict[tuple[str, int], int] = {}  # owner, step: of the plan it sends under
        self.halted: Halt | None = None
        self.finished = False
        self.pending_checks: list[CheckPeers] = []
        self.dead: set[str] = set()
        self.accused: set[str] = set()
        self.undetected: list[str] = []

    @staticmethod
    def make_plan(spans: list[Span], hosts: list[list[str]], owners: int) -> Plan:
        stages = tuple(
            StagePlan(
                first_layer=first,
                last_layer=last,
                replicas=tuple(names),
                routing_weights=(1.0,) * len(names),
                reduce_fractions=(1.0,) * len(names),
            )
            for (first, last), names in zip(spans, hosts, strict=True)
        )
        return Plan(
            number=1,
            fingerprint="",
            first_step=0,
            stages=stages,
            owners=tuple(f"o{index}" for index in range(owners)),
            owner_fractions=(1.0,) * owners,
            standby=(),
            window=2,
            predicted_tokens_per_s=0.0,
        )

    # --- plan changes ----------------------------------------------------------------------------------------------

    def propose(self) -> None:
        """Any other cut of the trunk, any hosts anywhere; owners stay and may get company."""
        self.changes_left -= 1
        hosts = [name for name in self.members if name.startswith("h") and name not in self.dead]
        self.random.shuffle(hosts)
        cuts = self.random.sample(
            range(1, self.num_layers), self.random.randint(0, min(len(hosts), self.num_layers) - 1)
        )
        bounds = [0, *sorted(cuts), self.num_layers]
        spans = list(itertools.pairwise(bounds))
        groups = [[hosts[index]] for index in range(len(spans))]
        for name in hosts[len(spans) :]:
            if self.random.random() < 0.8:
                self.random.choice(groups).append(name)
        if self.random.random() < 0.6 and len(self.plan.groups[:-1]) <= len(hosts):
            spans, groups = self.moved_hosts(hosts)
        target = self.make_plan(spans, groups, 0)
        target = replace(target, stages=tuple(self.shadowed(target.stages, hosts)))
        owners = [name for name in self.members if name.startswith("o") and name not in self.dead]
        kept = [name for name in owners if name in self.plan.owners or self.random.random() < 0.7]
        target = replace(target, owners=tuple(kept), owner_fractions=(1.0,) * len(kept))
        if kept and self.leader.propose(target):
            self.fired["plan proposed"] += 1

    def moved_hosts(self, hosts: list[str]) -> tuple[list[Span], list[list[str]]]:
        """The same cut; a shadow, or anybody, goes to another stage."""
        spans = [self.plan.span_of(group) for group in range(self.plan.ends_stage)]
        groups = [[name for name in names if name in hosts] for names in self.plan.groups[:-1]]
        shadows = [(name, span) for name, span in sorted(self.plan.shadows) if name in hosts]
        name, span = self.random.choice(shadows or [(hosts[0], spans[0])])
        donor = next((names for names in groups if name in names), [])
        if len(donor) > 1 or not donor:
            groups = [[each for each in names if each != name] for names in groups]
            groups[spans.index(span)].append(name)
        return spans, groups

    def shadowed(self, stages: tuple[StagePlan, ...], hosts: list[str]) -> Iterator[StagePlan]:
        """Some of its hosts keep the state of another stage, too; rather of one that they know already."""
        kept = {name: span for name, span in self.plan.shadows if self.random.random() < 0.8}
        kept |= {
            name: span
            for name in hosts
            for span in self.plan.spans_of(name)
            if self.random.random() < 0.5  # whoever moves on keeps the state of what it served
        }
        free = [name for name in hosts if name not in kept and self.random.random() < 0.3]
        for stage in stages:
            span = stage.first_layer, stage.last_layer
            names = [name for name, known in kept.items() if known == span and name in hosts]
            names += [name for name in free if self.random.random() < 0.5]
            free = [name for name in free if name not in names]
            yield replace(stage, shadows=tuple(sorted(set(names) - set(stage.replicas))))

    # --- the network -----------------------------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, message: object) -> None:
        if receiver in self.dead:
            if isinstance(message, BoundaryTensor) and sender not in self.dead:
                self.fired["hop to the dead"] += 1
                self.hop_failed(message, receiver)
            return
        self.queues.setdefault((sender, receiver), deque()).append(message)

    def hop_failed(self, frame: BoundaryTensor, peer: str) -> None:
        if frame.owner not in self.dead:
            report = HopFailed(work=frame.work, peer=peer, problem="")
            self.queues.setdefault(("net", frame.owner), deque()).append(report)

    def run(self, max_events: int = 200_000) -> None:
        self.carry_out(self.leader.start())
        for member in self.members.values():
            self.pump(member)
        for _ in range(max_events):
            if self.halted or self.finished:
                return
            self.one_event()
        raise AssertionError(f"no progress: {self.leader.phase} step {self.leader.step}")

    def one_event(self) -> None:
        if self.pauses_left and self.random.random() < 0.01:
            self.pauses_left -= 1
            self.carry_out(self.leader.pause())
        if self.leader.is_paused and self.random.random() < 0.01:
            self.fired["paused"] += self.leader.phase is Phase.PAUSED
            self.carry_out(self.leader.unpause())
        self.leader.load_shadows()  # no checkpoint is collected here: members' copies are always free
        choice = self.random.random()
        if choice < 0.004 and self.deaths_left:
            self.kill()
            return
        if 0.004 < choice < 0.012 and self.changes_left:
            self.propose()
            return
        if choice < 0.05 and self.undetected:
            self.fired["death noticed"] += 1
            self.carry_out(self.leader.peer_lost(self.undetected.pop(0)))
            return
        if choice < 0.06:
            self.expire()
            return
        queues = [pair for pair, queue in self.queues.items() if queue]
        if not queues:
            self.expire()
            if self.undetected:
                self.carry_out(self.leader.peer_lost(self.undetected.pop(0)))
            elif self.pending_checks:
                self.pending_checks.pop()
                self.carry_out(self.leader.checked())
            return
        sender, receiver = self.random.choice(queues)
        queue = self.queues[sender, receiver]
        message = queue[0]
        if isinstance(message, BoundaryTensor) and self.random.random() < 0.01:
            self.fired["frame lost"] += 1
            queue.popleft()
            self.hop_failed(message, receiver)
            return
        if self.random.random() < 0.03:
            self.fired["delivered twice"] += 1
        else:
            queue.popleft()
        self.deliver(sender, receiver, message)

    def expire(self) -> None:
        owners = [member for member in self.members.values() if member.window is not None]
        if not owners:
            return  # between two leaders
        owner = self.random.choice(owners)
        if owner.name not in self.dead:
            assert owner.window is not None
            if owner.window.overdue(1.0, 0.0 if self.random.random() < 0.5 else 2.0):
                self.fired["overdue"] += 1
            self.pump(owner)

    def expendable(self) -> list[str]:
        """Members that may die, or be given up: every group keeps one that nobody blames."""
        gone = self.dead | self.accused
        living = [[name for name in names if name not in gone] for names in self.plan.groups]
        last_ones = {names[0] for names in living if len(names) == 1}
        if any(self.members[name].plan < self.plan.number for names in living for name in names):
            return []  # anybody may be the last donor of a member that still loads
        return sorted({name for names in living for name in names} - last_ones)

    def kill(self) -> None:
        candidates = self.expendable()
        if not candidates:
            return
        name = self.random.choice(candidates)
        self.deaths_left -= 1
        self.fired["killed"] += 1
        self.bury(name)
        coming = self.leader.coming
        if coming is not None and not all(set(names) - self.dead for names in coming.groups):
            self.carry_out(self.leader.peer_lost(name))  # in time to call the change off
        else:
            self.undetected.append(name)

    def bury(self, name: str) -> None:
        self.dead.add(name)
        for pair in list(self.queues):
            if name in pair:
                frames = self.queues.pop(pair)
                for frame in frames:
                    if pair[1] == name and isinstance(frame, BoundaryTensor) and pair[0] not in self.dead:
                        self.hop_failed(frame, name)

    # --- the leader's shell ----------------------------------------------------------------------------------------

    def carry_out(self, instructions: list[object]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Send):
                self.send(self.leader_name, instruction.peer, instruction.message)
            elif isinstance(instruction, NewPlan):
                self.plan = instruction.plan
                for name in self.members:
                    self.send(self.leader_name, name, instruction.plan)
            elif isinstance(instruction, Record):
                self.check_record(instruction)
            elif isinstance(instruction, Lost):
                self.fired["given up"] += 1
                if instruction.peer not in self.dead:  # for the others, it is as good as that
                    self.bury(instruction.peer)
                if instruction.peer in self.undetected:
                    self.undetected.remove(instruction.peer)
                self.carry_out(self.leader.peer_lost(instruction.peer))
            elif isinstance(instruction, CheckPeers):
                for name in [name for name in instruction.peers if name in self.undetected]:
                    self.undetected.remove(name)
                    self.carry_out(self.leader.peer_lost(name))
                self.pending_checks.append(instruction)
            elif isinstance(instruction, Halt):
                self.halted = instruction
            elif isinstance(instruction, Finish):
                self.finished = True
            elif isinstance(instruction, PlanChangeOff | ShadowIsCurrent | ShadowIsGone):
                self.fired[type(instruction).__name__] += 1
            else:
                assert isinstance(instruction, Applied)

    def check_record(self, record: Record) -> None:
        """I1 and I2, at the moment of the commit: every group averaged exactly what the ledger records."""
        assert record.step == len(self.records)
        self.records.append(record)
        ledger = {(done.work.lease, done.cursor) for _, done in record.work}
        assert len({lease.number for lease, _ in ledger}) == self.leader.global_batch
        for stage in range(len(self.plan.groups)):
            counted: Counter[tuple[Lease, int]] = Counter()
            for contribution in self.rounds[self.leader.term, record.step, stage, record.round].values():
                counted.update(contribution.items())
            assert set(counted) == ledger, f"stage {stage} counted something else than the ledger"
            assert set(counted.values()) == {1}, f"stage {stage} counted something twice"

    # --- members ---------------------------------------------------------------------------------------------------

    def deliver(self, sender: str, receiver: str, message: object) -> None:
        if receiver not in self.members:
            self.deliver_to_leader(sender, receiver, message)
            return
        member = self.members[receiver]
        if sender not in self.members and sender != "net" and sender != member.allegiance.leader:
            self.fired["order of an earlier leader"] += 1
            return
        if isinstance(message, BoundaryTensor):
            self.on_frame(member, message)
        elif isinstance(message, HopFailed):
            if member.window is not None:
                member.window.hop_failed(message.work, message.peer, -60.0)  # long ago: no pauses here
        elif isinstance(message, tuple):
            self.go_on_loading(member, message[1])
        else:
            self.on_order(member, message)
        self.wake(member)
        self.pump(member)

    def deliver_to_leader(self, sender: str, leader: str, message: object) -> None:
        if leader != self.leader_name:
            self.fired["report to an earlier leader"] += 1
            return
        handlers = {
            MicrobatchDone: self.leader.done,
            StepClosed: self.leader.closed,
            RoundReduced: self.leader.reduced,
            RoundFailed: self.leader.failed,
            StepApplied: self.leader.applied,
            GroupLoaded: self.leader.group_loaded,
            GroupNotLoaded: self.leader.group_not_loaded,
        }
        self.carry_out(handlers[type(message)](sender, message))

    def check_end(self) -> None:
        """I3 and I4: live replicas of a group hold equal weights, made of every recorded step once."""
        if self.halted:
            return
        assert self.leader.phase is Phase.FINISHED
        ledgers = [frozenset((done.work.lease, done.cursor) for _, done in record.work) for record in self.records]
        for member in self.members.values():
            if member.name not in self.dead and self.leader.plan.spans_of(member.name):
                assert member.weights == ledgers
        spent = [(owner, done.cursor) for record in self.records for owner, done in record.work]
        assert len(spent) == len(set(spent)), "a sample was used twice"
