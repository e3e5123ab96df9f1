"""How busy thin, long lines leave a swarm: utilisation against the ratio of transfer to compute time.

A data owner, two hosts of one trunk layer each and the scheduler, each in a network namespace of its own, joined by an
emulated network (root only). Hosts take a stated time for a layer, so that the ratio r can be set: the time that the
boundary tensors of one microbatch take on a host's line in bf16 (an activation and a gradient go out, as many come in)
over the time that its layer takes. Utilisation is that layer's time over the step's wall time; the bound is
min(1, 1 / (r c)), where c is the codec's bytes over bf16's. The emulator is checked over plain TCP before each point.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.wan.emulator import Emulator, emulated
from benchmarks.wan.wires import Network, PeerLine, Way
from swarm.errors import ConfigError, DeadlineExceeded, RunError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama
from swarm.wire.compression import CODECS, encoded_bytes

WIDTH, CONTEXT_TOKENS, SEQUENCES = 32, 128, 16
"""Narrow, so that the two cores are not busy with what the emulated devices only seem to compute."""
BOUNDARY_VALUES = WIDTH * CONTEXT_TOKENS * SEQUENCES
STAGES = 2
PEERS = ("owner-0", "host-0", "host-1")
SKIPPED_STEPS = 1
SHARD_CHARACTERS = 200_000
RUN_TIMEOUT_S = 900.0
MOST_ERROR = 0.05
"""Of the emulator's rate and delay; a millisecond is the machine's own."""
DELAY_ERROR_MS = 1.5

QUICK = {"ratios": "1", "delays_ms": "0", "steps": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    ratios: str = "0.25,0.5,1,2,4,8,20"
    """Transfer over compute time, in bf16."""
    delays_ms: str = "0,50"
    """One way, between any two."""
    codecs: str = "bf16"
    """Of the boundaries: `fp32`, `bf16`, `int8`, `int4`, `spectral`."""
    steps: int = 2
    """Measured optimizer steps of each point."""


@dataclass(frozen=True, slots=True)
class Point:
    """One swarm to be measured."""

    ratio: float
    delay_ms: float
    codec: str

    @property
    def layer_s(self) -> float:
        """Emulated; shorter where transfers take long anyway."""
        return 0.1 if self.ratio <= 1 else 0.05

    @property
    def microbatches(self) -> int:
        """A step; enough that filling and draining the pipeline does not hide what is asked."""
        return 256 if self.ratio <= 2 else 96

    @property
    def mbit(self) -> float:
        """Of every peer's line, up and down."""
        return 2 * encoded_bytes("bf16", BOUNDARY_VALUES) * 8 / (self.ratio * self.layer_s) / 1e6

    @property
    def bytes_over_bf16(self) -> float:
        """c: what the codec sends over what bf16 sends."""
        return encoded_bytes(self.codec, BOUNDARY_VALUES) / encoded_bytes("bf16", BOUNDARY_VALUES)

    @property
    def bound(self) -> float:
        """The utilisation that the line allows."""
        return min(1.0, 1 / (self.ratio * self.bytes_over_bf16))


def run(options: Options) -> Result:
    """Measure every point.

    Raises:
        ConfigError: not root, or options that are no numbers or codecs.
    """
    points: list[dict[str, Any]] = []
    samples: dict[str, list[float]] = {}
    asked = list(_points(options))
    with Progress(transient=True) as progress:
        task = progress.add_task("points", total=len(asked))
        for point in asked:
            name = f"r {point.ratio:g}, {point.delay_ms:g} ms, {point.codec}"
            progress.update(task, description=name)
            try:
                found, seconds = _measure(point, options)
            except (RunError, DeadlineExceeded) as error:  # the others are worth having
                found, seconds = asdict(point) | {"problem": str(error), "utilisation_over_bound": 0.0}, []
            points.append(found)
            samples[f"step_s: {name}"] = seconds
            progress.advance(task)
    metrics = {
        "points": points,
        "least_utilisation_over_bound": min(point["utilisation_over_bound"] for point in points),
        "boundary_bytes_bf16": encoded_bytes("bf16", BOUNDARY_VALUES),
    }
    return Result.measured("wan", options, metrics, samples, peers=PEERS, stages=STAGES, skipped_steps=SKIPPED_STEPS)


