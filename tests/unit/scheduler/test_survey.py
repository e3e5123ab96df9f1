"""Measurements become the planner's question: what was measured counts, the rest is estimated and said to be."""

from __future__ import annotations

import pytest

from scheduler.survey import MAX_PAIRWISE, survey
from swarm.errors import ConfigError, RunError
from swarm.model.blueprint import layout
from swarm.wire.messages import Capabilities, Link
from tests.support.runs import Run, capabilities

CONFIG = Run(sections={"data": {"context_tokens": 16}}).config
LAYOUT = layout(CONFIG)
SCHEDULER = "s"


def member(round_trip_s: float, *links: tuple[str, float, float], **facts: object) -> Capabilities:
    ways = [Link(peer=SCHEDULER, round_trip_s=round_trip_s, bytes_per_s=5e6)]
    ways += [Link(peer=peer, round_trip_s=trip_s, bytes_per_s=rate) for peer, trip_s, rate in links]
    return capabilities(links=tuple(ways), **facts)


OWNERS = {"o": member(0.02, roles=("owner",), ends_seconds=0.1, layer_seconds=0.0)}


def test_measured_ways_count_in_both_directions() -> None:
    found = survey(CONFIG, LAYOUT, {"a": member(0.04, ("b", 0.1, 2e6)), "b": member(0.06)}, OWNERS, SCHEDULER)
    instance = found.instance
    a, b = instance.hosts.region.tolist()
    assert instance.regions.latency_s[a, b] == instance.regions.latency_s[b, a] == pytest.approx(0.05)
    assert instance.regions.pair_bytes_per_s[a, b] == instance.regions.pair_bytes_per_s[b, a] == 2e6
    assert (found.measured_pairs, found.estimated_pairs) == (1, 2)


def test_an_unmeasured_way_lies_between_what_third_peers_allow() -> None:
    found = survey(CONFIG, LAYOUT, {"a": member(0.04), "b": member(0.1)}, OWNERS, SCHEDULER)
    a, b = found.instance.hosts.region.tolist()
    assert found.instance.regions.latency_s[a, b] == pytest.approx((0.06 + 0.14) / 2 / 2)
    assert found.instance.regions.pair_bytes_per_s[a, b] == float("inf")
    assert found.measured_pairs == 0


def test_many_members_are_grouped_by_their_distance() -> None:
    hosts = {f"h{number}": member(0.005 if number % 2 else 0.2) for number in range(MAX_PAIRWISE + 6)}
    found = survey(CONFIG, LAYOUT, hosts, OWNERS, SCHEDULER).instance
    near, far = found.hosts.region[1], found.hosts.region[0]
    assert near != far
    assert set(found.hosts.region.tolist()) == {near, far}
    assert found.regions.latency_s[near, far] > found.regions.latency_s[near, near]


def test_the_work_is_that_of_the_run() -> None:
    found = survey(CONFIG, LAYOUT, {"a": member(0.01, layer_bytes=777, graph_bytes=99)}, OWNERS, SCHEDULER, 1)
    work = found.instance.work
    assert (work.layer_state_bytes, work.graph_bytes, work.num_stages) == (777.0, 99.0, 1)
    assert work.num_layers == LAYOUT.trunk.num_layers
    assert work.microbatch_tokens == CONFIG.microbatch_tokens


def test_without_hosts_or_owners_there_is_no_question() -> None:
    with pytest.raises(RunError, match="0 hosts and 1 owners"):
        survey(CONFIG, LAYOUT, {}, OWNERS, SCHEDULER)


def test_an_absurd_figure_is_clamped_and_told() -> None:
    found = survey(CONFIG, LAYOUT, {"a": member(0.01, up_bytes_per_s=1e14)}, OWNERS, SCHEDULER)
    assert found.instance.hosts.up_bytes_per_s[0] == 1e11
    assert any("no machine has" in note for note in found.notes)
    with pytest.raises(ConfigError):
        survey(CONFIG, LAYOUT, {"a": member(0.01, layer_seconds=0.0), "b": _nan()}, OWNERS, SCHEDULER)


def _nan() -> Capabilities:
    broken = member(0.01)
    object.__setattr__(broken, "layer_seconds", float("nan"))  # the wire refuses it; the planner does too
    return broken


def test_one_absurd_claim_about_the_layers_does_not_stop_everybody() -> None:
    hosts = {name: member(0.01, layer_bytes=1000, graph_bytes=10) for name in "abc"}
    hosts["liar"] = member(0.01, layer_bytes=2**61, graph_bytes=2**61)
    work = survey(CONFIG, LAYOUT, hosts, OWNERS, SCHEDULER).instance.work
    assert (work.layer_state_bytes, work.graph_bytes) == (1000.0, 10.0)
