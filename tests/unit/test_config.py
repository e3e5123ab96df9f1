"""The run's configuration: unknown, wrong, missing and out of range are told; every field is in the fingerprint."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.config import NodeConfig, RunConfig, build, read_toml
from swarm.errors import ConfigError, UnknownKey
from swarm.toml_text import to_toml
from tests.support.runs import TINY_MODEL, Run

RUN = Run().config
VALUES: dict[str, Any] = dataclasses.asdict(RUN)


def _with(path: str, value: object) -> dict[str, Any]:
    """All values of the run with one replaced."""
    section, _, key = path.rpartition(".")
    if not section:
        return VALUES | {key: value}
    return VALUES | {section: dict(VALUES[section]) | {key: value}}


def _leaves() -> list[tuple[str, Any]]:
    found = []
    for key, value in VALUES.items():
        inner = value.items() if isinstance(value, dict) else None
        found += [(key, value)] if inner is None else [(f"{key}.{name}", entry) for name, entry in inner]
    return found


# --- what is refused -------------------------------------------------------------------------------------------------


def _id_of(value: object) -> str:
    """The same in every process, which draw keys of their own."""
    return value if isinstance(value, str) and len(value) < 60 else "a value"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sed", "run has the unknown key 'sed'; did you mean seed?"),
        ("batch.microbatch_sequence", "run.batch has the unknown key 'microbatch_sequence'; did you mean microbatch_"),
        ("optimizer.learning_rat", "did you mean learning_rate?"),
        ("schedule.zzz", "known keys are checkpoint_every_steps, shadow_copies, staleness, steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(path: str, words: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        build(RunConfig, _with(path, 1), "run")
    assert words in str(caught.value)
    assert str(caught.value).startswith("[S101]")


@pytest.mark.parametrize(
    ("path", "value"), [leaf for leaf in _leaves() if not leaf[0].startswith("model.")], ids=_id_of
)
def test_a_value_of_another_type_names_its_key(path: str, value: object) -> None:
    wrongs: list[object] = [None, [], {}, True]
    wrongs += [1] if isinstance(value, str) else ["1"]
    if isinstance(value, int):
        wrongs.append(1.0)
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=rf"run\.{path} is "):
            build(RunConfig, _with(path, wrong), "run")


@pytest.mark.parametrize("section", ["ends", "data", "batch", "optimizer", "numerics", "schedule", "model"])
def test_a_section_is_a_table(section: str) -> None:
    for wrong in (1, "x", [1], None):
        with pytest.raises(ConfigError, match=rf"run\.{section} is "):
            build(RunConfig, VALUES | {section: wrong}, "run")


@pytest.mark.parametrize("key", ["name", "model", "admin_public_key"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"run lacks {key}"):
        build(RunConfig, {name: value for name, value in VALUES.items() if name != key}, "run")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", ""),
        ("model", {"vocab_size": 1}),
        ("ends.front_layers", 0),
        ("ends.back_layers", -1),
        ("data.context_tokens", 0),
        ("data.tokenizer", "bpe"),
        ("data.held_out_fraction", -0.1),
        ("data.held_out_fraction", 0.6),
        ("data.held_out_fraction", float("nan")),
        ("batch.microbatch_sequences", 0),
        ("batch.global_batch_microbatches", -1),
        ("optimizer.name", "adam"),
        ("optimizer.learning_rate", 0),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.epsilon", 0.0),
        ("optimizer.warmup_steps", -1),
        ("optimizer.max_grad_norm", -1.0),
        ("optimizer.max_grad_norm", float("inf")),
        ("optimizer.max_grad_norm", float("nan")),
        ("optimizer.weight_decay", -0.1),
        ("optimizer.weight_decay", float("inf")),
        ("optimizer.final_learning_rate_fraction", 1.1),
        ("optimizer.beta1", -0.1),
        ("optimizer.beta2", 1.1),
        ("optimizer.momentum", 2),
        ("numerics.precision", "fp16"),
        ("numerics.boundary_codec", "fp16"),
        ("numerics.gradient_codec", "int8"),
        ("schedule.steps", 0),
        ("schedule.checkpoint_every_steps", 0),
    ],
)
def test_a_value_out_of_range_is_refused(path: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        build(RunConfig, _with(path, value), "run")
    assert path.split(".")[-1] in caught.value.problem
    assert caught.value.remedy


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([path for path, _ in _leaves()] + list(VALUES)), _ANYTHING)
def test_any_value_is_taken_or_refused_in_words(path: str, value: object) -> None:
    try:
        run = build(RunConfig, _with(path, value), "run")
    except ConfigError:
        return
    assert len(run.fingerprint) == 64


@pytest.mark.parametrize("values", [None, [], "name", 7])
def test_a_run_is_a_table(values: object) -> None:
    with pytest.raises(ConfigError, match="make it a table"):
        build(RunConfig, values, "run")


# --- round trips -----------------------------------------------------------------------------------------------------


def test_json_round_trip() -> None:
    again = RunConfig.from_json(RUN.to_json())
    assert again == RUN
    assert again.fingerprint == RUN.fingerprint


def test_toml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(VALUES, {}), encoding="utf-8")
    again = RunConfig.from_toml(path)
    assert again == RUN
    assert again.fingerprint == RUN.fingerprint


def test_the_order_of_keys_does_not_matter() -> None:
    backwards = {key: VALUES[key] for key in reversed(VALUES)}
    assert build(RunConfig, backwards, "run").fingerprint == RUN.fingerprint


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "nope"])
def test_what_is_no_json_run(text: str) -> None:
    with pytest.raises(ConfigError):
        RunConfig.from_json(text)


def test_what_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(path)
    path.write_text("a = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(path)


# --- the fingerprint -------------------------------------------------------------------------------------------------

_OTHER: dict[str, object] = {
    "data.tokenizer": "sha256:00",
    "optimizer.name": "sgd",
    "numerics.precision": "bf16",
    "numerics.boundary_codec": "int8",
    "numerics.gradient_codec": "fp16",
}


@pytest.mark.parametrize(("path", "value"), _leaves(), ids=_id_of)
def test_every_field_is_in_the_fingerprint(path: str, value: Any) -> None:
    if path in _OTHER:
        other = _OTHER[path]
    elif isinstance(value, str):
        other = value + "x"
    else:
        other = value + 1 if isinstance(value, int) else value / 2 + 0.003
    changed = build(RunConfig, _with(path, other), "run")
    assert changed.fingerprint != RUN.fingerprint


def test_every_section_was_looked_at() -> None:
    assert {path.split(".")[0] for path, _ in _leaves()} == {entry.name for entry in dataclasses.fields(RunConfig)}


def test_a_model_key_more_is_another_run() -> None:
    model = TINY_MODEL | {"rope_theta": 5000.0}
    assert build(RunConfig, VALUES | {"model": model}, "run").fingerprint != RUN.fingerprint


def test_microbatch_tokens() -> None:
    assert RUN.microbatch_tokens == RUN.batch.microbatch_sequences * RUN.data.context_tokens


# --- this machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"listen_port": -1},
        {"listen_port": 65536},
        {"memory_bytes": -1},
        {"threads": 0},
        {"device": "tpu"},
    ],
)
def test_a_machine_out_of_range_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        NodeConfig(state_dir=tmp_path, **values)


def test_a_node_is_built_from_plain_values() -> None:
    node = build(NodeConfig, tomllib.loads('state_dir = "/x"\nthreads = 3'), "node")
    assert (node.state_dir, node.threads) == (Path("/x"), 3)