def _points(options: Options) -> Iterator[Point]:
    try:
        ratios = [float(each) for each in options.ratios.split(",")]
        delays_ms = [float(each) for each in options.delays_ms.split(",")]
    except ValueError:
        raise ConfigError("--ratios and --delays-ms are lists of numbers", "write 0.5,1,2") from None
    codecs = options.codecs.split(",")
    if not set(codecs) <= set(CODECS):
        raise ConfigError(f"--codecs is {options.codecs}", f"choose from {', '.join(CODECS)}")
    for codec in codecs:
        for delay_ms in delays_ms:
            for ratio in ratios:
                yield Point(ratio, delay_ms, codec)


def _measure(point: Point, options: Options) -> tuple[dict[str, Any], list[float]]:
    lines = {name: PeerLine(up_mbit=point.mbit, down_mbit=point.mbit) for name in PEERS}
    network = Network({**lines, "scheduler": PeerLine()}, default=Way(delay_ms=point.delay_ms))
    with emulated(network, options.seed) as emulator, tempfile.TemporaryDirectory(prefix="swarm-wan-") as folder:
        delay_ms, mbit = emulator.measured("host-0", "host-1", point.mbit)
        seconds = _step_seconds(point, options, emulator, Path(folder))
    utilisation = point.microbatches * point.layer_s / (sum(seconds) / len(seconds))
    return {
        "ratio": point.ratio,
        "delay_ms": point.delay_ms,
        "codec": point.codec,
        "bytes_over_bf16": point.bytes_over_bf16,
        "utilisation": utilisation,
        "bound": point.bound,
        "utilisation_over_bound": utilisation / point.bound,
        "layer_s": point.layer_s,
        "microbatches": point.microbatches,
        "mbit": point.mbit,
        "emulated_mbit": mbit,
        "emulated_delay_ms": delay_ms,
        "emulator_is_true": abs(mbit / point.mbit - 1) <= MOST_ERROR
        and abs(delay_ms - point.delay_ms) <= MOST_ERROR * point.delay_ms + DELAY_ERROR_MS,
    }, seconds


def _step_seconds(point: Point, options: Options, emulator: Emulator, folder: Path) -> list[float]:
    """From commit to commit."""
    values = _run_values(point, options)
    shards = write_random_shards(folder / "text", options.seed, 1, SHARD_CHARACTERS)
    sites = emulator.sites
    fleet_options = {name: ["--host", site.address] for name, site in sites.items()}
    for name in PEERS[1:]:
        fleet_options[name] += ["--device", f"emulated:{point.layer_s}"]
    fleet = Fleet(
        folder / "fleet",
        values,
        shards,
        num_hosts=STAGES,
        num_stages=STAGES,
        options=fleet_options,
        wrappers={name: site.wrapper for name, site in sites.items()},
    )
    with fleet:
        ends_s = [
            float(fleet.wait_step(step, RUN_TIMEOUT_S)["elapsed_s"])
            for step in range(SKIPPED_STEPS, SKIPPED_STEPS + options.steps + 1)
        ]
    return [after - before for before, after in itertools.pairwise(ends_s)]


def _run_values(point: Point, options: Options) -> dict[str, Any]:
    return {
        "name": "wan",
        "seed": options.seed,
        "model": byte_llama(
            num_layers=STAGES + 2, width=WIDTH, num_heads=1, mlp_width=86, context_tokens=CONTEXT_TOKENS
        ),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": point.microbatches},
        "numerics": {"boundary_codec": point.codec},
        "schedule": {"steps": 1_000, "checkpoint_every_steps": 1_000},
    }
