"""SWARM's and Petals' way on `hivemind.moe`: servers keep no state of a microbatch, and the client relays every tensor.

A server computes a forward without a graph; its backward gets the input once more, computes the forward again, and
then the backward. Each microbatch is a thread of the client, as its trainers are. Gradients are summed up over a global
batch before a step, as SWARM does; hivemind's own server would take a step with every microbatch.

    server: {"do": "start", "values", "span", "peers"}          -> {"addresses"}
    client: {"do": "start", "values", "spans", "peers", "seed"} -> {}
            {"do": "steps", "count"}                            -> {"seconds", "tokens"}
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hivemind
import torch
from hivemind.moe import ModuleBackend, Server, get_experts
from hivemind.utils.tensor_descr import BatchTensorDescriptor
from torch import Tensor, nn

from benchmarks.baselines.work import Batch, Updates, batches, run_config
from benchmarks.workers.lines import answer, lines
from swarm.config import RunConfig
from swarm.model.slices import build_ends, build_trunk_slice
from swarm.model.spans import LayerSpan
from swarm.training.device import Device

_FOUND_S = 60.0


def uid_of(span: tuple[int, int]) -> str:
    """Name of a server's layers in the DHT."""
    return f"trunk.{span[0]}"


class _Layers(nn.Module):
    """A span in the run's precision, fp32 outside, as hivemind's tensors are."""

    def __init__(self, module: nn.Module, device: Device) -> None:
        super().__init__()
        self.module = module
        self._device = device

    def forward(self, hidden: Tensor) -> Tensor:
        """The next boundary activation."""
        with self._device.autocast():
            output: Tensor = self.module(hidden)
        return output.float()


class _Backend(ModuleBackend):  # type: ignore[misc]
    """Takes an optimizer step when a global batch has been counted."""

    def __init__(self, name: str, module: nn.Module, take_step: Callable[[], None], sequences: int, **kwargs: Any):
        super().__init__(name, module, **kwargs)
        self._take_step = take_step
        self._sequences = sequences
        self._counted = 0

    def on_backward(self, batch_size: int) -> None:
        """After every microbatch."""
        self._counted += batch_size
        if self._counted == self._sequences:
            self._counted = 0
            self._take_step()


def serve() -> None:
    """A server, until standard input ends."""
    told = lines()
    start = next(told)
    config, span = run_config(start["values"]), LayerSpan(*start["span"])
    torch.set_num_threads(1)
    slice_ = build_trunk_slice(config, span)
    updates = Updates(config, slice_)
    layers = _Layers(slice_, Device("cpu", config.numerics.precision))
    schema = BatchTensorDescriptor(config.data.context_tokens, config.model["hidden_size"])
    microbatches, batch = config.batch.global_batch_microbatches, config.batch.microbatch_sequences
    backend = _Backend(
        uid_of(start["span"]),
        layers,
        lambda: updates.take(microbatches * config.microbatch_tokens),
        microbatches * batch,
        args_schema=(schema,),
        outputs_schema=schema,
        min_batch_size=batch,
        max_batch_size=batch,
    )
    dht = hivemind.DHT(start=True, initial_peers=start["peers"])
    server = Server(dht, {backend.name: backend}, num_connection_handlers=4, device=torch.device("cpu"), start=True)
    answer({"addresses": [str(address) for address in dht.get_visible_maddrs()]})
    for _ in told:
        pass
    server.shutdown()


class _Client:
    """Both ends of the model, and the way through the servers."""

    def __init__(self, config: RunConfig, experts: list[nn.Module]) -> None:
        self._device = Device("cpu", config.numerics.precision)
        self._ends = build_ends(config)
        self._experts = experts
        self._updates = Updates(config, self._ends)
        self._tokens = config.batch.global_batch_microbatches * config.microbatch_tokens

    def microbatch(self, batch: Batch) -> None:
        """Forward and backward of one."""
        ids, labels = batch
        with self._device.autocast():
            hidden = self._ends.front(ids).float()
        for expert in self._experts:
            hidden = expert(hidden)
        with self._device.autocast():
            loss = self._ends.back(hidden, labels)
        torch.autograd.backward(loss)

    def step(self, pool: ThreadPoolExecutor, step: list[Batch]) -> None:
        """One optimizer step; the servers take theirs by themselves."""
        for done in [pool.submit(self.microbatch, batch) for batch in step]:
            done.result()
        self._updates.take(self._tokens)


def relay() -> None:
    """The client, until standard input ends."""
    told = lines()
    start = next(told)
    config = run_config(start["values"])
    torch.set_num_threads(1)
    dht = hivemind.DHT(start=True, client_mode=True, initial_peers=start["peers"])
    client = _Client(config, _find(dht, [uid_of(span) for span in start["spans"]]))
    feed, microbatches = batches(config, start["seed"]), config.batch.global_batch_microbatches
    answer({})
    with ThreadPoolExecutor(microbatches, initializer=lambda: torch.set_num_threads(1)) as pool:
        for line in told:
            started_s = time.perf_counter()
            for _ in range(line["count"]):
                client.step(pool, [next(feed) for _ in range(microbatches)])
            tokens = line["count"] * microbatches * config.microbatch_tokens
            answer({"seconds": time.perf_counter() - started_s, "tokens": tokens})


def _find(dht: hivemind.DHT, uids: list[str]) -> list[nn.Module]:
    """Servers announce themselves shortly after they have started."""
    deadline_s = time.monotonic() + _FOUND_S
    while None in (found := get_experts(dht, uids)):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no servers of {uids}")
        time.sleep(0.2)
    return list(found)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else relay()
