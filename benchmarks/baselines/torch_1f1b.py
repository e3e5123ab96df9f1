"""torch.distributed.pipelining: the model in two halves, 1F1B, gloo on loopback. One process a rank.

{"do": "start", "values", "rank", "rendezvous", "seed"}  -> {}
{"do": "steps", "count"}                                 -> {"seconds", "tokens"}
"""

from __future__ import annotations

import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from benchmarks.baselines.work import Updates, batches, run_config
from benchmarks.workers.lines import Line, answer, lines
from swarm.config import RunConfig
from swarm.model.blueprint import decoder_of
from swarm.model.slices import build_full
from swarm.training.device import Device

RANKS = 2
_RENDEZVOUS_S = 120.0


class Half(nn.Module):
    """The embedding and the first layers, or the last layers and the head; both in the run's precision."""

    def __init__(self, config: RunConfig, device: Device, rank: int) -> None:
        super().__init__()
        self.model = build_full(config)
        self._device = device
        self._is_first = rank == 0
        decoder = decoder_of(self.model)
        middle = len(decoder.layers) // 2
        if self._is_first:
            decoder.layers = decoder.layers[:middle]
            decoder.norm = nn.Identity()
            del self.model.lm_head
        else:
            decoder.layers = decoder.layers[middle:]
            decoder.embed_tokens = None

    def forward(self, given: Tensor) -> Tensor:
        """Token ids to a boundary activation, or that to logits; fp32 between ranks."""
        with self._device.autocast():
            if self._is_first:
                hidden: Tensor = decoder_of(self.model)(input_ids=given, use_cache=False).last_hidden_state
                return hidden.float()
            logits: Tensor = self.model(inputs_embeds=given, use_cache=False).logits
            return logits.float()


def main() -> None:
    """Until standard input ends."""
    told = lines()
    start = next(told)
    config, rank = run_config(start["values"]), int(start["rank"])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{start['rendezvous']}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=_RENDEZVOUS_S),
    )
    half = Half(config, Device("cpu", config.numerics.precision), rank)
    microbatches = config.batch.global_batch_microbatches
    stage = PipelineStage(half, rank, RANKS, torch.device("cpu"))
    schedule = Schedule1F1B(stage, microbatches, loss_fn=_loss_sum, scale_grads=False)
    updates, feed = Updates(config, half.model), batches(config, start["seed"])
    tokens = microbatches * config.microbatch_tokens
    answer({})

    def steps(line: Line) -> Line:
        dist.barrier()
        started_s = time.perf_counter()
        for _ in range(line["count"]):
            ids, labels = (torch.cat(parts) for parts in zip(*(next(feed) for _ in range(microbatches)), strict=True))
            if rank == 0:
                schedule.step(ids)
            else:
                schedule.step(target=labels, losses=[])
            updates.take(tokens)
        dist.barrier()
        return {"seconds": time.perf_counter() - started_s, "tokens": line["count"] * tokens}

    for line in told:
        answer(steps(line))


def _loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


if __name__ == "__main__":
    main()
