"""What boundary codecs cost and spoil: speed on one core, bits a value, and the loss of a model trained with them.

Convergence is measured on a text in one process: the model is cut where a swarm of two stages would cut it, and every
boundary activation and gradient goes through the codec and back, as between two hosts. All codecs see the same batches
from the same initial weights; the gap is the validation loss over fp32's, less one, the median over seeds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.baselines.work import Updates, run_config
from benchmarks.corpora import read_text
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.statistics import summary
from swarm.config import RunConfig
from swarm.data.sampler import microbatch
from swarm.data.tokenizer import ByteTokenizer, TokenArray
from swarm.model.presets import byte_llama
from swarm.model.slices import build_ends, build_trunk_slice
from swarm.model.spans import LayerSpan
from swarm.wire.compression import CODECS, decode, encode, encoded_bytes

CONTEXT_TOKENS, SEQUENCES = 64, 12
TRAINING_SHARE = 0.9
SPEED_SHAPE = (4, 256, 1024)
SPEED_REPEATS = 15
NAMES = {"int8": "int8", "int4": "four_bit", "bf16": "bf16", "spectral": "spectral"}

QUICK = {"steps": 20, "seeds": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    corpus: Path = Path()
    """A UTF-8 text, such as tinyshakespeare."""
    steps: int = 600
    """Optimizer steps of each training."""
    seeds: int = 3
    """Trainings of each codec, from other weights and batches."""


def run(options: Options) -> Result:
    """Measure speed, then train with every codec.

    Raises:
        ShardUnreadable: no corpus, or not text.
    """
    torch.set_num_threads(1)
    text = read_text(options.corpus)
    metrics: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    values = SPEED_SHAPE[0] * SPEED_SHAPE[1] * SPEED_SHAPE[2]
    for codec in CODECS:
        rates = samples[f"{codec}_gb_per_s"] = list(_speeds(codec, options.seed))
        name = NAMES.get(codec, codec)
        metrics[f"{name}_gb_per_s"] = statistics.median(rates)
        metrics[f"{name}_gb_per_s_spread"] = summary(rates)
        metrics[f"{name}_bits_per_value"] = 8 * encoded_bytes(codec, values) / values
    for codec, losses in _losses(options, text).items():
        samples[f"{codec}_val_loss"] = losses
    for codec, name in NAMES.items():
        pairs = zip(samples[f"{codec}_val_loss"], samples["fp32_val_loss"], strict=True)
        metrics[f"{name}_loss_gap"] = statistics.median(loss / exact - 1 for loss, exact in pairs)
    best = min(CODECS, key=lambda codec: encoded_bytes(codec, values))
    metrics["best_ratio"] = encoded_bytes("fp32", values) / encoded_bytes(best, values)
    metrics["best_ratio_loss_gap"] = metrics[f"{NAMES[best]}_loss_gap"]
    return Result.measured(
        "codecs",
        options,
        metrics,
        samples,
        threads=1,
        speed_shape=SPEED_SHAPE,
        run=_values(options.seed, options.steps),
    )


def _speeds(codec: str, seed: int) -> Iterator[float]:
    """Gigabytes of fp32 a second, through encoding and decoding together."""
    tensor = torch.randn(SPEED_SHAPE, generator=torch.Generator().manual_seed(seed))
    for repeat in range(SPEED_REPEATS + 2):
        began_s = time.perf_counter()
        decode(codec, encode(codec, tensor), SPEED_SHAPE)
        if repeat >= 2:
            yield tensor.nbytes / (time.perf_counter() - began_s) / 1e9


def _losses(options: Options, text: str) -> dict[str, list[float]]:
    """Validation losses by codec, one a seed."""
    tokens = ByteTokenizer().encode(text)
    training = tokens[: int(TRAINING_SHARE * len(tokens))]
    validation = tokens[len(training) :]
    found: dict[str, list[float]] = {codec: [] for codec in CODECS}
    with Progress(transient=True) as progress:
        task = progress.add_task("trainings", total=options.seeds * len(CODECS))
        for number in range(options.seeds):
            config = run_config(_values(options.seed + number, options.steps))
            for codec in CODECS:
                progress.update(task, description=f"seed {options.seed + number}, {codec}")
                found[codec].append(_train(config, codec, training, validation, options.steps))
                progress.advance(task)
    return found


class _Hop(torch.autograd.Function):
    """A boundary between two hosts: both ways through a codec."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, codec: str) -> Tensor:
        """Activations go on."""
        ctx.codec = codec
        return decode(codec, encode(codec, hidden), hidden.shape).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradients come back."""
        (gradient,) = gradients
        return decode(ctx.codec, encode(ctx.codec, gradient, gradient=True), gradient.shape).clone(), None


def _hop(hidden: Tensor, codec: str) -> Tensor:
    there: Tensor = _Hop.apply(hidden, codec)  # type: ignore[no-untyped-call]
    return there


def _train(config: RunConfig, codec: str, training: TokenArray, validation: TokenArray, steps: int) -> float:
    """The validation loss in nats a token, after so many steps."""
    ends, stages = build_ends(config), [build_trunk_slice(config, LayerSpan(n, n + 1)) for n in (1, 2)]
    updates = [Updates(config, module) for module in (ends, *stages)]

    def loss_sum(ids: Tensor, labels: Tensor) -> Tensor:
        hidden = _hop(ends.front(ids), codec)
        for stage in stages:
            hidden = _hop(stage(hidden), codec)
        loss: Tensor = ends.back(hidden, labels)
        return loss

    def whole(ids: Tensor) -> Tensor:
        """As the exported model computes, which has no boundaries."""
        hidden = ends.front(ids)
        for stage in stages:
            hidden = stage(hidden)
        return hidden

    for cursor in range(steps):
        ids, labels = map(torch.from_numpy, microbatch(training, config, config.seed, cursor))
        torch.autograd.backward(loss_sum(ids, labels))
        for update in updates:
            update.take(config.microbatch_tokens)
    with torch.no_grad():
        batches = _windows(validation)
        total = sum(float(ends.back(whole(ids), labels)) for ids, labels in batches)
    return total / (len(batches) * SEQUENCES * CONTEXT_TOKENS)


def _windows(tokens: TokenArray) -> list[tuple[Tensor, Tensor]]:
    """Whole microbatches of windows that do not overlap."""
    flat = torch.from_numpy(tokens.astype("int64"))
    size = SEQUENCES * CONTEXT_TOKENS
    starts = range(0, len(flat) - size, size)
    shape = (SEQUENCES, CONTEXT_TOKENS)
    return [(flat[at : at + size].view(shape), flat[at + 1 : at + size + 1].view(shape)) for at in starts]


def _values(seed: int, steps: int) -> dict[str, Any]:
    return {
        "name": "codecs",
        "seed": seed,
        "model": byte_llama(num_layers=4, width=128, context_tokens=CONTEXT_TOKENS, num_heads=4, mlp_width=344),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": 1},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": min(50, steps // 4), "max_grad_norm": 0.0},
        "schedule": {"steps": steps, "checkpoint_every_steps": steps},
    }
