"""Small changes of a running plan: at most two moves an event, each worth more than it costs. Pure.

    host        event                                           to          decided
    (absent)    join, a stage gains by it                       LOADING     move to the stage with least throughput
    (absent)    join, its line would slow everybody down        STANDBY
    STANDBY     any event that makes it worth a stage           LOADING     move
    LOADING     arrived: its state is here                      SERVING     a copy of another stage, where wanted
    SERVING     a stage is left with one replica                LOADING     move, if its own stage keeps two
    SERVING     a move pays, and it has a copy of that stage    SWITCHING   move; the state of the old stage is its copy
    SERVING     a move pays, and it has none                    LOADING     move; meanwhile it goes on with its old
                                                                            stage, where policy and memory allow
    SWITCHING   arrived                                         SERVING
    any         drifted: it measured itself again               the same    what the new figures make worth it
    any         leave                                           (absent)    moves to the stage that lost it

    copy        event                                           to
    none        fewer copies of a stage than wanted             under way
    under way   copied                                          whole, and kept current
    whole       the host switches to that stage                 whole, of the stage it left
    any         the host moves to another stage                 none
    any         uncopied                                        none, for good

A switch is judged by what serves now; a slow move by that and by what is planned, those that load included.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from scheduler.planner.adoption import best_step, relabelled
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Instance
from scheduler.planner.intake import Measured, claims_of
from scheduler.planner.moves import LEAST_REPLICAS, Copy, Decision, Economy, Move, Policy
from scheduler.planner.occupancy import Occupancy, Occupant, Phase
from swarm.errors import RunError

MOVES_PER_EVENT = 2
COPIES_PER_EVENT = 2
_NEAREST = 2
"""Hosts tried on either side of the ideal speed in each stage's list."""
_STANDBYS = 32
"""The fastest ones, which are tried for a slow stage."""
_COPIES_TRIED = 24
"""Hosts with a copy of a slow stage that are tried, of all speeds."""
_COPY_HOSTS = 16
"""Hosts without a copy that are tried when one is wanted."""


_Target = tuple[Occupant, int]
"""A host and the stage that it could move to."""


