"""Which replica of each stage a microbatch visits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from peers.detours import Way
from swarm.plan import Plan, StagePlan


@dataclass(slots=True)
class Router:
    """Draws routes by the plan's weights and by what is in flight.

    Over time every replica of a stage gets its weight's share. A replica that falls behind, so that more than its share
    of the stage's work in flight waits there, is passed over until it has caught up.

    Args:
        salt: another one begins with other replicas: owners would all begin with the same.
    """

    plan: Plan
    salt: str = ""
    lost: set[str] = field(default_factory=set)
    _in_flight: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, int] = field(default_factory=dict)
    _phases: dict[str, float] = field(default_factory=dict)

    def draw(
        self,
        prefer: Collection[str] = (),
        avoid: Collection[str] = (),
        owner: str = "",
        broken: frozenset[Way] = frozenset(),
    ) -> tuple[str, ...] | None:
        """One replica a stage, or None while a stage has no replica left.

        Args:
            prefer: replicas of an earlier attempt; they may have counted the microbatch already.
            avoid: replicas that just failed; taken only where there is no other.
            owner: where the route begins and ends.
            broken: ways that do not work; taken only where there is no way around.
        """
        stages = [self._live(stage) for stage in self.plan.stages]
        if not all(stages):
            return None
        sound = _sound(stages, owner, broken) if broken else []
        route: list[str] = []
        for number, live in enumerate(stages):
            healthy = [peer for peer in live if peer not in avoid] or list(live)
            if broken:
                before = route[-1] if route else owner
                on = [peer for peer in healthy if peer in sound[number] and frozenset((before, peer)) not in broken]
                healthy = on or healthy
            known = [peer for peer in healthy if peer in prefer]
            route.append(self._next(known or healthy, live))
        for peer in route:
            self._in_flight[peer] = self._in_flight.get(peer, 0) + 1
            self._sent[peer] = self._sent.get(peer, 0) + 1
        return tuple(route)

    def release(self, route: tuple[str, ...]) -> None:
        """A microbatch left its route, done or not."""
        for peer in route:
            self._in_flight[peer] -= 1

    def _live(self, stage: StagePlan) -> dict[str, float]:
        replicas = zip(stage.replicas, stage.routing_weights, strict=True)
        return {peer: weight for peer, weight in replicas if peer not in self.lost}

    def _next(self, candidates: Collection[str], live: Mapping[str, float]) -> str:
        in_flight = sum(self._in_flight.get(peer, 0) for peer in live) + 1
        total_weight = sum(live.values())

        def key(peer: str) -> tuple[bool, float, str]:
            share = math.ceil(in_flight * live[peer] / total_weight)
            turn = (self._sent.get(peer, 0) + self._phase(peer)) / live[peer]
            return self._in_flight.get(peer, 0) >= share, turn, peer

        return min(candidates, key=key)

    def _phase(self, peer: str) -> float:
        """Where in its turn a peer begins, in (0, 1]."""
        phase = self._phases.get(peer)
        if phase is None:
            digest = hashlib.sha256(f"{self.salt}/{peer}".encode()).digest()
            phase = self._phases[peer] = (1 + int.from_bytes(digest[:4], "big")) / 2**32
        return phase


def _sound(stages: Sequence[Collection[str]], owner: str, broken: frozenset[Way]) -> list[set[str]]:
    """By stage, the replicas from which some way home is not broken."""
    found: list[set[str]] = []
    onward: Collection[str] = (owner,)
    for replicas in reversed(stages):
        sound = {peer for peer in replicas if any(frozenset((peer, after)) not in broken for after in onward)}
        found.insert(0, sound)
        onward = sound
    return found
