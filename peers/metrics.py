"""A peer's Prometheus metrics, on a port of its own that only this machine reaches."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from swarm.errors import PortTaken
from swarm.wire.messages import Heartbeat

_HOST = "127.0.0.1"


class PeerMetrics:
    """Serves from a thread what the peer's loop handed over last; nothing is asked of the loop.

    Args:
        port: to listen on; 0 takes a free one.

    Raises:
        PortTaken: cannot listen there.
    """

    def __init__(self, port: int) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._tokens = _Tokens()
        registry.register(self._tokens)
        self._layer_s = Gauge("swarm_peer_layer_seconds", "Of a layer, forward and backward", registry=registry)
        self._waits = Gauge("swarm_peer_waiting", "1 while the peer waits for others", registry=registry)
        try:
            server, _ = start_http_server(port, _HOST, registry)
        except OSError as error:
            raise PortTaken(
                f"cannot show metrics on {_HOST}:{port} ({error.strerror})", "choose another --metrics-port, or 0"
            ) from None
        self.url = f"http://{_HOST}:{server.server_port}/metrics"

    def take(self, heartbeat: Heartbeat) -> None:
        """What the peer tells its scheduler."""
        self._tokens.total = heartbeat.computed_tokens
        self._layer_s.set(heartbeat.layer_seconds)
        self._waits.set(bool(heartbeat.waiting_for))


class _Tokens(Collector):
    """The peer counts by itself."""

    total = 0

    def collect(self) -> list[CounterMetricFamily]:
        return [CounterMetricFamily("swarm_peer_computed_tokens", "Computed since the start", value=self.total)]
