"""Hypothesis strategies for every registered message, built from the annotations that the codec checks."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from hypothesis import strategies as st

import swarm.admission
import swarm.plan
from swarm.wire import codec
from swarm.wire.messages import MAX_ROUTE, BoundaryTensor, Capabilities, DialBack, DialledBack, Heartbeat, Holding, Link

KINDS = codec.registered()

_NATURALS = st.integers(0, 2**62 - 1)
_NAMES = st.text(max_size=12)
_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: _NATURALS,
    str: _NAMES,
    bytes: st.binary(max_size=24),
    bool: st.booleans(),
    float: st.floats(0, 1e8),
}


def messages() -> st.SearchStrategy[Any]:
    """Any message of any kind."""
    return st.sampled_from(sorted(KINDS)).flatmap(lambda kind: message_of(KINDS[kind]))


def message_of(cls: type) -> st.SearchStrategy[Any]:
    """Messages of one class; only fields that hang together are drawn by hand."""
    hints = typing.get_type_hints(cls)
    names = [entry.name for entry in dataclasses.fields(cls)]
    if cls is swarm.plan.Plan:
        return _plans()
    fields = {name: _of_hint(hints[name]) for name in names}
    if issubclass(cls, BoundaryTensor):
        return st.lists(_NAMES, min_size=1, max_size=MAX_ROUTE // 32).flatmap(
            lambda route: st.builds(
                cls,
                **fields
                | {
                    "route": st.just(tuple(route)),
                    "stage": st.integers(-1, len(route)),
                    "shape": st.tuples(*[st.integers(1, 2**32)] * 3),
                },
            )
        )
    if cls in (Capabilities, Heartbeat, Link):
        seconds = st.just(0.0) | st.floats(1e-9, 1e6)
        rate = st.just(0.0) | st.floats(1, 1e15)
        kinds = {name: rate for name in names if name.endswith("bytes_per_s")}
        kinds |= {name: seconds for name in names if name.endswith(("_seconds", "round_trip_s"))}
        return st.builds(cls, **fields | kinds)
    if cls is DialBack:
        return st.builds(cls, **fields | {"port": st.integers(1, 2**16 - 1)})
    if cls is DialledBack:
        return st.builds(cls, **fields | {"seen_at": st.just("") | st.ip_addresses().map(str)})
    if cls is Holding:
        return _holdings(fields)
    if cls is swarm.admission.Invite:
        roles = st.lists(st.sampled_from(swarm.admission.ROLES), min_size=1, max_size=3)
        return st.builds(cls, **fields | {"roles": roles.map(tuple)})
    return st.builds(cls, **fields)


def _of_hint(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _LEAVES:
        return _LEAVES[hint]
    if dataclasses.is_dataclass(hint):
        return message_of(typing.cast(type, hint))
    assert typing.get_origin(hint) is tuple, hint
    entries = typing.get_args(hint)
    if len(entries) == 2 and entries[1] is Ellipsis:
        return st.lists(_of_hint(entries[0]), max_size=4).map(tuple)
    return st.tuples(*map(_of_hint, entries))


@st.composite
def _holdings(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]]) -> Holding:
    first_steps = draw(st.integers(0, 2**40))
    committed_steps = first_steps + draw(st.integers(0, 100))
    steps = {
        "first_steps": st.just(first_steps),
        "committed_steps": st.just(committed_steps),
        "last_steps": st.just(committed_steps + draw(st.integers(0, 1))),
    }
    return draw(st.builds(Holding, **fields | steps))


@st.composite
def _plans(draw: st.DrawFn) -> swarm.plan.Plan:
    hosts = draw(st.lists(_NAMES, min_size=1, max_size=8, unique=True))
    num_stages = draw(st.integers(1, len(hosts)))
    first_layer, stages = draw(st.integers(0, 9)), []
    for stage in range(num_stages):
        replicas = tuple(hosts[stage::num_stages])
        last_layer = first_layer + draw(st.integers(1, 5))
        weights = draw(st.tuples(*[st.floats(1e-3, 1e6)] * len(replicas)))
        fractions = draw(st.tuples(*[st.floats(1e-3, 1e6)] * len(replicas)))
        stages.append(
            swarm.plan.StagePlan(
                first_layer=first_layer,
                last_layer=last_layer,
                replicas=replicas,
                routing_weights=weights,
                reduce_fractions=fractions,
            )
        )
        first_layer = last_layer
    owners = draw(st.lists(_NAMES, max_size=3).map(tuple))
    return swarm.plan.Plan(
        number=draw(st.integers(1, 2**40)),
        fingerprint=draw(_NAMES),
        first_step=draw(_NATURALS),
        stages=tuple(stages),
        owners=owners,
        owner_fractions=(0.5,) * len(owners),
        standby=draw(st.lists(_NAMES, max_size=3).map(tuple)),
        window=draw(st.integers(1, 100)),
        predicted_tokens_per_s=draw(st.floats(0, 1e9)),
    )
