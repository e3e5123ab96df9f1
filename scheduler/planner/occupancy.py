"""Who serves which stage, who is coming, who keeps a copy; sums by stage, kept up to date host by host.

    phase      the host                                             in `now`            in `planned`
    STANDBY    has no stage                                         no                  no
    LOADING    fetches its stage's state                            of the stage that   yes
                                                                    it still serves
    SWITCHING  has its stage's state already and is about to serve  yes                 yes
    SERVING    takes microbatches                                   yes                 yes

An update costs a search in a sorted list of one stage's hosts, never a pass over all hosts.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

from scheduler.planner.evaluator import host_rates
from scheduler.planner.instance import Instance, Ints, Work
from scheduler.planner.intake import Measured, hosts_of

FETCHED_SHARE = 0.75
"""Of a layer's state: weights and two moments; the fourth number, the gradient sum, starts at zero."""

Ranked = tuple[float, str]
"""Microbatches a second and a name: what stages' lists are sorted by."""
Entry = TypeVar("Entry", float, Ranked)


class Phase(enum.Enum):
    """What a host does for its stage."""

    STANDBY = "standby"
    LOADING = "loading"
    SWITCHING = "switching"
    SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Occupant:
    """One host.

    Attributes:
        claim: its measurements.
        rates: microbatches a second it could do on each stage; 0 where its memory is too small.
        stage: -1 for standbys.
        still: while it loads, the stage that it goes on serving; -1 for none.
        copy: the stage of which it keeps a second state; -1 for none.
        copy_whole: whether that has loaded.
    """

    claim: Measured
    rates: tuple[float, ...]
    phase: Phase = Phase.STANDBY
    stage: int = -1
    still: int = -1
    copy: int = -1
    copy_whole: bool = False

    @property
    def serves(self) -> int:
        """The stage that it serves, or will within seconds; -1 for none."""
        return self.still if self.phase is Phase.LOADING else self.stage

    @property
    def name(self) -> str:
        """Peer id."""
        return self.claim.name

    @property
    def line_bytes_per_s(self) -> float:
        """Of an all-reduce: the slower direction."""
        return min(self.claim.up_bytes_per_s, self.claim.down_bytes_per_s)


