"""Does an owner's text stay in its process: every byte it hands out is captured and searched for tokens.

Two owners train on random text, each under a shim that copies whatever goes into sockets and pipes, which includes all
that the libp2p daemon gets to send, before it is encrypted. The copies are searched for windows of token ids and
labels in any width, byte order and alignment, and for the text itself. A second run has an owner that leaks on
purpose, and the same search must find it. What boundary activations may still tell about a text is another question.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpora import write_random_shards
from benchmarks.privacy.capture import Capture
from benchmarks.privacy.scan import Find, scan, text_patterns, token_patterns
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.training_run import FinishedRun, train
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import RunError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama
from swarm.wire import compression

OWNERS = 2
HOSTS = 2
STAGES = 2
SHARD_CHARACTERS = 60_000
PLANTED_STEPS = 2
RUN_TIMEOUT_S = 600.0
LEAKING = ("-m", "benchmarks.workers.leaking_owner")

QUICK = {"steps": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    steps: int = 20
    """Optimizer steps of the run that must not leak."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What the owners of one run handed out."""

    num_bytes: int
    must_be: int
    """Bytes of the boundary tensors that they sent: fewer cannot have been captured."""
    finds: list[Find]


def run(options: Options) -> Result:
    """Capture and search both runs.

    Raises:
        RunError: no C compiler; fewer bytes captured than were sent; or the planted leak was not found.
    """
    with tempfile.TemporaryDirectory(prefix="swarm-privacy-") as name:
        folder = Path(name)
        shards = write_random_shards(folder / "text", options.seed, OWNERS, SHARD_CHARACTERS)
        capture = Capture(folder)
        honest = _capture(folder / "honest", options, options.steps, shards, capture, {})
        planted = _capture(folder / "planted", options, PLANTED_STEPS, shards, capture, {"owner-0": LEAKING})
    if not planted.finds:
        raise RunError("the planted leak was not found, so that finding nothing means nothing", "report this: a bug")
    metrics = {
        "steps": options.steps,
        "bytes_captured": honest.num_bytes,
        "bytes_of_boundary_tensors": honest.must_be,
        "token_windows_found": len(honest.finds),
        "planted_bytes_captured": planted.num_bytes,
        "planted_windows_found": len(planted.finds),
        "found": [_in_words(find) for find in honest.finds[:20]],
        "planted_found": [_in_words(find) for find in planted.finds[:3]],
    }
    return Result.measured(
        "privacy",
        options,
        metrics,
        {},
        owners=OWNERS,
        hosts=HOSTS,
        stages=STAGES,
        run=_run_values(options, options.steps),
    )


def _in_words(find: Find) -> str:
    """One line for people."""
    return f"{find.pattern} as {find.encoding} at byte {find.offset} of {find.stream}"


def _capture(
    folder: Path,
    options: Options,
    steps: int,
    shards: Sequence[Path],
    capture: Capture,
    commands: Mapping[str, Sequence[str]],
) -> Captured:
    owners = [f"owner-{index}" for index in range(OWNERS)]
    names = {owner: f"{folder.name}-{owner}" for owner in owners}
    variables = {owner: capture.variables(name) for owner, name in names.items()}
    run_values = _run_values(options, steps)
    fleet = Fleet(folder, run_values, shards, HOSTS, STAGES, extra_environment=variables, commands=commands)
    done = train(fleet, folder.name, RUN_TIMEOUT_S)
    needed = _boundary_bytes(done)
    for owner, (peer, _) in zip(owners, done.shards.items(), strict=True):
        if capture.num_bytes(names[owner]) < needed[peer]:
            raise RunError(
                f"{capture.num_bytes(names[owner])} bytes of {owner} were captured, but its boundary tensors alone are "
                f"{needed[peer]}",
                "something sends past the capture; see benchmarks/privacy/capture.c",
            )
    patterns = []
    for shard in shards:
        text = shard.read_text(encoding="utf-8")
        patterns += token_patterns(ByteTokenizer().encode(text)) + text_patterns(text)
    return Captured(
        num_bytes=sum(capture.num_bytes(name) for name in names.values()),
        must_be=sum(needed.values()),
        finds=[find for name in names.values() for find in scan(capture.streams(name), patterns)],
    )


def _boundary_bytes(done: FinishedRun) -> dict[str, int]:
    """By owner, the activation and the gradient that each committed microbatch made it send."""
    config = done.config
    values = config.microbatch_tokens * int(config.model["hidden_size"])
    size = compression.encoded_bytes(config.numerics.boundary_codec, values)
    needed = dict.fromkeys(done.shards, 0)
    for step in done.steps:
        for work in step.work:
            needed[work.owner] += 2 * size
    return needed


def _run_values(options: Options, steps: int) -> dict[str, Any]:
    return {
        "name": "privacy",
        "seed": options.seed,
        "model": byte_llama(num_layers=4, width=64, context_tokens=64, num_heads=4, mlp_width=128),
        "data": {"context_tokens": 64, "held_out_fraction": 0.0},
        "batch": {"microbatch_sequences": 4, "global_batch_microbatches": 8},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
        "schedule": {"steps": steps, "checkpoint_every_steps": steps},
    }
