"""The simulation: virtual peers and the production step leader, event by event.

The leader's messages take half a round trip each way; boundary tensors take the peers' lines; a round takes what its
slowest member needs for its part, by the plan's fractions; states take the slower of the mover's downlink and the
donors' uplinks together, and share no line with microbatches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.simulator.clock import Clock
from benchmarks.simulator.config import FORWARD_SHARE, SimConfig, VirtualHost
from benchmarks.simulator.owner import Owner
from benchmarks.simulator.peer import Host, Peer
from benchmarks.simulator.replanning import Followed
from benchmarks.simulator.report import Report
from benchmarks.simulator.servers import Wire
from scheduler.instructions import (
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
from scheduler.step import StepLeader
from swarm.errors import RunError
from swarm.model.spans import ENDS, Span
from swarm.plan import Plan
from swarm.wire.messages import (
    BoundaryTensor,
    GoRound,
    GroupLoaded,
    GroupNotLoaded,
    HopFailed,
    MicrobatchDone,
    RoundFailed,
    RoundReduced,
    StepApplied,
    StepClosed,
)


class Simulation:
    """One run.

    Args:
        followed: replans at joins and losses; None leaves joins standing by, and losses to the leader.

    Raises:
        RunError: the plan names peers that are not there.
    """

    forward_share = FORWARD_SHARE

    def __init__(self, config: SimConfig, followed: Followed | None = None) -> None:
        self.config = config
        self.clock = Clock()
        self.closing_since_s = 0.0
        self.peers: dict[str, Peer] = {}
        self._followed = followed
        self._wire = Wire(self.clock, config.regions.latency_s.tolist(), config.regions.pair_bytes_per_s.tolist())
        self._report = Report()
        self._plan = config.plan  # the leader's own is the next one while its commit is carried out
        self._ended = False
        self._useful_s = 0.0
        self._unnoticed: list[str] = []
        self._leader = StepLeader(
            plan=config.plan,
            term=1,
            global_batch=config.num_microbatches,
            microbatch_tokens=config.microbatch_tokens,
            next_step=0,
            num_steps=config.num_steps,
            checkpoint_every_steps=config.num_steps,
        )
        self._handlers: dict[type, Callable[..., list[Instruction]]] = {
            MicrobatchDone: self._leader.done,
            StepClosed: self._leader.closed,
            RoundReduced: self._leader.reduced,
            RoundFailed: self._leader.failed,
            StepApplied: self._leader.applied,
            GroupLoaded: self._leader.group_loaded,
            GroupNotLoaded: self._leader.group_not_loaded,
        }
        self._populate()

    def _populate(self) -> None:
        config = self.config
        for host in config.hosts:
            self._add_host(host)
        for owner in config.owners:
            self.peers[owner.name] = Owner(
                self,
                owner.name,
                owner.region,
                owner.up_bytes_per_s,
                owner.down_bytes_per_s,
                owner.apply_s,
                owner.ends_s,
            )
        for group, names in enumerate(config.plan.groups):
            for name in names:
                if name not in self.peers:
                    raise RunError(f"the plan has {name}, which is not simulated", "add it to the hosts or owners")
                self.peers[name].build(config.plan, group, 0)
        known = self.peers.keys() | {join.host.name for join in config.joins}
        for death in config.deaths:
            if death.peer not in known:
                raise RunError(f"{death.peer} is to die, but is not simulated", "add it to the hosts or owners")
            self.clock.after(death.time_s, self._die, death.peer)
        for join in config.joins:
            self.clock.after(join.time_s, self._join, join.host)

    def _add_host(self, host: VirtualHost) -> None:
        self.peers[host.name] = Host(
            self,
            host.name,
            host.region,
            host.up_bytes_per_s,
            host.down_bytes_per_s,
            host.apply_s,
            host.layer_s,
            host.overhead_s,
        )

    def run(self) -> Report:
        """Every step.

        Raises:
            RunError: nothing can happen any more, but the run is not over.
        """
        report = self._report
        report.plans.append((self._plan.number, 0))
        self._carry_out(self._leader.start())
        while not self._ended:
            if not self.clock.step():
                step, phase = self._leader.step, self._leader.phase.value
                raise RunError(f"the simulation came to a stop in step {step} ({phase})", "report this as a bug")
            report.events += 1
        self._sum_up()
        return report

    # --- between peers ---------------------------------------------------------------------------------------------

    def send(self, sender: Peer, frame: BoundaryTensor) -> None:
        """A boundary tensor, to the next hop."""
        receiver = self.peers[frame.receiver]
        if receiver.dead:
            self._hop_failed(frame)
            return

        def arrived(transit_s: float) -> None:
            if receiver.dead:
                self._hop_failed(frame)
            elif not sender.dead:
                receiver.take(frame, transit_s)

        self._report.boundary_bytes += self.config.boundary_bytes
        regions = (sender.region, receiver.region)
        self._wire.transfer(sender.up, receiver.down, regions, self.config.boundary_bytes, arrived)

    def _hop_failed(self, frame: BoundaryTensor) -> None:
        owner = self.peers[frame.owner]
        assert isinstance(owner, Owner)
        if not owner.dead:
            failed = HopFailed(work=frame.work, peer=frame.receiver, problem="it died")
            self.clock.after(self.config.leader_round_trip_s / 2, owner.hop_failed, failed)

    def reduce(self, peer: Peer, order: GoRound) -> None:
        """A member enters its round."""
        group = self._plan.groups[order.stage]
        members = [self.peers[name] for name in group if name not in self._leader.lost]
        seconds = self._reduce_s(members, order.stage)
        self.clock.after(seconds, self._reduced, peer, order, members)

    def _reduced(self, peer: Peer, order: GoRound, members: Sequence[Peer]) -> None:
        if peer.dead or peer.replica is None:
            return
        about = {"step": order.step, "stage": order.stage, "round": order.round}
        if any(member.dead for member in members):
            self.report(peer, RoundFailed(**about, problem="a member died", blamed=""))
        elif peer.replica.reduced(order.round):
            if peer is members[0]:
                span = self._plan.span_of(order.stage)
                self._report.reduced_bytes += (2 * len(members) - 2) * self.reduced_bytes(span)
            self.report(peer, RoundReduced(**about, digest=str(order.round), square_norm=1.0))

    def _reduce_s(self, members: Sequence[Peer], group: int) -> float:
        """Each member sends its share of the sum to all others, and to every other one's share what it has itself."""
        count = len(members)
        if count < 2:
            return 0.0
        fractions = [self._plan.fraction_of(group, member.name) for member in members]
        whole = sum(fractions)
        slowness = max(
            (1 + (count - 2) * fraction / whole) / min(member.up.bytes_per_s, member.down.bytes_per_s)
            for member, fraction in zip(members, fractions, strict=True)
        )
        regions = sorted({member.region for member in members})
        latency_s = max(float(self.config.regions.latency_s[here, there]) for here in regions for there in regions)
        return self.reduced_bytes(self._plan.span_of(group)) * slowness + 2 * latency_s

    def reduced_bytes(self, span: Span) -> float:
        """The gradient of a span, as it is sent."""
        return self.config.ends_gradient_bytes if span == ENDS else (span[1] - span[0]) * self.config.gradient_bytes

    def state_bytes(self, span: Span) -> float:
        """The state of a span."""
        return (span[1] - span[0]) * self.config.layer_state_bytes

    def fetch_s(self, peer: Peer, donors: Sequence[str], num_bytes: float) -> float | None:
        """To fetch something from members that have it; None where none of them lives."""
        offered = sum(self.peers[name].up.bytes_per_s for name in donors if not self.peers[name].dead)
        if not offered:
            return None
        self._report.migrated_bytes += num_bytes
        return num_bytes / min(peer.down.bytes_per_s, offered)

    # --- the leader ------------------------------------------------------------------------------------------------

    def report(self, peer: Peer, message: object) -> None:
        """Tell the leader."""
        if not peer.dead:
            self.clock.after(self.config.leader_round_trip_s / 2, self._reported, peer.name, message)

    def _reported(self, peer: str, message: object) -> None:
        self._carry_out(self._handlers[type(message)](peer, message))

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        delay_s = self.config.leader_round_trip_s / 2
        for instruction in instructions:
            match instruction:
                case Send(peer, message):
                    self.clock.after(delay_s, self._deliver, peer, message)
                case NewPlan(plan):
                    self._new_plan(plan)
                case Record():
                    self._record(instruction)
                case CheckPeers():
                    self.clock.after(self.config.detection_s, self._checked)
                case Lost(peer, _):
                    self._lose(peer)
                case Halt(problem, _) | Regroup(problem, _):
                    self._report.problem, self._ended = problem, True
                case Finish():
                    self._ended = True
                case PlanChangeOff():
                    self._called_off()
                case ShadowIsCurrent(peer, span):
                    if self._followed is not None:
                        self._followed.shadow_is_current(peer, span)
                        self._propose()
                case ShadowIsGone(peer, span, _):
                    if self._followed is not None:
                        self._followed.shadow_is_gone(peer, span)
                        self._propose()
        if instructions and self._leader.phase is self._leader.phase.CLOSING:
            self.closing_since_s = self.clock.now_s

    def _deliver(self, name: str, message: object) -> None:
        peer = self.peers[name]
        if not peer.dead:
            peer.hear(message)

    def _checked(self) -> None:
        for peer in list(self._unnoticed):
            self._notice(peer)
        self._carry_out(self._leader.checked())

    def _record(self, record: Record) -> None:
        report, now_s = self._report, self.clock.now_s
        report.step_s.append(now_s - (report.committed_at_s[-1] if report.committed_at_s else 0.0))
        report.committed_at_s.append(now_s)
        report.tokens.append(record.tokens)
        report.microbatches += len(record.work)
        for owner, done in record.work:
            for group, name in enumerate((*done.route, owner)):
                self._useful_s += self.peers[name].microbatch_s(self._plan.span_of(group))

    # --- peers come and go -----------------------------------------------------------------------------------------

    def _die(self, name: str) -> None:
        peer = self.peers[name]
        if not peer.dead:
            peer.dead, peer.died_s = True, self.clock.now_s
            peer.compute.stop()
            self._unnoticed.append(name)
            self.clock.after(self.config.detection_s, self._notice, name)

    def _notice(self, name: str) -> None:
        if name in self._unnoticed:
            self._unnoticed.remove(name)
            self._lose(name)

    def _lose(self, name: str) -> None:
        self._carry_out(self._leader.peer_lost(name))
        if self._followed is not None:
            self._followed.lost(name)
            self._propose()

    def _join(self, host: VirtualHost) -> None:
        self._add_host(host)
        if self._followed is not None:
            self._followed.joined(host)
            self._propose()

    def _new_plan(self, plan: Plan) -> None:
        self._plan = plan
        self._report.plans.append((plan.number, plan.first_step))
        for name in sorted(self.peers):
            self.clock.after(self.config.leader_round_trip_s / 2, self._deliver, name, plan)
        if self._followed is not None:
            self._followed.holds(plan)
            self._propose()

    def _called_off(self) -> None:
        if self._followed is not None:
            self._followed.called_off()
            self._propose()

    def _propose(self) -> None:
        """Ask for the plan that is wanted now; while another change is on, the end of that one asks again."""
        if self._followed is None or self._leader.is_changing:
            return
        wanted = self._followed.wanted()
        if wanted is not None:
            self._leader.propose(wanted)
        else:
            self._leader.load_shadows()

    # --- summing up ------------------------------------------------------------------------------------------------

    def _sum_up(self) -> None:
        report, end_s = self._report, self.clock.now_s
        hosts = [peer for peer in self.peers.values() if isinstance(peer, Host)]
        owners = [peer for peer in self.peers.values() if isinstance(peer, Owner)]
        totals = dict.fromkeys(("compute", "link", "bubble", "reduce", "migration", "idle"), 0.0)
        there_s = 0.0
        for host in hosts:
            spent = host.compute.spent
            lived_s = (end_s if host.died_s is None else host.died_s) - host.joined_s
            there_s += lived_s
            busy = {
                "compute": spent.compute_s,
                "link": spent.link_s,
                "bubble": spent.bubble_s,
                "reduce": spent.reduce_s,
            }
            left_s = max(0.0, lived_s - sum(busy.values()))
            busy["migration"] = min(left_s, host.load_s)
            busy["idle"] = left_s - busy["migration"]
            for name, seconds in busy.items():
                totals[name] += seconds
        report.shares = {name: seconds / max(there_s, 1e-12) for name, seconds in totals.items()}
        owned_s = sum(owner.compute.spent.compute_s for owner in owners)
        report.owners_utilisation = owned_s / max(end_s * len(owners), 1e-12)
        computed_s = sum(peer.compute.spent.compute_s for peer in self.peers.values())
        applied_s = sum(peer.apply_s * peer.num_applied for peer in self.peers.values())
        report.lost_compute_s = max(0.0, computed_s - applied_s - self._useful_s)
        report.attempts = sum(owner.num_attempts for owner in owners)
        report.lost_peers = tuple(sorted(self._leader.lost))


def simulate(config: SimConfig, followed: Followed | None = None) -> Report:
    """Run one simulation to its end.

    Args:
        config: peers, plan, model, and what happens.
        followed: replans at joins and losses; without it joins stand by.

    Returns:
        Seconds of every step, tokens a second, and where time and bytes went.

    Raises:
        RunError: the plan names peers that are not there.
    """
    return Simulation(config, followed).run()
