"""What a watcher believes: announcements of a scheduler, each newer than the one before. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from swarm.admission import Membership
from swarm.announcing import announced
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced, RunAnnounced

LATE_S = 30.0
"""Whoever recorded an announcement cannot show it to others after this; clocks differ by less."""

Verdict = Literal["taken", "forged", "repeated", "late"]


@dataclass(slots=True)
class Feed:
    """The run as its scheduler tells it.

    Args:
        membership: of the run, as the invite names it.

    Attributes:
        plan, metrics: of the scheduler of the highest term; None before the first.
        counts: of announcements, by what became of them.
        heard_at_s: when the last metrics were taken, since 1970; 0 before.
    """

    membership: Membership
    plan: PlanAnnounced | None = None
    metrics: MetricsAnnounced | None = None
    counts: Counter[Verdict] = field(default_factory=Counter)
    heard_at_s: float = 0.0
    _newest_s: dict[tuple[str, type], float] = field(default_factory=dict)

    def take(self, data: bytes, now_s: float) -> Verdict:
        """Look at what came over the network.

        Args:
            now_s: since 1970.

        Returns:
            Whether it was taken, or why it is ignored: not a scheduler's word, not newer than what is known (or of an
            earlier term), or sent at another time than now.
        """
        verdict = self._judge(data, now_s)
        self.counts[verdict] += 1
        return verdict

    def _judge(self, data: bytes, now_s: float) -> Verdict:
        found = announced(self.membership, data, now_s)
        if found is None:
            return "forged"
        body, signer = found
        if isinstance(body, RunAnnounced):  # it belongs elsewhere
            return "forged"
        if not abs(now_s - body.sent_at_s) <= LATE_S:
            return "late"
        key = signer, type(body)
        if body.sent_at_s <= self._newest_s.get(key, 0.0) or body.term < self._term:
            return "repeated"
        self._newest_s[key] = body.sent_at_s
        if isinstance(body, PlanAnnounced):
            self.plan = body
        else:
            self.metrics, self.heard_at_s = body, now_s
        return "taken"

    @property
    def _term(self) -> int:
        return max((each.term for each in (self.plan, self.metrics) if each is not None), default=0)