class Occupancy:
    """The hosts of one cut of the trunk.

    Args:
        instance: of which the work, the regions and the owners are used; the hosts come one by one.
        sizes: layers of each stage.

    Attributes:
        now, planned: microbatches a second of each stage; see the table above.
        num_serving, num_planned: hosts of each stage, in `now` and in `planned`.
        members: of each stage, hosts that serve, slowest first; the last list is that of the standbys.
        copies: of each stage, hosts that have its whole state as a copy, slowest first.
        num_copies, copy_rate: those that have or fetch one, and their microbatches a second.
        spare_up_bytes_per_s: of each stage's serving hosts, beyond what their microbatches need.
    """

    def __init__(self, instance: Instance, sizes: Ints) -> None:
        self._instance = instance
        self.work: Work = instance.work
        self.sizes: tuple[int, ...] = tuple(sizes.tolist())
        count = len(self.sizes)
        self.hosts: dict[str, Occupant] = {}
        self.now, self.planned = [0.0] * count, [0.0] * count
        self.num_serving, self.num_planned = [0] * count, [0] * count
        self.members: list[list[Ranked]] = [[] for _ in range(count + 1)]
        self.copies: list[list[Ranked]] = [[] for _ in range(count)]
        self.num_copies, self.copy_rate = [0] * count, [0.0] * count
        self.spare_up_bytes_per_s = [0.0] * count
        self.up_bytes_per_s = [0.0] * count
        self._lines: list[list[float]] = [[] for _ in range(count)]
        self._line_sums = [0.0] * count
        self._without_copy: dict[str, None] = {}

    # --- hosts -----------------------------------------------------------------------------------------------------

    def add(self, claim: Measured, stage: int = -1) -> Occupant:
        """A host appears: standing by, or serving a stage whose state it has.

        Raises:
            ConfigError: a figure that no machine has.
        """
        phase = Phase.STANDBY if stage < 0 else Phase.SERVING
        host = Occupant(claim, self._rates(claim), phase, stage)
        self._enter(host)
        return host

    def remove(self, name: str) -> Occupant:
        """A host disappears."""
        host = self.hosts.pop(name)
        self._count(host, -1)
        return host

    def change(
        self, host: Occupant, *, phase: Phase, stage: int, still: int = -1, copy: int, copy_whole: bool
    ) -> Occupant:
        """The same host in another state."""
        self._count(host, -1)
        changed = replace(host, phase=phase, stage=stage, still=still, copy=copy, copy_whole=copy_whole)
        self._enter(changed)
        return changed

    def remeasure(self, claim: Measured) -> Occupant:
        """The same host with other figures."""
        old = self.remove(claim.name)
        host = replace(old, claim=claim, rates=self._rates(claim))
        self._enter(host)
        return host

    def _enter(self, host: Occupant) -> None:
        self.hosts[host.name] = host
        self._count(host, +1)

    def _rates(self, claim: Measured) -> tuple[float, ...]:
        hosts, _ = hosts_of([claim], len(self._instance.regions.latency_s))
        alone = replace(self._instance, hosts=hosts)
        layers = np.array(self.sizes, dtype=np.int64)
        rows = np.zeros(len(layers), dtype=np.int64)
        rates = np.where(alone.slots(rows, layers) >= 1, host_rates(alone, rows, layers), 0.0)
        return tuple(rates.tolist())

    # --- sums ------------------------------------------------------------------------------------------------------

    def _count(self, host: Occupant, sign: int) -> None:
        stage, copy = host.stage, host.copy
        if host.phase is not Phase.STANDBY:
            self.planned[stage] += sign * host.rates[stage]
            self.num_planned[stage] += sign
            self._line_sums[stage] += sign * host.line_bytes_per_s
            _update(self._lines[stage], host.line_bytes_per_s, sign)
        if host.serves >= 0:
            rate = host.rates[host.serves]
            self.now[host.serves] += sign * rate
            self.num_serving[host.serves] += sign
            busy = 2 * self.work.boundary_bytes * rate
            self.up_bytes_per_s[host.serves] += sign * host.claim.up_bytes_per_s
            self.spare_up_bytes_per_s[host.serves] += sign * max(0.0, host.claim.up_bytes_per_s - busy)
        if host.phase in (Phase.SERVING, Phase.STANDBY):
            _update(self.members[stage], (max(host.rates) if stage < 0 else host.rates[stage], host.name), sign)
        if copy >= 0:
            self.num_copies[copy] += sign
            self.copy_rate[copy] += sign * host.rates[copy]
            if host.copy_whole:
                _update(self.copies[copy], (host.rates[copy], host.name), sign)
        elif host.phase in (Phase.SERVING, Phase.STANDBY):
            if sign > 0:
                self._without_copy[host.name] = None
            else:
                del self._without_copy[host.name]

    # --- questions -------------------------------------------------------------------------------------------------

    @property
    def standbys(self) -> list[Ranked]:
        """Hosts without a stage, slowest first."""
        return self.members[-1]

    def without_copy(self, most: int) -> list[str]:
        """Hosts that have nothing to fetch and keep no copy, longest so first."""
        return list(islice(self._without_copy, most))

    def ask_others_first(self, names: Sequence[str]) -> None:
        """None of these could take what was wanted: `without_copy` names them last."""
        for name in names:
            del self._without_copy[name]
            self._without_copy[name] = None

    def num_staying(self, stage: int) -> int:
        """Hosts that serve a stage and are not about to leave it."""
        return len(self.members[stage])

    def state_bytes(self, stage: int) -> float:
        """What a host fetches before it can serve a stage."""
        return FETCHED_SHARE * self.sizes[stage] * self.work.layer_state_bytes

    def reduce_s(self, stage: int, joining: Occupant | None = None) -> float:
        """A stage's all-reduce without latency; the closed form of `evaluator.stage_reduce_s`.

        Args:
            joining: one more host than are planned.
        """
        lines, line_sum, count = self._lines[stage], self._line_sums[stage], self.num_planned[stage]
        slowest = lines[0] if lines else float("inf")
        if joining is not None:
            slowest = min(slowest, joining.line_bytes_per_s)
            line_sum, count = line_sum + joining.line_bytes_per_s, count + 1
        if count < 2:
            return 0.0
        return self.sizes[stage] * self.work.gradient_bytes * max(1 / slowest, (2 * count - 2) / line_sum)

    def has_room_for_copy(self, host: Occupant, copy: int) -> bool:
        """Whether memory holds the host's own stage and another's state, whichever of the two it serves."""
        work = self.work
        own = self.sizes[host.stage] if host.stage >= 0 else 0
        larger = max(own, self.sizes[copy])
        needed = (own + self.sizes[copy]) * work.layer_state_bytes + larger * work.graph_bytes + work.working_bytes
        return needed <= host.claim.memory_bytes


def _update(ranked: list[Entry], entry: Entry, sign: int) -> None:
    if sign > 0:
        insort(ranked, entry)
    else:
        del ranked[bisect_left(ranked, entry)]
