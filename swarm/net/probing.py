"""The other side of a measured line, and of a newcomer's questions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import Ack, Introduce, Known, SpeedProbe, WantProbe
from swarm.wire.payloads import MAX_PROBE_BYTES


def answer_probes(endpoint: Endpoint, addresses_of: Callable[[str], Awaitable[tuple[str, ...]]]) -> None:
    """Let members time transfers to and from us, and compare what they know with what we know.

    Args:
        addresses_of: where the directory has a member; empty where it does not.
    """

    async def on_introduce(delivery: Delivery) -> Reply:
        addresses = await addresses_of(delivery.remote_id)
        return Reply(Known(time_s=time.time(), addresses=addresses))

    endpoint.on_request(SpeedProbe, _on_speed_probe)
    endpoint.on_request(WantProbe, _on_want_probe)
    endpoint.on_request(Introduce, on_introduce)


async def _on_speed_probe(delivery: Delivery) -> Reply:
    return Reply(Ack())


async def _on_want_probe(delivery: Delivery) -> Reply:
    assert isinstance(delivery.message, WantProbe)
    return Reply(SpeedProbe(), bytes(min(delivery.message.num_bytes, MAX_PROBE_BYTES)))
