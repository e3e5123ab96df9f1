"""The other side of a measured line."""

from __future__ import annotations

from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import Ack, SpeedProbe, WantProbe
from swarm.wire.payloads import MAX_PROBE_BYTES


def answer_probes(endpoint: Endpoint) -> None:
    """Let members time transfers to and from us."""
    endpoint.on_request(SpeedProbe, _on_speed_probe)
    endpoint.on_request(WantProbe, _on_want_probe)


async def _on_speed_probe(delivery: Delivery) -> Reply:
    return Reply(Ack())


async def _on_want_probe(delivery: Delivery) -> Reply:
    assert isinstance(delivery.message, WantProbe)
    return Reply(SpeedProbe(), bytes(min(delivery.message.num_bytes, MAX_PROBE_BYTES)))
