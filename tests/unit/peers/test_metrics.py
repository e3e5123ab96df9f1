"""A peer's metrics are what it tells its scheduler."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peers.metrics import PeerMetrics
from swarm.errors import PortTaken
from swarm.wire.messages import Heartbeat


def scraped(metrics: PeerMetrics) -> dict[str, float]:
    with urlopen(metrics.url) as answer:  # noqa: S310 - our server
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_metrics_follow_heartbeats() -> None:
    metrics = PeerMetrics(0)
    metrics.take(Heartbeat(waiting_for="gradients", computed_tokens=96, layer_seconds=0.25))
    found = scraped(metrics)
    assert found["swarm_peer_computed_tokens_total"] == 96
    assert (found["swarm_peer_layer_seconds"], found["swarm_peer_waiting"]) == (0.25, 1)
    assert found["process_resident_memory_bytes"] > 0
    metrics.take(Heartbeat(waiting_for="", computed_tokens=128, layer_seconds=0.25))
    found = scraped(metrics)
    assert (found["swarm_peer_computed_tokens_total"], found["swarm_peer_waiting"]) == (128, 0)


def test_a_taken_port_is_told() -> None:
    port = int(PeerMetrics(0).url.split(":")[2].split("/")[0])
    with pytest.raises(PortTaken, match=str(port)):
        PeerMetrics(port)
