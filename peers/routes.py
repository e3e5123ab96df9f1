"""Which replica of each stage a microbatch visits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from swarm.plan import Plan


@dataclass(slots=True)
class Router:
    """Draws routes by the plan's weights and by what is in flight.

    The next replica of a stage is the one with the least work per weight once this microbatch is added, so that
    weights hold over time and a replica that falls behind gets less.
    """

    plan: Plan
    lost: set[str] = field(default_factory=set)
    _in_flight: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, int] = field(default_factory=dict)

    def draw(self, prefer: Collection[str] = (), avoid: Collection[str] = ()) -> tuple[str, ...] | None:
        """One replica a stage, or None while a stage has no replica left.

        Args:
            prefer: replicas of an earlier attempt; they may have counted the microbatch already.
            avoid: replicas that just failed; taken only where there is no other.
        """
        route = []
        for stage in self.plan.stages:
            live = [
                pair for pair in zip(stage.replicas, stage.routing_weights, strict=True) if pair[0] not in self.lost
            ]
            if not live:
                return None
            healthy = [pair for pair in live if pair[0] not in avoid] or live
            known = [pair for pair in healthy if pair[0] in prefer]
            route.append(min(known or healthy, key=self._load)[0])
        for peer in route:
            self._in_flight[peer] = self._in_flight.get(peer, 0) + 1
            self._sent[peer] = self._sent.get(peer, 0) + 1
        return tuple(route)

    def release(self, route: tuple[str, ...]) -> None:
        """A microbatch left its route, done or not."""
        for peer in route:
            self._in_flight[peer] -= 1

    def _load(self, replica: tuple[str, float]) -> tuple[float, float, str]:
        peer, weight = replica
        return (self._in_flight.get(peer, 0) + 1) / weight, (self._sent.get(peer, 0) + 1) / weight, peer
