"""The two configurations: of the run (identical everywhere, hashed) and of this node (local).

`RunConfig` decides what is computed; two peers with different run configurations must never meet, so its
fingerprint is part of every handshake. `NodeConfig` decides where and with how much; it never leaves the machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from swarm.errors import ConfigError, UnknownKey

T = TypeVar("T")

BYTE_TOKENIZER = "bytes"
MAX_GLOBAL_BATCH = 16_384
"""Microbatches a step: what one order of the leader can name."""
LEAST_LINE_BYTES_PER_S = 32 << 10
"""Of a line's limit; frames that come at less than half of it are dropped."""


def _require(condition: bool, problem: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(problem, remedy)


_LARGEST = 2**62
"""Of every number here: what 64 bits hold."""


def _positive(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0 < value < _LARGEST, f"{section}.{name} is {value}", "set it above zero")


def _one_of(section: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{section}.{name} is {value!r}", f"use one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EndsConfig:
    """What data owners keep to themselves: the layers next to the text."""

    front_layers: int = 1
    """Decoder layers after the embedding that owners compute."""
    back_layers: int = 1
    """Decoder layers before the final norm and head that owners compute."""

    def __post_init__(self) -> None:
        for name in ("front_layers", "back_layers"):
            _require(
                getattr(self, name) >= 1,
                f"ends.{name} is {getattr(self, name)}",
                "set it to 1 or more, or volunteers see embeddings of single tokens",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How text becomes training windows."""

    tokenizer: str = BYTE_TOKENIZER
    """`bytes`, or `sha256:<hex>` of the consortium's tokenizer.json."""
    context_tokens: int = 256
    """Tokens a window; inputs and labels are shifted by one inside it."""
    held_out_fraction: float = 0.02
    """Share of each shard's end that is never trained on."""

    def __post_init__(self) -> None:
        _positive("data", context_tokens=self.context_tokens)
        _require(
            self.tokenizer == BYTE_TOKENIZER or self.tokenizer.startswith("sha256:"),
            f"data.tokenizer is {self.tokenizer!r}",
            'use "bytes" or "sha256:<hex of tokenizer.json>" (swarm init --tokenizer writes it)',
        )
        _require(
            0 <= self.held_out_fraction <= 0.5,
            f"data.held_out_fraction is {self.held_out_fraction}",
            "choose a share from 0 to 0.5",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How a global batch is cut."""

    microbatch_sequences: int = 4
    """Windows a microbatch."""
    global_batch_microbatches: int = 8
    """Microbatches an optimizer step, over all owners."""

    def __post_init__(self) -> None:
        _positive(
            "batch",
            microbatch_sequences=self.microbatch_sequences,
            global_batch_microbatches=self.global_batch_microbatches,
        )
        _require(
            self.global_batch_microbatches <= MAX_GLOBAL_BATCH,
            f"batch.global_batch_microbatches is {self.global_batch_microbatches}",
            f"set it to {MAX_GLOBAL_BATCH:,} or less, and make microbatches larger",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """The optimizer, the same in every stage."""

    name: str = "adamw"
    """`adamw` or `sgd`."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    final_learning_rate_fraction: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Clip the gradient of the whole model to this norm; 0 leaves it as it is."""
    weight_decay: float = 0.1
    """AdamW: decay of matrices; vectors never decay."""
    beta1: float = 0.9
    """AdamW."""
    beta2: float = 0.95
    """AdamW."""
    epsilon: float = 1e-8
    """AdamW."""
    momentum: float = 0.0
    """SGD."""

    def __post_init__(self) -> None:
        _one_of("optimizer", "name", self.name, ("adamw", "sgd"))
        _positive("optimizer", learning_rate=self.learning_rate, epsilon=self.epsilon)
        _require(self.warmup_steps >= 0, f"optimizer.warmup_steps is {self.warmup_steps}", "set it to 0 or more")
        for name in ("max_grad_norm", "weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optimizer.{name} is {value}", "set it to 0 or more")
        for name in ("final_learning_rate_fraction", "beta1", "beta2", "momentum"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"optimizer.{name} is {value}", "choose a number from 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsConfig:
    """Precision of compute and of what is sent."""

    precision: str = "fp32"
    """`fp32` or `bf16` (mixed; master weights stay fp32)."""
    boundary_codec: str = "fp32"
    """Boundary activations and their gradients on the wire: `fp32`, `bf16`, `int8`, `int4` or `spectral`; `auto`
    lets the planner choose between `bf16`, `int8` and `int4` for each line."""
    gradient_codec: str = "fp32"
    """Gradients in the all-reduce: `fp32` or `fp16`."""

    def __post_init__(self) -> None:
        _one_of("numerics", "precision", self.precision, ("fp32", "bf16"))
        _one_of("numerics", "boundary_codec", self.boundary_codec, ("fp32", "bf16", "int8", "int4", "spectral", "auto"))
        _one_of("numerics", "gradient_codec", self.gradient_codec, ("fp32", "fp16"))

    @property
    def boundary_codecs(self) -> tuple[str, ...]:
        """Those that boundary tensors may have, the finest first."""
        return ("bf16", "int8", "int4") if self.boundary_codec == "auto" else (self.boundary_codec,)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long."""

    steps: int = 200
    """Optimizer steps of the whole run."""
    checkpoint_every_steps: int = 100
    """A checkpoint after every so many steps, and one after the last."""
    staleness: int = 0
    """0: every gradient is of the newest weights. 1: of those one step before, so that nobody waits at a step's end."""
    shadow_copies: float = 0.0
    """Of each stage's state, kept current by hosts of other stages with memory to spare, in shares of the stage's
    throughput: a host that takes over serves at the next step, and a stage that loses all of its hosts is not lost.
    Each costs its host one gradient of the stage a step. 0: none."""

    def __post_init__(self) -> None:
        _positive("schedule", steps=self.steps, checkpoint_every_steps=self.checkpoint_every_steps)
        _require(0 <= self.shadow_copies <= 4, f"schedule.shadow_copies is {self.shadow_copies}", "set it from 0 to 4")
        _require(self.staleness in (0, 1), f"schedule.staleness is {self.staleness}", "set it to 0 or 1")

    @property
    def weight_copies(self) -> int:
        """Copies of the weights, each with its gradients, beside the newest: one for each step that runs at once."""
        return 1 + self.staleness if self.staleness else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that all peers of a run must agree on."""

    name: str
    """What people call the run."""
    model: Mapping[str, Any]
    """A transformers configuration: `model_type` and its keys."""
    admin_public_key: str
    """Ed25519, hex: whose signatures admit members."""
    seed: int = 1
    """Of the initial weights and of the sampling order."""
    ends: EndsConfig = field(default_factory=EndsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        _require(bool(self.name), "the run has no name", "set name")
        _require("model_type" in self.model, "model has no model_type", 'set it, for instance to "llama"')
        try:
            json.dumps(self.model, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model has a value that JSON has not ({error})", "use numbers and text") from None

    @property
    def microbatch_tokens(self) -> int:
        """Tokens of one microbatch."""
        return self.batch.microbatch_sequences * self.data.context_tokens

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the canonical JSON of every field, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: not JSON, or values out of range.
            UnknownKey: a key that no configuration has.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"the run configuration is not JSON ({error})", "ask the admin for a new invite"
            ) from None
        return build(cls, values, "run")

    @classmethod
    def from_toml(cls, path: Path) -> RunConfig:
        """Read a run.toml; errors as in `from_json`."""
        return build(cls, read_toml(path), path.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig:
    """What concerns this machine only."""

    state_dir: Path
    """Identity, tokenised shard and cursor live here; one process at a time."""
    listen_host: str = "127.0.0.1"
    """Address to listen on."""
    listen_port: int = 0
    """TCP port to listen on; 0 lets the system choose."""
    memory_bytes: int = 0
    """At most this much memory for the swarm; 0 for what is free."""
    disk_bytes: int = 0
    """At most this much disk for what a restart goes on from; 0 for a quarter of what is free."""
    up_bytes_per_s: float = 0.0
    """Send, and plan with, no more than this; 0 for what is measured."""
    down_bytes_per_s: float = 0.0
    """Receive, and plan with, no more than this; 0 for what is measured."""
    threads: int = 1
    """Threads of the compute thread's matrix products."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, or `emulated:SECONDS`: one that takes so long for a layer, forward and backward."""

    def __post_init__(self) -> None:
        _require(0 <= self.listen_port < 65536, f"the port is {self.listen_port}", "choose one from 0 to 65535")
        _require(self.memory_bytes >= 0, f"the memory limit is {self.memory_bytes}", "set it to 0 or more bytes")
        _require(self.disk_bytes >= 0, f"the disk limit is {self.disk_bytes}", "set it to 0 or more bytes")
        for rate in (self.up_bytes_per_s, self.down_bytes_per_s):
            check_line_limit(rate)
        _positive("node", threads=self.threads)
        if not self.device.startswith("emulated:"):
            _one_of("node", "device", self.device, ("auto", "cpu", "cuda", "emulated:SECONDS"))


def check_line_limit(bytes_per_s: float) -> None:
    """Raises ConfigError for a rate that one cannot take part with; 0 is no limit."""
    least_mbit = LEAST_LINE_BYTES_PER_S * 8 / 1e6
    _require(
        bytes_per_s == 0 or LEAST_LINE_BYTES_PER_S <= bytes_per_s < 1e15,
        f"the line's limit is {bytes_per_s * 8 / 1e6:g} Mbit/s",
        f"allow {least_mbit:.2g} Mbit/s or more, or set it to 0 for none",
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: missing, unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error})", "check the path, or make a run with `swarm init`") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML ({error})", "correct that line") from None


def build(kind: type[T], values: object, where: str) -> T:
    """Make a configuration dataclass from nested mappings, refusing what it does not know.

    Args:
        kind: the dataclass.
        values: mapping of field names to values; sections are mappings.
        where: named in errors, such as `run.toml`.

    Returns:
        The dataclass.

    Raises:
        UnknownKey: with the nearest known key as remedy.
        ConfigError: a missing key, a value of another type, or out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {type(values).__name__}", "make it a table of keys and values")
    hints = typing.get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(sorted(fields))}"
            raise UnknownKey(f"{where} has the unknown key {key!r}", remedy)
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    for name, entry in fields.items():
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise ConfigError(f"{where} lacks {name}", "set it")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        raise TypeError(f"{where}: configurations have no optional fields")
    if hint is Path and isinstance(value, str):
        return Path(value)
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is larger than any float", "set it lower") from None
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        name = getattr(expected, "__name__", str(expected))
        raise ConfigError(f"{where} is {value!r}", f"give it a value of type {name}")
    return value


def what_differs(before: str, now: str) -> str:
    """The first value in which two configurations differ, for people; empty where none does.

    Args:
        before, now: as `RunConfig.to_json` writes them.
    """
    was, is_now = dict(_leaves("", json.loads(before))), dict(_leaves("", json.loads(now)))
    for key in sorted(was.keys() | is_now.keys()):
        if was.get(key) != is_now.get(key):
            return f"{key} was {was.get(key)!r}, now it is {is_now.get(key)!r}"
    return ""


def _leaves(where: str, values: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield where, values
        return
    for key, value in values.items():
        yield from _leaves(f"{where}.{key}" if where else key, value)
