"""What this machine can do for this run, measured on the run's own layers and over the real transport."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peers.line import GLANCE_BYTES, SLOW_START_ROUND_TRIPS
from swarm.config import NodeConfig, RunConfig
from swarm.errors import MachineLimit, SwarmError
from swarm.model.layout import Layout
from swarm.model.spans import LayerSpan
from swarm.net.endpoint import Endpoint
from swarm.net.traffic import Traffic
from swarm.net.transport import TENSORS
from swarm.training.device import Device
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire import compression
from swarm.wire.messages import Capabilities, Lease, Link, PeerRecord, SpeedProbe, WantProbe, Work

_MIB = 1 << 20
_LEAST_ATTEMPTS, _MOST_ATTEMPTS = 6, 24
_VAIN_ATTEMPTS = 5
"""In a row, none of which was faster by a fiftieth: the shortest is known."""
_FIRST_PROBE_BYTES = 256 << 10
_MAX_PROBE_BYTES = 4 << 20
_LONG_ENOUGH_S = 0.2
"""A transfer of this length measures a line; a shorter one its latency."""
_Transfer = Callable[[int], Awaitable[None]]
MAX_LINKS_MEASURED = 3
"""Other hosts that a newcomer measures its way to."""


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """One trunk layer and one microbatch; the fields of `Capabilities`."""

    layer_seconds: float = 0.0
    overhead_seconds: float = 0.0
    layer_bytes: int = 0
    graph_bytes: int = 0


def measure_layer(config: RunConfig, layout: Layout, device: Device) -> LayerCosts:
    """Run one trunk layer as a stage does: forward, backward, an optimizer step, the codec both ways.

    Times are the shortest of some: at the start of a run other programs on the machine load their libraries, which
    only adds. Runs on the calling thread; call it on the compute thread.
    """
    first = layout.trunk.first
    stage = TrunkStage(config, device, LayerSpan(first, first + 1), keep_bytes=0)
    hidden = torch.randn(_shape(config, layout), generator=torch.Generator().manual_seed(0))
    layer_seconds: list[float] = []
    codec_seconds: list[float] = []
    graph_bytes = 0
    for attempt in itertools.takewhile(lambda _: _is_open(layer_seconds), itertools.count()):
        work = Work(step=0, lease=Lease(number=0, lease=0), attempt=attempt)
        started_s = time.perf_counter()
        with _SavedBytes(stage) as saved:
            output = stage.forward(work, hidden)
        gradient = stage.backward(work, output, count=True)
        layer_seconds.append(time.perf_counter() - started_s)
        graph_bytes = max(graph_bytes, saved.num_bytes)
        codec_seconds.append(_codec_s(config, output) + _codec_s(config, gradient))
    stage.apply(0, stage.mean_gradient(0, 1), 1.0)
    return LayerCosts(
        layer_seconds=min(layer_seconds),
        overhead_seconds=min(codec_seconds),
        layer_bytes=stage.training_bytes,
        graph_bytes=graph_bytes,
    )


def measure_ends(config: RunConfig, layout: Layout, device: Device) -> float:
    """Seconds of an owner's own work on one microbatch, codec included; the shortest of some."""
    ends = EndsStage(config, device, keep_bytes=0)
    ids = torch.zeros((config.batch.microbatch_sequences, config.data.context_tokens), dtype=torch.int64)
    seconds: list[float] = []
    for attempt in itertools.takewhile(lambda _: _is_open(seconds), itertools.count()):
        work = Work(step=0, lease=Lease(number=0, lease=0), attempt=attempt)
        started_s = time.perf_counter()
        hidden = ends.front(work, ids)
        _, gradient = ends.back(work, hidden, ids, count=True)
        ends.front_backward(work, gradient, count=True)
        seconds.append(time.perf_counter() - started_s + _codec_s(config, hidden) + _codec_s(config, gradient))
    return min(seconds)


def _is_open(seconds: Sequence[float]) -> bool:
    """Whether another attempt may still be faster."""
    if len(seconds) < _LEAST_ATTEMPTS:
        return True
    vain = min(seconds[-_VAIN_ATTEMPTS:]) > 0.98 * min(seconds[:-_VAIN_ATTEMPTS])
    return not vain and len(seconds) < _MOST_ATTEMPTS


def _shape(config: RunConfig, layout: Layout) -> tuple[int, int, int]:
    return config.batch.microbatch_sequences, config.data.context_tokens, layout.hidden_size


def _codec_s(config: RunConfig, tensor: Tensor) -> float:
    started_s = time.perf_counter()
    codec = config.numerics.boundary_codecs[-1]  # the coarsest takes longest
    payload = compression.encode(codec, tensor)
    compression.decode(codec, bytes(payload), tuple(tensor.shape))
    return time.perf_counter() - started_s


