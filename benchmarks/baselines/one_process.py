"""The whole model in one process: no slices, nothing sent. Two of them with a thread each are what two cores can do.

{"do": "start", "values", "threads", "seed"}  -> {"parameters"}
{"do": "steps", "count"}                      -> {"seconds", "tokens"}
"""

from __future__ import annotations

import time

import torch

from benchmarks.baselines.work import Updates, batches, run_config
from benchmarks.workers.lines import Line, answer, lines
from swarm.model.slices import build_full
from swarm.training.device import Device
from swarm.training.evaluate import loss_sum


def main() -> None:
    """Until standard input ends."""
    told = lines()
    start = next(told)
    config = run_config(start["values"])
    torch.set_num_threads(start["threads"])
    device = Device("cpu", config.numerics.precision)
    model = build_full(config)
    updates, feed = Updates(config, model), batches(config, start["seed"])
    answer({"parameters": sum(parameter.numel() for parameter in model.parameters())})
    microbatches = config.batch.global_batch_microbatches
    tokens = microbatches * config.microbatch_tokens

    def steps(line: Line) -> Line:
        started_s = time.perf_counter()
        for _ in range(line["count"]):
            for _ in range(microbatches):
                ids, labels = next(feed)
                with device.autocast():
                    loss = loss_sum(model, ids, labels)
                torch.autograd.backward(loss)
            updates.take(tokens)
        return {"seconds": time.perf_counter() - started_s, "tokens": line["count"] * tokens}

    for line in told:
        answer(steps(line))


if __name__ == "__main__":
    main()
