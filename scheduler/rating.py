"""Whether members are as fast as they measured themselves, judged by what they deliver. Pure.

Two witnesses, looked at together after every window of steps:

- the ledger. Owners draw routes by the plan's weights and pass over a replica with too much of its stage's work in
  flight; one that counts much less than its weight's share of its stage is slower than the plan believes.
- the member itself, which times its layers while it trains.

Whoever falls short is as slow as the worse of the two says; for the others the member's own word counts. A window may
have been bad luck; the second one that says the same changes the rating.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from swarm.plan import Plan

WINDOW_MICROBATCHES = 24
"""A window is over when every stage has counted so many for each of its replicas."""
MOST_FASTER = 2.0
"""Than it measured when it came: more than that no member's word makes it."""
TOLERANCE = 1.33
"""Slower or faster by less than this is as measured."""


@dataclass(slots=True)
class Rating:
    """Seconds a layer of every host, as believed and as observed."""

    _measured: dict[str, float] = field(default_factory=dict)
    _claims: dict[str, float] = field(default_factory=dict)
    _told: dict[str, float] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _plan: Plan | None = None
    _doubts: dict[str, float] = field(default_factory=dict)

    def claim(self, peer: str, layer_s: float) -> None:
        """What a host measured when it came, or was rated at since."""
        self._measured.setdefault(peer, layer_s)
        self._claims[peer] = layer_s
        self._doubts.pop(peer, None)

    def tell(self, peer: str, layer_s: float) -> None:
        """What a host observes while it trains; 0 where it has not yet."""
        if layer_s > 0:
            self._told[peer] = layer_s

    def counted(self, plan: Plan, routes: Iterable[tuple[str, ...]]) -> dict[str, float]:
        """A step was committed.

        Args:
            routes: of its microbatches.

        Returns:
            Seconds a layer of hosts that are rated anew, at the end of a window; mostly empty.
        """
        if self._plan is None or plan.number != self._plan.number:
            self._plan, self._counts = plan, Counter()
        for route in routes:
            self._counts.update(route)
        for stage in plan.stages:
            if sum(self._counts[peer] for peer in stage.replicas) < WINDOW_MICROBATCHES * len(stage.replicas):
                return {}
        observed = dict(self._observations(plan))
        self._counts = Counter()
        doubts = {peer: layer_s for peer, layer_s in observed.items() if self._is_doubted(peer, layer_s)}
        rerated = {peer: layer_s for peer, layer_s in doubts.items() if self._says_the_same(peer, layer_s)}
        self._doubts = doubts
        for peer, layer_s in rerated.items():
            self.claim(peer, layer_s)
        return rerated

    def _observations(self, plan: Plan) -> Iterable[tuple[str, float]]:
        for stage in plan.stages:
            total = sum(self._counts[peer] for peer in stage.replicas)
            total_weight = sum(stage.routing_weights)
            for peer, weight in zip(stage.replicas, stage.routing_weights, strict=True):
                claimed = self._claims.get(peer)
                if claimed is None:
                    continue
                wanted = total * weight / total_weight
                counted = self._counts[peer] + 1  # one microbatch more or less is chance
                told = max(self._told.get(peer, claimed), self._measured[peer] / MOST_FASTER)
                yield peer, told if counted >= wanted else max(told, claimed * wanted / counted)

    def _is_doubted(self, peer: str, layer_s: float) -> bool:
        claimed = self._claims[peer]
        return layer_s > TOLERANCE * claimed or claimed > TOLERANCE * layer_s

    def _says_the_same(self, peer: str, layer_s: float) -> bool:
        before = self._doubts.get(peer)
        return before is not None and (before > self._claims[peer]) == (layer_s > self._claims[peer])
