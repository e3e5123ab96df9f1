"""How others follow churn, behind the interface of our `Replanner`; none of them is the original program.

`Random` joins anywhere; `Weakest` where throughput is least; `Rebalancing` joins there too and moves one peer every
300 s from the richest to the poorest stage (SWARM's rule); `Naive` makes up to two moves at every event, whenever the
planned balance gets better by that, whatever they cost.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from scheduler.planner.instance import Assignment, Instance
from scheduler.planner.intake import Measured, claims_of
from scheduler.planner.moves import Decision, Economy, Move, Policy
from scheduler.planner.occupancy import Occupancy, Occupant, Phase

SWARM_PERIOD_S = 300.0


class Follower(Protocol):
    """Hears of every event, answers with moves."""

    def join(self, claim: Measured) -> Decision:
        """A peer is here."""

    def leave(self, name: str) -> Decision:
        """A peer is gone."""

    def arrived(self, name: str) -> Decision:
        """A peer serves its stage."""

    def copied(self, name: str, stage: int) -> Decision:
        """A peer's copy is whole."""

    def tick(self) -> Decision:
        """`SWARM_PERIOD_S` have passed."""


class Weakest:
    """Joins where throughput is least; never moves anybody.

    Source: Borzunov et al., Petals, ACL 2023 demonstrations.
    """

    def __init__(self, instance: Instance, assignment: Assignment, seed: int) -> None:
        self.places = Occupancy(instance, assignment.sizes)
        self.generator = np.random.default_rng(seed)
        self._economy = Economy(instance, self.places, Policy(), 0.0)
        for claim, stage in zip(claims_of(instance.hosts), assignment.stage.tolist(), strict=True):
            self.places.add(claim, stage)

    def join(self, claim: Measured) -> Decision:
        """To the stage of `choose`."""
        host = self.places.add(claim)
        return Decision((self.move(host, self.choose()), *self.rebalance(1)))

    def leave(self, name: str) -> Decision:
        """Forget it."""
        self.places.remove(name)
        return Decision(tuple(self.rebalance(2)))

    def arrived(self, name: str) -> Decision:
        """It serves."""
        host = self.places.hosts[name]
        self.places.change(host, phase=Phase.SERVING, stage=host.stage, copy=-1, copy_whole=False)
        return Decision()

    def copied(self, name: str, stage: int) -> Decision:
        """There are no copies."""
        return Decision()

    def tick(self) -> Decision:
        """Nothing happens by itself."""
        return Decision()

    def choose(self) -> int:
        """The stage for a peer that joins."""
        return int(np.argmin(self.places.planned))

    def rebalance(self, most: int) -> list[Move]:
        """Moves at an event."""
        return []

    def move(self, host: Occupant, stage: int) -> Move:
        """Make a move."""
        load_s = self._economy.load_s(host, stage)
        self.places.change(host, phase=Phase.LOADING, stage=stage, copy=-1, copy_whole=False)
        return Move(host.name, host.stage, stage, self.places.state_bytes(stage), load_s, "")


class Random(Weakest):
    """Joins anywhere."""

    def choose(self) -> int:
        """Any stage."""
        return int(self.generator.integers(len(self.places.sizes)))


class Rebalancing(Weakest):
    """One move every 300 s.

    Source: Ryabinin et al., SWARM Parallelism, ICML 2023, adaptive rebalancing.
    """

    def tick(self) -> Decision:
        """Any peer of the richest stage goes to the poorest."""
        places = self.places
        richest, poorest = int(np.argmax(places.now)), int(np.argmin(places.now))
        movable = places.members[richest]
        if richest == poorest or len(movable) < 2:
            return Decision()
        _, name = movable[int(self.generator.integers(len(movable)))]
        return Decision((self.move(places.hosts[name], poorest),))


class Naive(Weakest):
    """Whatever improves the planned balance is done."""

    def rebalance(self, most: int) -> list[Move]:
        """From the richest to the poorest, the peer that levels them best."""
        moves: list[Move] = []
        places = self.places
        while len(moves) < most:
            richest, poorest = int(np.argmax(places.planned)), int(np.argmin(places.planned))
            half = (places.planned[richest] - places.planned[poorest]) / 2
            movable = [entry for entry in places.members[richest] if entry[0] < 2 * half]
            if not movable or len(places.members[richest]) < 2:
                break
            _, name = min(movable, key=lambda entry: (abs(entry[0] - half), entry[1]))
            moves.append(self.move(places.hosts[name], poorest))
        return moves
