"""What a simulation found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """One simulation.

    Attributes:
        step_s: of each committed step, from commit to commit; the first from the start.
        committed_at_s: of each step.
        tokens: of each step.
        shares: where the time of all hosts went, in parts of 1: `compute`, `link`, `bubble`, `reduce`, `migration`
            (peers without a stage that load one) and `idle` (other standbys); the dead are left out.
        owners_utilisation: computing share of the owners' time.
        boundary_bytes, reduced_bytes, migrated_bytes: sent in frames, in all-reduces, in states and averages for
            peers that change their stage.
        attempts: microbatches sent out; `microbatches` of them were needed.
        lost_compute_s: computed, but not in any commit.
        plans: numbers of the plans that held, with the step from which each did.
        problem: why the run halted; empty if it finished.
        events: of the simulator.
    """

    step_s: list[float] = field(default_factory=list)
    committed_at_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    owners_utilisation: float = 0.0
    boundary_bytes: float = 0.0
    reduced_bytes: float = 0.0
    migrated_bytes: float = 0.0
    microbatches: int = 0
    attempts: int = 0
    lost_compute_s: float = 0.0
    lost_peers: tuple[str, ...] = ()
    plans: list[tuple[int, int]] = field(default_factory=list)
    problem: str = ""
    events: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Over all committed steps."""
        return sum(self.tokens) / self.committed_at_s[-1] if self.committed_at_s else 0.0

    def median_tokens_per_s(self, skipped_steps: int) -> float:
        """Of the median step after the first ones."""
        return self.tokens[-1] / statistics.median(self.step_s[skipped_steps:])