class _SavedBytes:
    """Counts what autograd keeps between forward and backward, each storage once and parameters not at all."""

    def __init__(self, stage: TrunkStage) -> None:
        self._storages = {parameter.untyped_storage().data_ptr(): 0 for parameter in stage.module(0).parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def __enter__(self) -> _SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    @property
    def num_bytes(self) -> int:
        return sum(self._storages.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


def usable_memory_bytes(node: NodeConfig, device: Device) -> int:
    """Free memory on the device, or the user's limit where that is less."""
    free = device.free_memory_bytes()
    return min(free, node.memory_bytes) if node.memory_bytes else free


def require_room(costs: LayerCosts, free_bytes: int) -> None:
    """A host that holds not even one layer would stand by for ever.

    Raises:
        MachineLimit: the layer and one microbatch's graph take more than is free.
    """
    needed_bytes = costs.layer_bytes + costs.graph_bytes
    if free_bytes < needed_bytes:
        raise MachineLimit(
            f"{free_bytes / _MIB:,.1f} MiB are free for the model, and one layer with one microbatch in flight takes "
            f"{needed_bytes / _MIB:,.1f} MiB",
            "close other programs, or raise --memory-mib",
        )


# --- lines ---------------------------------------------------------------------------------------------------------


async def measure_link(endpoint: Endpoint, peer: str, traffic: Traffic) -> Link:
    """The way to another peer.

    Args:
        traffic: ours: what training sends meanwhile is part of what the line carries. What waits in the daemon counts
            as sent, so that a burst makes the line look wider, not thinner.

    Raises:
        SwarmError: the peer cannot be reached, or does not answer.
    """
    await endpoint.request(peer, SpeedProbe())  # opens the streams, which takes round trips of its own
    started_s = time.perf_counter()
    await endpoint.request(peer, SpeedProbe())
    round_trip_s = time.perf_counter() - started_s

    async def transfer(num_bytes: int) -> None:
        await endpoint.request(peer, SpeedProbe(), bytes(num_bytes))

    await transfer(1)
    rate = await _rate(transfer, round_trip_s, lambda: traffic.sent_bytes)
    return Link(peer=peer, round_trip_s=round_trip_s, bytes_per_s=rate)


async def measure_downlink(endpoint: Endpoint, peer: str, round_trip_s: float, traffic: Traffic) -> float:
    """Bytes/s from another peer; arguments and errors as `measure_link`."""

    async def transfer(num_bytes: int) -> None:
        await endpoint.request(peer, WantProbe(num_bytes=num_bytes), lane=TENSORS)

    return await _rate(transfer, round_trip_s, lambda: traffic.received_bytes)


async def _rate(transfer: _Transfer, round_trip_s: float, moved_bytes: Callable[[], int]) -> float:
    """Bytes/s: transfers grow until one takes long enough; the way itself is not part of the rate."""
    num_bytes = _FIRST_PROBE_BYTES
    long_enough_s = max(_LONG_ENOUGH_S, SLOW_START_ROUND_TRIPS * round_trip_s)
    while True:
        started_s, before_bytes = time.perf_counter(), moved_bytes()
        await transfer(num_bytes)
        duration_s = time.perf_counter() - started_s
        if duration_s >= long_enough_s or num_bytes >= _MAX_PROBE_BYTES:
            moved = max(num_bytes, moved_bytes() - before_bytes)
            return moved / max(duration_s - round_trip_s, duration_s / 10)
        num_bytes = min(4 * num_bytes, _MAX_PROBE_BYTES)


@dataclass(frozen=True, slots=True)
class Glance:
    """One short transfer in one direction: how long it took, and what went over the line meanwhile, itself included."""

    duration_s: float
    moved_bytes: int


async def glance(endpoint: Endpoint, peer: str, traffic: Traffic) -> tuple[Glance, Glance]:
    """To a peer, and back from it; arguments and errors as `measure_link`."""
    started_s, sent_bytes = time.perf_counter(), traffic.sent_bytes
    await endpoint.request(peer, SpeedProbe(), bytes(GLANCE_BYTES))
    there = Glance(time.perf_counter() - started_s, traffic.sent_bytes - sent_bytes)
    started_s, received_bytes = time.perf_counter(), traffic.received_bytes
    await endpoint.request(peer, WantProbe(num_bytes=GLANCE_BYTES), lane=TENSORS)
    return there, Glance(time.perf_counter() - started_s, traffic.received_bytes - received_bytes)


async def measure_links(endpoint: Endpoint, records: Mapping[str, PeerRecord], traffic: Traffic) -> list[Link]:
    """Ways to a few other hosts: those that the fewest have measured so far."""
    links = []
    for peer in _least_known(endpoint.peer_id, {peer: record.capabilities for peer, record in records.items()}):
        try:
            links.append(await measure_link(endpoint, peer, traffic))
        except SwarmError:
            continue  # the record may outlive its peer
    return links


def _least_known(own: str, capabilities: Mapping[str, Capabilities]) -> Iterable[str]:
    known = [link.peer for facts in capabilities.values() for link in facts.links]
    hosts = [peer for peer, facts in capabilities.items() if peer != own and "host" in facts.roles]
    return sorted(hosts, key=lambda peer: (known.count(peer) + len(capabilities[peer].links), peer))[
        :MAX_LINKS_MEASURED
    ]
