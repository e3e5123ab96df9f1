"""The first planner: within memory, without gaps, the same everywhere, and clear where nothing fits."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.planner.balanced import balanced
from scheduler.planner.problem import HostFacts, Placement, Problem
from swarm.errors import ModelTooLarge, RunError
from swarm.model.spans import LayerSpan

MIB = 1 << 20


def host(peer: str, mib: float = 1e6, layer_s: float = 0.1, bytes_per_s: float = 1e9) -> HostFacts:
    return HostFacts(peer, int(mib * MIB), layer_s, bytes_per_s)


def problem(*hosts: HostFacts, layers: int = 4, num_stages: int = 0, owners: tuple[str, ...] = ("o",)) -> Problem:
    return Problem(
        hosts=hosts,
        owners=owners,
        trunk=LayerSpan(1, 1 + layers),
        layer_parameters=MIB // 16,  # a layer's state is one MiB
        boundary_bytes=64,
        global_batch=8,
        microbatch_tokens=32,
        num_stages=num_stages,
    )


_HOSTS = st.lists(
    st.builds(
        HostFacts,
        st.text("abcdef", min_size=1, max_size=4),
        st.integers(0, 40 * MIB),
        st.floats(1e-4, 10),
        st.floats(1e3, 1e10),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda facts: facts.peer,
)
_PROBLEMS = st.builds(
    Problem,
    hosts=_HOSTS.map(tuple),
    owners=st.integers(1, 3).map(lambda count: tuple(f"o{index}" for index in range(count))),
    trunk=st.tuples(st.integers(0, 3), st.integers(1, 12)).map(lambda pair: LayerSpan(pair[0], pair[0] + pair[1])),
    layer_parameters=st.integers(1, MIB // 8),
    boundary_bytes=st.integers(1, 1 << 16),
    global_batch=st.integers(1, 32),
    microbatch_tokens=st.integers(1, 1024),
    num_stages=st.integers(0, 3),
)


def _try(asked: Problem) -> Placement | None:
    try:
        return balanced(asked)
    except (ModelTooLarge, RunError):
        return None


@settings(deadline=None, max_examples=400)
@given(_PROBLEMS)
def test_a_placement_respects_memory_and_covers_the_trunk(asked: Problem) -> None:
    found = _try(asked)
    if found is None:
        return
    assert found.spans[0].first == asked.trunk.first
    assert found.spans[-1].last == asked.trunk.last
    assert all(a.last == b.first for a, b in zip(found.spans, found.spans[1:], strict=False))
    assert all(span.num_layers >= 1 for span in found.spans)
    assert asked.num_stages in (0, len(found.spans))
    placed = [peer for peers in found.replicas for peer in peers]
    assert len(placed) == len(set(placed))
    assert all(found.replicas)
    facts = {one.peer: one for one in asked.hosts}
    assert set(placed) <= set(facts)
    layer_bytes = asked.layer_bytes(found.window * len(asked.owners))
    for span, peers, weights in zip(found.spans, found.replicas, found.weights, strict=True):
        assert len(peers) == len(weights)
        assert all(weight > 0 for weight in weights)
        for peer in peers:
            assert span.num_layers * layer_bytes <= facts[peer].memory_bytes
    assert found.window >= 1
    assert found.tokens_per_s > 0


@settings(deadline=None, max_examples=100)
@given(_PROBLEMS, st.integers(0, 2**32))
def test_the_order_of_hosts_does_not_matter(asked: Problem, seed: int) -> None:
    hosts = list(asked.hosts)
    random.Random(seed).shuffle(hosts)
    assert _try(asked) == _try(replace(asked, hosts=tuple(hosts)))


def test_compute_is_balanced() -> None:
    found = balanced(problem(host("slow", layer_s=0.3), host("fast", layer_s=0.1), layers=8, num_stages=2))
    sizes = {peers[0]: span.num_layers for span, peers in zip(found.spans, found.replicas, strict=True)}
    assert sizes == {"slow": 2, "fast": 6}


def test_a_faster_replica_gets_a_larger_share() -> None:
    found = balanced(problem(host("slow", layer_s=0.3), host("fast", layer_s=0.1), num_stages=1))
    weights = dict(zip(found.replicas[0], found.weights[0], strict=True))
    assert weights["fast"] == pytest.approx(3 * weights["slow"])


def test_memory_decides_over_speed() -> None:
    found = balanced(problem(host("large", 6.5, 1.0), host("fast", 2.5, 0.01), layers=8, num_stages=2))
    sizes = {peers[0]: span.num_layers for span, peers in zip(found.spans, found.replicas, strict=True)}
    assert sizes == {"large": 6, "fast": 2}


def test_less_memory_makes_a_smaller_window() -> None:
    wide = problem(host("a"), host("b"), num_stages=2)
    wide = replace(wide, boundary_bytes=MIB // 96)  # a microbatch in flight takes a quarter of a MiB a layer
    narrow = replace(wide, hosts=(host("a", 2.6), host("b", 2.6)))
    assert balanced(narrow).window < balanced(wide).window


def test_a_model_that_is_too_large_names_both_amounts() -> None:
    with pytest.raises(ModelTooLarge) as caught:
        balanced(problem(host("a", 2.5), host("b", 1.5), layers=100))
    assert "100 layers need 100 MiB" in caught.value.problem
    assert "2 hosts together can hold 3 MiB" in caught.value.problem
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(("num_stages", "layers"), [(3, 4), (2, 1)])
def test_more_stages_than_hosts_or_layers_are_refused(num_stages: int, layers: int) -> None:
    with pytest.raises(RunError, match=f"{num_stages} stages were asked for") as caught:
        balanced(problem(host("a"), host("b"), layers=layers, num_stages=num_stages))
    assert "ask for fewer stages" in caught.value.remedy


def test_nobody_to_plan_for() -> None:
    with pytest.raises(RunError):
        balanced(problem())
    with pytest.raises(RunError):
        balanced(problem(host("a"), owners=()))


def test_a_host_that_no_layer_fits_stands_by() -> None:
    placement = balanced(problem(host("tiny", mib=0.5), host("a"), host("b")))
    assert {peer for replicas in placement.replicas for peer in replicas} == {"a", "b"}
