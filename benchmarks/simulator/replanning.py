"""The production `Replanning` for a simulated swarm: it hears what the scheduler's shell would tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.simulator.config import VirtualHost
from scheduler.drafting import Draft
from scheduler.planner.instance import Instance, Ints
from scheduler.planner.intake import Measured, claims_of, hosts_of
from scheduler.planner.moves import Policy
from scheduler.replanning import Replanning
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import Capabilities


class Followed:
    """One swarm, followed from the plan that it begins with.

    Args:
        instance: of the peers that are there at the beginning.
        plan: that holds.
        policy: what moves and copies are worth.
    """

    def __init__(self, instance: Instance, plan: Plan, policy: Policy) -> None:
        self._instance = instance
        self._claims = {claim.name: claim for claim in claims_of(instance.hosts)}
        self._lost: set[str] = set()
        draft = Draft(plan.fingerprint, plan.stages[0].first_layer)
        self._replanning = Replanning(plan, draft, self._survey, policy)

    def _survey(self) -> Instance:
        """All that are here now."""
        hosts, _ = hosts_of(list(self._claims.values()), len(self._instance.regions.latency_s))
        living: Ints = np.array(
            [row for row, name in enumerate(self._instance.owners.names) if name not in self._lost], dtype=np.int64
        )
        return replace(self._instance, hosts=hosts, owners=self._instance.owners.take(living))

    def joined(self, host: VirtualHost) -> None:
        """A host is there."""
        self._claims[host.name] = claim_of(host)
        facts = Capabilities(
            roles=("host",),
            addresses=(),
            memory_bytes=int(host.memory_bytes),
            layer_seconds=host.layer_s,
            overhead_seconds=host.overhead_s,
            layer_bytes=0,
            graph_bytes=0,
            ends_seconds=0.0,
            up_bytes_per_s=host.up_bytes_per_s,
            down_bytes_per_s=host.down_bytes_per_s,
            links=(),
        )
        self._replanning.joined(host.name, facts)

    def lost(self, peer: str) -> None:
        """A peer is gone."""
        self._lost.add(peer)
        self._claims.pop(peer, None)
        self._replanning.lost(peer)

    def holds(self, plan: Plan) -> None:
        """Another plan holds."""
        self._replanning.changed(plan)

    def called_off(self) -> None:
        """The plan that was proposed does not come."""
        self._replanning.called_off()

    def shadow_is_current(self, peer: str, span: Span) -> None:
        """A host holds what it keeps a copy of."""
        self._replanning.shadow_is_current(peer, span)

    def shadow_is_gone(self, peer: str, span: Span) -> None:
        """A host keeps no copy."""
        self._replanning.shadow_is_gone(peer, span)

    def wanted(self) -> Plan | None:
        """The plan to propose, once; None for no change."""
        return self._replanning.target()


def claim_of(host: VirtualHost) -> Measured:
    """What a virtual host would say of itself."""
    return Measured(
        name=host.name,
        memory_bytes=host.memory_bytes,
        layer_s=host.layer_s,
        up_bytes_per_s=host.up_bytes_per_s,
        down_bytes_per_s=host.down_bytes_per_s,
        overhead_s=host.overhead_s,
        region=host.region,
    )