class Replanner:
    """Follows a swarm's hosts from event to event.

    Args:
        instance: the problem that `assignment` answers; its hosts that have a stage serve it.
        assignment: the plan that holds.
        policy: what moves are worth.
        copies: by host, also of those that have still to join, the stage of which it keeps a second state, and
            whether that is whole.
        barred: hosts that are asked for no copies.

    Raises:
        ModelTooLarge: a host has not enough memory for its stage.
        RunError: a stage without a host.
    """

    def __init__(
        self,
        instance: Instance,
        assignment: Assignment,
        policy: Policy | None = None,
        copies: Mapping[str, tuple[int, bool]] | None = None,
        barred: Iterable[str] = (),
    ) -> None:
        self._policy = policy or Policy()
        self._barred = set(barred)
        self.adopt(instance, assignment, copies or {})

    # --- events ----------------------------------------------------------------------------------------------------

    def adopt(
        self, instance: Instance, assignment: Assignment, copies: Mapping[str, tuple[int, bool]] | None = None
    ) -> None:
        """Another plan holds, however many moves it took: every host with a stage serves it."""
        self._known_copies = dict(copies or {})
        fill_s = evaluate(instance, assignment).fill_s
        self.places = Occupancy(instance, assignment.sizes)
        self._economy = Economy(instance, self.places, self._policy, fill_s)
        for claim, stage in zip(claims_of(instance.hosts), assignment.stage.tolist(), strict=True):
            self._with_its_copy(self.places.add(claim, stage))

    def _with_its_copy(self, host: Occupant) -> Occupant:
        copy, is_whole = self._known_copies.pop(host.name, (-1, False))
        if copy in (-1, host.stage) or host.name in self._barred:
            return host
        return self.places.change(host, phase=host.phase, stage=host.stage, copy=copy, copy_whole=is_whole)

    def join(self, claim: Measured) -> Decision:
        """A host is here and has nothing yet.

        Raises:
            ConfigError: a figure that no machine has.
            RunError: it is here already.
        """
        if claim.name in self.places.hosts:
            raise RunError(f"{claim.name} joined twice", "report this as a bug")
        return self._settle(self._join(self._with_its_copy(self.places.add(claim))))

    def leave(self, name: str) -> Decision:
        """A host is gone; of one that was not here, nothing follows."""
        self._known_copies.pop(name, None)
        if name not in self.places.hosts:
            return Decision()
        self.places.remove(name)
        return self._settle([])

    def drifted(self, claim: Measured) -> Decision:
        """A host measured itself again.

        Raises:
            ConfigError: a figure that no machine has.
            RunError: it is not here.
        """
        host = self._host(claim.name)
        if host.stage >= 0 and claim.memory_bytes < host.claim.memory_bytes:
            # What it already holds stays: memory is taken, not free, by now.
            claim = _with_memory(claim, host.claim.memory_bytes)
        self.places.remeasure(claim)
        return self._settle([])

    def relined(self, claim: Measured) -> Decision:
        """A host's line is another one: it goes on, or stands by where its line would slow everybody down.

        Raises:
            ConfigError: a figure that no machine has.
            RunError: it is not here.
        """
        before = self._host(claim.name)
        self.places.remove(claim.name)
        host = self.places.add(claim)
        if before.stage < 0 and before.copy >= 0:
            copy, whole = before.copy, before.copy_whole
            host = self.places.change(host, phase=Phase.STANDBY, stage=-1, copy=copy, copy_whole=whole)
        if before.phase is Phase.SERVING and self._is_wanted(host, before.stage, self._economy.slowest_reduce_s()):
            copy, whole = before.copy, before.copy_whole
            self.places.change(host, phase=Phase.SERVING, stage=before.stage, copy=copy, copy_whole=whole)
            return self._settle([])
        return self._settle(self._join(host))

    def arrived(self, name: str) -> Decision:
        """A host's state has loaded: it counts now. A report that comes twice changes nothing.

        Raises:
            RunError: it is not here.
        """
        host = self._host(name)
        if host.phase not in (Phase.LOADING, Phase.SWITCHING):
            return Decision()
        self.places.change(host, phase=Phase.SERVING, stage=host.stage, copy=host.copy, copy_whole=host.copy_whole)
        return self._settle([])

    def copied(self, name: str, stage: int) -> Decision:
        """A host's copy of a stage is whole; of a copy that is no longer wanted, nothing follows."""
        host = self.places.hosts.get(name)
        if host is None or host.copy != stage or host.copy_whole:
            return Decision()
        self.places.change(host, phase=host.phase, stage=host.stage, still=host.still, copy=stage, copy_whole=True)
        return self._settle([])

    def uncopied(self, name: str) -> Decision:
        """A host cannot keep a copy: it is asked for none any more."""
        self._barred.add(name)
        host = self.places.hosts.get(name)
        if host is None or host.copy < 0:
            return Decision()
        self.places.change(host, phase=host.phase, stage=host.stage, still=host.still, copy=-1, copy_whole=False)
        return self._settle([])

    def copy_more(self) -> Decision:
        """Nothing happened: copies that are wanted anyway."""
        return Decision(copies=tuple(self._copy_more()))

    def propose(self, target: Mapping[str, int], sizes: Sequence[int], budget_bytes: float) -> Decision:
        """A full solve is here: take over what gains most for its bytes; the next solve brings the rest.

        Args:
            target: stage of each host that has one, by the solve's own numbers.
            sizes: layers of each of its stages; one that cuts the trunk otherwise is for `adopt`.
            budget_bytes: that its moves may fetch.
        """
        wanted = relabelled(self.places, target, sizes)
        moves: list[Move] = []
        while wanted is not None and len(moves) < MOVES_PER_EVENT:
            step = best_step(self.places, self._economy, wanted, MOVES_PER_EVENT - len(moves), budget_bytes)
            if not step:
                break
            for host, stage in step:
                moves.append(
                    self._move(host, stage, f"{host.name} moves to stage {stage}, as the last full plan has it")
                )
                budget_bytes -= moves[-1].num_bytes
        return Decision(tuple(moves))

    @property
    def copy_step_bytes(self) -> float:
        """What keeping all copies current costs each step."""
        gradient = self.places.work.gradient_bytes
        sizes = self.places.sizes
        return sum(gradient * sizes[stage] * len(hosts) for stage, hosts in enumerate(self.places.copies))

    # --- moves -----------------------------------------------------------------------------------------------------

    def _settle(self, moves: list[Move]) -> Decision:
        while len(moves) < MOVES_PER_EVENT:
            left = MOVES_PER_EVENT - len(moves)
            found = self._safety() or self._switch(left) or self._slow(left)
            if not found:
                break
            moves += found
        return Decision(tuple(moves), tuple(self._copy_more()))

    def _join(self, host: Occupant) -> list[Move]:
        stage = self._stage_for(host)
        if stage < 0:
            return []
        return [self._move(host, stage, f"{host.name} joins stage {stage}, which has the least throughput")]

    def _stage_for(self, host: Occupant) -> int:
        """Where a host without a stage is needed most; -1 where it would do harm."""
        places, reduce_s = self.places, self._economy.slowest_reduce_s()
        best, best_key = -1, (LEAST_REPLICAS, float("inf"))
        for stage, rate in enumerate(host.rates):
            key = (min(places.num_planned[stage], LEAST_REPLICAS), places.planned[stage])
            if rate > 0 and key < best_key and self._is_wanted(host, stage, reduce_s):
                best, best_key = stage, key
        return best

    def _is_wanted(self, host: Occupant, stage: int, reduce_s: float) -> bool:
        """Whether a stage has too few replicas, or gains by one more."""
        is_short = self.places.num_planned[stage] < LEAST_REPLICAS
        return is_short or self._economy.is_admitted(host, stage, reduce_s)

    def _safety(self) -> list[Move]:
        """To a stage with too few replicas, whatever it costs."""
        places = self.places
        short = [stage for stage, count in enumerate(places.num_planned) if count < LEAST_REPLICAS]
        for stage in sorted(short, key=lambda stage: (places.num_planned[stage], places.planned[stage])):
            # An empty stage may take from one that has two: one each is better than none.
            keep = min(LEAST_REPLICAS, places.num_planned[stage] + 1)
            found = [
                host
                for ranked in places.members
                for _, name in ranked
                if (host := places.hosts[name]).stage != stage and host.rates[stage] > 0 and self._may_leave(host, keep)
            ]
            if found:
                # Copies first: they serve within seconds.
                best = max(found, key=lambda host: (host.copy == stage, self._level(host, stage), host.name))
                count = places.num_planned[stage]
                return [self._move(best, stage, f"{best.name} moves to stage {stage}, which has {count} hosts")]
        return []

    def _switch(self, left: int) -> list[Move]:
        """Between stages whose state a host has already, by what serves now: one move, or two that go together."""
        totals = list(self.places.now)
        slowest = _slowest(totals)
        best: tuple[_Target, ...] = ()
        best_level = totals[slowest]
        for first in self._switches(slowest):
            _shift(totals, first)
            donor = first[0].stage
            level = min(totals[slowest], totals[donor]) if donor >= 0 else totals[slowest]
            if level > best_level:
                best, best_level = (first,), level
            for second in self._switches(_slowest(totals)) if left > 1 else []:
                host, stage = second
                if host is first[0] or host.stage == donor:
                    continue
                _shift(totals, second)
                level = min(totals[each] for each in (slowest, donor, stage, host.stage) if each >= 0)
                if level > best_level:
                    best, best_level = (first, second), level
                _shift(totals, second, -1)
            _shift(totals, first, -1)
        if not best or self._economy.step_net(best, self.places.now, self._economy.slowest_reduce_s()) <= 0:
            return []
        return [
            self._move(host, stage, f"{host.name} has a copy of stage {stage}, which is slow now")
            for host, stage in best
        ]

    def _switches(self, stage: int) -> list[_Target]:
        """Hosts with a copy of a stage, a few of each speed, that may leave their own."""
        ranked = self.places.copies[stage]
        tried = ranked[:: -(-len(ranked) // _COPIES_TRIED) or 1]
        hosts = [self.places.hosts[name] for _, name in tried]
        return [
            (host, stage)
            for host in hosts
            if host.phase in (Phase.SERVING, Phase.STANDBY) and self._may_leave(host, LEAST_REPLICAS)
        ]

    def _slow(self, left: int) -> list[Move]:
        """To the stage with the least throughput, now and as planned, from any other or from the standbys."""
        places = self.places
        stage = _slowest([max(pair) for pair in zip(places.now, places.planned, strict=True)])
        # What one view says is missing and the other one does not, switches and arrivals will mend without a load.
        totals = [min(pair) for pair in zip(places.now, places.planned, strict=True)]
        totals[stage] = max(places.now[stage], places.planned[stage])
        reduce_s = self._economy.slowest_reduce_s()
        best, most = None, 0.0
        for target in self._slow_targets(stage, totals, reduce_s, left):
            net = self._economy.step_net([target], totals, reduce_s)
            if net > most:
                best, most = target[0], net
        if best is None:
            return []
        return [self._move(best, stage, f"{best.name} moves to stage {stage}, now the slowest")]

    def _slow_targets(self, stage: int, totals: list[float], reduce_s: float, left: int) -> Iterator[_Target]:
        places = self.places
        for donor, ranked in enumerate(places.members[:-1]):
            if donor == stage or places.num_staying(donor) <= LEAST_REPLICAS:
                continue
            # The mover's speed here that leaves both stages level after `left` moves like it.
            faster = places.sizes[donor] / places.sizes[stage]
            ideal = (totals[donor] - totals[stage]) / (1 + left * faster)
            if ideal <= 0:
                continue
            middle = bisect_left(ranked, (ideal, ""))
            for _, name in ranked[max(0, middle - _NEAREST) : middle + _NEAREST]:
                host = places.hosts[name]
                # One that keeps a copy is worth more where it is: it can switch within seconds.
                if host.rates[stage] > 0 and host.copy < 0:
                    yield host, stage
        for _, name in places.standbys[-_STANDBYS:]:
            host = places.hosts[name]
            if host.rates[stage] > 0 and self._economy.is_admitted(host, stage, reduce_s):
                yield host, stage

    def _level(self, host: Occupant, stage: int) -> float:
        """The lower of both stages once the host has moved."""
        level = self.places.planned[stage] + host.rates[stage]
        if host.stage >= 0:
            level = min(level, self.places.planned[host.stage] - host.rates[host.stage])
        return level

    def _move(self, host: Occupant, stage: int, reason: str) -> Move:
        load_s, num_bytes = self._economy.fetch(host, stage)
        has_state = host.copy == stage and host.copy_whole
        phase = Phase.SWITCHING if has_state else Phase.LOADING
        kept = host.stage if has_state else -1
        still = host.stage if self._economy.goes_on(host, stage) else -1
        self.places.change(host, phase=phase, stage=stage, still=still, copy=kept, copy_whole=kept >= 0)
        return Move(host.name, host.stage, stage, num_bytes, load_s, reason, still >= 0)

    def _may_leave(self, host: Occupant, keep: int) -> bool:
        """Whether its stage keeps so many that serve."""
        return host.stage < 0 or self.places.num_staying(host.stage) > keep

    def _host(self, name: str) -> Occupant:
        host = self.places.hosts.get(name)
        if host is None:
            raise RunError(f"{name} is no host of this swarm", "report this as a bug")
        return host

    # --- copies ----------------------------------------------------------------------------------------------------

    def _copy_more(self) -> Iterator[Copy]:
        """For the stages with the fewest copies, by hosts with memory to spare."""
        places, wanted = self.places, self._policy.copy_cover
        if wanted <= 0:
            return
        for _ in range(COPIES_PER_EVENT):
            cover = [have / max(rate, 1e-9) for have, rate in zip(places.copy_rate, places.planned, strict=True)]
            stage = _slowest(cover)
            host = self._copy_host(stage)
            if cover[stage] >= wanted or host is None:
                return
            load_s, num_bytes = self._economy.load_s(host, stage), places.state_bytes(stage)
            places.change(host, phase=host.phase, stage=host.stage, copy=stage, copy_whole=False)
            step_bytes = places.work.gradient_bytes * places.sizes[stage]
            yield Copy(host.name, stage, num_bytes, step_bytes, load_s)

    def _copy_host(self, stage: int) -> Occupant | None:
        names = self.places.without_copy(_COPY_HOSTS)
        for name in names:
            host = self.places.hosts[name]
            is_able = host.stage != stage and host.rates[stage] > 0 and name not in self._barred
            if is_able and self._economy.may_copy(host, stage):
                return host
        self.places.ask_others_first(names)
        return None


def _slowest(totals: list[float]) -> int:
    return min(range(len(totals)), key=totals.__getitem__)


def _shift(totals: list[float], target: _Target, sign: int = 1) -> None:
    """Make a move in the totals, or take it back."""
    host, stage = target
    totals[stage] += sign * host.rates[stage]
    if host.stage >= 0:
        totals[host.stage] -= sign * host.rates[host.stage]


def _with_memory(claim: Measured, memory_bytes: float) -> Measured:
    return Measured(
        claim.name,
        memory_bytes,
        claim.layer_s,
        claim.up_bytes_per_s,
        claim.down_bytes_per_s,
        claim.overhead_s,
        claim.region,
    )
