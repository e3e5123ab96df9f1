"""What this machine can do for this run, measured on the run's own layers and over the real transport."""

from __future__ import annotations

import time

import torch

from swarm.config import NodeConfig, RunConfig
from swarm.model.blueprint import Layout
from swarm.model.slices import build_trunk_slice
from swarm.model.spans import LayerSpan
from swarm.net.endpoint import Endpoint
from swarm.training.device import Device
from swarm.wire.messages import SpeedProbe

_WARM_UP = 1
_TIMED = 5
_PROBE_BYTES = 4 << 20


def measure_layer_s(config: RunConfig, layout: Layout, device: Device) -> float:
    """Seconds for forward and backward of one trunk layer on one microbatch.

    The shortest of a few: at the start of a run other programs on the machine load their libraries, which only adds.

    Runs on the calling thread; call it on the compute thread.
    """
    first = layout.trunk.first
    layer = build_trunk_slice(config, LayerSpan(first, first + 1)).to(device.torch_device)
    shape = (config.batch.microbatch_sequences, config.data.context_tokens, layout.hidden_size)
    hidden = torch.randn(shape, device=device.torch_device, requires_grad=True)
    durations = []
    for _ in range(_WARM_UP + _TIMED):
        started_s = time.perf_counter()
        with device.autocast():
            output = layer(hidden)
        output.backward(torch.ones_like(output))
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize(device.torch_device)
        durations.append(time.perf_counter() - started_s)
    return min(durations[_WARM_UP:])


def usable_memory_bytes(node: NodeConfig, device: Device) -> int:
    """Free memory on the device, or the user's limit where that is less."""
    free = device.free_memory_bytes()
    return min(free, node.memory_bytes) if node.memory_bytes else free


async def measure_bytes_per_s(endpoint: Endpoint, peer: str) -> float:
    """Rate to another peer over the real transport: one transfer to warm up, one timed.

    Raises:
        NetworkError: the peer cannot be reached.
    """
    payload = bytes(_PROBE_BYTES)
    duration_s = 1.0
    for _ in range(2):
        started_s = time.perf_counter()
        await endpoint.request(peer, SpeedProbe(), payload)
        duration_s = time.perf_counter() - started_s
    return _PROBE_BYTES / duration_s
