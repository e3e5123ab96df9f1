# ruff: noqa: T201 - an example prints what it finds
"""What does a coarser boundary codec cost in loss? Two runs on this machine, with the same seed and text.

    python -m benchmarks.examples.codecs_and_loss FOLDER [STEPS]

Each cell (`# %%`) can be run in a notebook, too.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.corpora import write_random_shards
from swarm.client import LocalRun, Step
from swarm.model.presets import byte_llama

# %% The run: everything that a run.toml can say


def values(codec: str, steps: int) -> dict[str, Any]:
    """Of a model that trains within seconds."""
    return {
        "name": f"boundary {codec}",
        "model": byte_llama(num_layers=4, width=32, context_tokens=16, num_heads=2, mlp_width=64),
        "data": {"context_tokens": 16},
        "batch": {"microbatch_sequences": 2, "global_batch_microbatches": 4},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
        "numerics": {"boundary_codec": codec},
        "schedule": {"steps": steps, "checkpoint_every_steps": steps},
    }


# %% One run of three processes: a scheduler, a data owner, a host


def trained(folder: Path, codec: str, steps: int) -> list[Step]:
    """Its steps, as they came."""
    shards = write_random_shards(folder / f"{codec}-text", 1, 1, 4000)
    with LocalRun(folder / codec, values(codec, steps), shards, hosts=1) as local:
        found = []
        for step in local.run.follow():
            print(f"{codec}  step {step.number}  loss {step.loss:.4f}  {step.tokens} tokens")
            found.append(step)
        checkpoint = local.wait_finished()
        plan = local.run.plan
        assert plan is not None
        work = Counter(host for step in found for row in local.run.work(step.number) for host in row.route)
    print(f"{codec}  plan {plan['number']}, microbatches by host {dict(work)}, checkpoint {checkpoint.name}")
    return found


# %% The comparison


def compare(folder: Path, steps: int) -> dict[str, float]:
    """The last loss by codec."""
    return {codec: trained(folder, codec, steps)[-1].loss for codec in ("fp32", "int4")}


if __name__ == "__main__":
    losses = compare(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
    print(f"four bits instead of 32 at the boundary: {losses['int4'] - losses['fp32']:+.4f} in the last step's loss")
