"""What a run's events and its ledger come to, kept up to date event by event and step by step. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.dashboard.history import History
from swarm.run_files import StepRow

MOST_EVENTS = 300
"""Shown; all of them are in the run's folder."""
_FREQUENT = ("step", "waiting", "building")
"""Kinds that would push everything else out of the list."""


@dataclass(slots=True)
class EventBook:
    """What the scheduler told.

    Attributes:
        recent: the newest that people want to read.
        times: of each step, seconds by the leader's phases.
        rated_layer_s: by peer, what the scheduler believes of its speed since it was rated anew.
        lines: by peer, bytes per second up and down since its line changed.
        predictions, bounds: (step, tokens per second) of the plan that held from then on, and that no plan exceeded.
        judged: number of the plan whose promise was looked at last, and what it is by the measurements of then.
        counts: of events, by kind.
        lost_at_s: by peer, when it was lost last, since 1970.
    """

    recent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    times: History = field(default_factory=History)
    phase_s: Counter[str] = field(default_factory=Counter)
    rated_layer_s: dict[str, float] = field(default_factory=dict)
    lines: dict[str, tuple[float, float]] = field(default_factory=dict)
    predictions: list[tuple[int, float]] = field(default_factory=list)
    bounds: list[tuple[int, float]] = field(default_factory=list)
    judged: tuple[int, float] = (0, 0.0)
    counts: Counter[str] = field(default_factory=Counter)
    lost_at_s: dict[str, float] = field(default_factory=dict)
    _step: int = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """One more event, in the order in which they were told."""
        kind = str(event.get("event"))
        self.counts[kind] += 1
        if kind not in _FREQUENT:
            self.recent.append(event)
        match event:
            case {"event": "step", "step": int(step), "phase_s": dict(phase_s)}:
                self._step = step
                self.times.add(step, phase_s)
                self.phase_s.update(phase_s)
            case {"event": "rerated", "peer": str(peer), "layer_s": float(layer_s)}:
                self.rated_layer_s[peer] = layer_s
            case {"event": "registered", "peer": str(peer)}:  # it measured itself anew
                self.rated_layer_s.pop(peer, None)
                self.lines.pop(peer, None)
            case {"event": "lost", "peer": str(peer), "time_s": float(time_s)}:
                self.lost_at_s[peer] = time_s
            case {"event": "relined", "peer": str(peer), "up": float(up), "down": float(down)}:
                self.lines[peer] = up, down
            case {"event": "certified", "bound_tokens_per_s": float(bound)}:
                self.bounds.append((self._step, bound))
            case {"event": "plan", "number": int(plan), "predicted_tokens_per_s": float(rate)}:
                self._judge(plan, rate)
            case {"event": "bound", "plan": int(plan), "predicted_tokens_per_s": float(rate)}:
                self.bounds.append((self._step, float(event["bound_tokens_per_s"])))
                self._judge(plan, rate)

    def _judge(self, plan: int, tokens_per_s: float) -> None:
        self.judged = plan, tokens_per_s
        self.predictions.append((self._step, tokens_per_s))


@dataclass(slots=True)
class Contribution:
    """What a peer did in committed steps.

    Attributes:
        hosted, owned: microbatches that went through its layers, and that came from its shard.
        hosted_tokens, owned_tokens: of these.
        last_step: it had a part in, counted from 1.
    """

    hosted: int = 0
    hosted_tokens: int = 0
    owned: int = 0
    owned_tokens: int = 0
    last_step: int = 0


@dataclass(slots=True)
class LedgerBook:
    """What was committed.

    Attributes:
        history: sums `tokens`, `loss_sum`, and of steps whose duration is known `seconds` and `timed_tokens`.
        newest: step.
    """

    history: History = field(default_factory=History)
    contributions: dict[str, Contribution] = field(default_factory=dict)
    newest: StepRow | None = None
    tokens: int = 0

    @property
    def num_steps(self) -> int:
        """Committed so far."""
        return 0 if self.newest is None else self.newest.step + 1

    def take_step(self, row: StepRow) -> None:
        """The next committed step. How long the first step of a term took is not known: it waited for its members."""
        sums = {"tokens": float(row.tokens), "loss_sum": row.loss_sum}
        if self.newest is not None and self.newest.term == row.term:
            sums |= {"seconds": row.committed_at_s - self.newest.committed_at_s, "timed_tokens": float(row.tokens)}
        self.history.add(row.step + 1, sums)
        self.newest = row
        self.tokens += row.tokens

    def take_work(self, peer: str, kind: str, microbatches: int, tokens: int, last_step: int) -> None:
        """What a peer did in the steps that were taken last.

        Args:
            kind: `hosted` or `owned`.
            last_step: counted from 0.
        """
        done = self.contributions.setdefault(peer, Contribution())
        if kind == "hosted":
            done.hosted += microbatches
            done.hosted_tokens += tokens
        else:
            done.owned += microbatches
            done.owned_tokens += tokens
        done.last_step = max(done.last_step, last_step + 1)
