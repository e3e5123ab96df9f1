"""The ledger of a step: every microbatch number, who was lent it, and which replicas counted it. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from swarm.plan import Plan
from swarm.wire.messages import Lease, MicrobatchDone, Work

_MAX_LOSS_SUM = 1e100
"""Far beyond any loss, and far from where a sum of them overflows."""

Member = tuple[int, str]
"""Group number and peer id: a replica of a trunk stage, or an owner in the group of the ends."""


@dataclass(slots=True)
class _Entry:
    lease: int = 0
    first_attempt: int = 0
    owner: str = ""
    done: MicrobatchDone | None = None


class Ledger:
    """One step's global batch.

    Args:
        num_microbatches: of the global batch.
        microbatch_tokens: tokens of one of them.
    """

    def __init__(self, num_microbatches: int, microbatch_tokens: int) -> None:
        self._entries = [_Entry() for _ in range(num_microbatches)]
        self._microbatch_tokens = microbatch_tokens
        # A large batch is not looked through for every report.
        self._free = list(range(num_microbatches))
        self._outstanding: Counter[str] = Counter()
        self._num_done = 0

    @property
    def is_complete(self) -> bool:
        """Whether every microbatch is done."""
        return self._num_done == len(self._entries)

    @property
    def work(self) -> tuple[tuple[str, MicrobatchDone], ...]:
        """Owner and report of every microbatch that is done, by number."""
        return tuple((entry.owner, entry.done) for entry in self._entries if entry.done is not None)

    @property
    def owners_at_work(self) -> tuple[str, ...]:
        """Owners of microbatches that are not done, sorted."""
        return tuple(sorted(owner for owner, count in self._outstanding.items() if count))

    def outstanding(self, owner: str) -> int:
        """Microbatches that are lent to an owner and not done."""
        return self._outstanding[owner]

    def grant(self, owner: str, count: int) -> tuple[Lease, ...]:
        """Lend up to `count` free numbers to an owner, the lowest first."""
        leases: list[Lease] = []
        while self._free and len(leases) < count:
            number = heapq.heappop(self._free)
            entry = self._entries[number]
            entry.owner = owner
            leases.append(Lease(number, entry.lease))
        self._outstanding[owner] += len(leases)
        return tuple(leases)

    def accept(self, plan: Plan, owner: str, report: MicrobatchDone) -> bool:
        """Enter a report; False where it cannot be true, or says again what is known."""
        if not self._is_plausible(plan, owner, report):
            return False
        self._entries[report.work.lease.number].done = report
        self._outstanding[owner] -= 1
        self._num_done += 1
        return True

    def _is_plausible(self, plan: Plan, owner: str, report: MicrobatchDone) -> bool:
        lease = report.work.lease
        if lease.number >= len(self._entries):
            return False
        entry = self._entries[lease.number]
        if entry.owner != owner or entry.lease != lease.lease or entry.done is not None:
            return False
        if report.work.attempt < entry.first_attempt:
            return False  # says again what was taken back since
        if report.tokens != self._microbatch_tokens or not abs(report.loss_sum) < _MAX_LOSS_SUM:
            return False
        return len(report.route) == len(plan.stages) and all(
            peer in stage.replicas for peer, stage in zip(report.route, plan.stages, strict=True)
        )

    def reopen(self, leases: Iterable[Lease]) -> dict[str, list[Work]]:
        """Take back what was done; returns the attempts to be replaced, by owner."""
        owned: dict[str, list[Work]] = {}
        for lease in leases:
            if lease.number >= len(self._entries):
                continue
            entry = self._entries[lease.number]
            if entry.done is not None and entry.lease == lease.lease:
                owned.setdefault(entry.owner, []).append(entry.done.work)
                entry.first_attempt = entry.done.work.attempt + 1
                entry.done = None
                self._outstanding[entry.owner] += 1
                self._num_done -= 1
        return owned

    def lose(self, peer: str) -> dict[str, list[Work]]:
        """A peer is gone: its leases are free again, its share as a host must be replayed.

        Returns:
            The attempts to be replaced, by owner.
        """
        share = []
        del self._outstanding[peer]
        for number, entry in enumerate(self._entries):
            if entry.owner == peer:
                self._num_done -= entry.done is not None
                heapq.heappush(self._free, number)
                entry.owner, entry.done, entry.lease, entry.first_attempt = "", None, entry.lease + 1, 0
            elif entry.done is not None and peer in entry.done.route:
                share.append(Lease(number, entry.lease))
        return self.reopen(share)

    def counted(self, members: Collection[Member]) -> dict[Member, tuple[Lease, ...]]:
        """What each member should have in its books, now that everything is done."""
        counted: dict[Member, list[Lease]] = {member: [] for member in members}
        for entry in self._entries:
            assert entry.done is not None
            for stage, peer in enumerate((*entry.done.route, entry.owner)):
                counted[stage, peer].append(entry.done.work.lease)
        return {member: tuple(sorted(leases)) for member, leases in counted.items()}


@dataclass(slots=True)
class OpenLedgers:
    """The ledger of the step that is committed next, and of the one after it while that runs ahead.

    Args:
        global_batch: microbatches of a step.
        microbatch_tokens: tokens of one of them.
    """

    global_batch: int
    microbatch_tokens: int
    _ledgers: dict[int, Ledger] = field(default_factory=dict)

    def of(self, step: int) -> Ledger | None:
        """A step's ledger; None where it is not open."""
        return self._ledgers.get(step)

    @property
    def steps(self) -> tuple[int, ...]:
        """Those that are open, in order."""
        return tuple(self._ledgers)

    def open(self, step: int) -> Ledger:
        """A step's ledger, which may be open already."""
        if step not in self._ledgers:
            self._ledgers[step] = Ledger(self.global_batch, self.microbatch_tokens)
        return self._ledgers[step]

    def committed(self, step: int) -> None:
        """The step is over."""
        del self._ledgers[step]

    def lend(self, owner: str, share: int) -> list[tuple[int, tuple[Lease, ...]]]:
        """Lend an owner so many microbatches that `share` are out, those of the earlier step first; by step."""
        room = share - sum(ledger.outstanding(owner) for ledger in self._ledgers.values())
        lent = []
        for step, ledger in self._ledgers.items():
            leases = ledger.grant(owner, max(0, room))
            room -= len(leases)
            if leases:
                lent.append((step, leases))
        return lent

    def lose(self, peer: str) -> list[tuple[int, dict[str, list[Work]]]]:
        """A peer is gone; by step, the attempts to be replaced, by owner."""
        return [(step, ledger.lose(peer)) for step, ledger in self._ledgers.items()]
