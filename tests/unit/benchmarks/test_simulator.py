"""The simulator: against figures worked out by hand, and under deaths and joins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.simulator.config import Death, Join, SimConfig, VirtualHost, VirtualOwner
from benchmarks.simulator.replanning import Followed, claim_of
from benchmarks.simulator.report import Report
from benchmarks.simulator.run import Simulation, simulate
from benchmarks.simulator.scenario import of_family, of_file
from benchmarks.simulator.verbs import simulate as verb
from scheduler.instructions import Record
from scheduler.planner.instance import Instance, Owners, Regions, Work
from scheduler.planner.intake import hosts_of
from scheduler.planner.moves import Policy
from swarm.errors import ConfigError, RunError, UnknownKey
from swarm.toml_text import to_toml
from tests.support.plans import plan as make_plan
from tests.support.runs import TINY_MODEL

LAYER_S, ENDS_S, LINE, BOUNDARY = 0.3, 0.06, 1e6, 10.0


def host(name: str, **other: Any) -> VirtualHost:
    facts = {"layer_s": LAYER_S, "up_bytes_per_s": LINE, "down_bytes_per_s": LINE, **other}
    return VirtualHost(name=name, **facts)


def config(stages: int, replicas: int, owners: int, batch: int, **other: Any) -> SimConfig:
    """Hosts alike, named `h<stage>.<number>`, one layer a stage."""
    names = [tuple(f"h{stage}.{number}" for number in range(replicas)) for stage in range(stages)]
    lines = {"up_bytes_per_s": other.pop("owner_line", LINE), "down_bytes_per_s": LINE}
    plan = make_plan(*names, owners=[f"o{number}" for number in range(owners)], window=other.pop("window", 8))
    facts = {
        "plan": plan,
        "hosts": tuple(host(name) for group in names for name in group),
        "owners": tuple(VirtualOwner(name=name, ends_s=ENDS_S, **lines) for name in plan.owners),
        "num_steps": 2,
        "num_microbatches": batch,
        "microbatch_tokens": 8,
        "boundary_bytes": BOUNDARY,
        **other,
    }
    return SimConfig(**facts)


class Watched(Simulation):
    """Checks at every commit that each group counted each microbatch once, and keeps the ledgers."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.records: list[Record] = []

    def _record(self, record: Record) -> None:
        super()._record(record)
        self.records.append(record)
        leases = [done.work.lease for _, done in record.work]
        assert sorted(lease.number for lease in leases) == list(range(self.config.num_microbatches))
        for group, names in enumerate(self._plan.groups):
            living = [self.peers[name].replica for name in names if name not in self._leader.lost]
            books = [replica for replica in living if replica is not None and replica.stage == group]
            for lease in leases:
                assert sum(replica.is_counted(lease) for replica in books) == 1


def test_one_host_is_busy_all_the_time_but_for_the_ends() -> None:
    report = simulate(config(1, 1, 1, batch=20))
    # The first front, twenty times the layer, the last front's backward; three transfers of 10 µs in between.
    expected_s = ENDS_S / 6 + 20 * LAYER_S + ENDS_S / 3 + 2 * BOUNDARY / LINE
    assert report.step_s == pytest.approx([expected_s] * 2)
    assert report.tokens_per_s == pytest.approx(20 * 8 / expected_s)
    assert report.shares["compute"] == pytest.approx(20 * LAYER_S / expected_s)
    assert sum(report.shares.values()) == pytest.approx(1)
    assert report.attempts == report.microbatches == 40
    assert report.boundary_bytes == 40 * 4 * BOUNDARY
    assert report.lost_compute_s == pytest.approx(0)


def test_a_thin_line_is_the_limit() -> None:
    report = simulate(config(1, 1, 1, batch=50, boundary_bytes=LINE))
    # A host sends an activation and a gradient of a second each, per microbatch.
    assert report.step_s[0] == pytest.approx(50 * 2, rel=0.05)
    assert report.shares["link"] > 0.5


def test_a_step_pays_three_round_trips_and_its_all_reduces() -> None:
    plain = simulate(config(2, 2, 1, batch=1)).step_s[1]
    far = simulate(config(2, 2, 1, batch=1, leader_round_trip_s=0.5)).step_s[1]
    # Done, close, closed, go, reduced, and the next leases.
    assert far - plain == pytest.approx(6 * 0.25)
    reducing = simulate(config(2, 2, 1, batch=1, gradient_bytes=LINE)).step_s[1]
    assert reducing - plain == pytest.approx(1)


def test_an_all_reduce_takes_as_long_as_its_slowest_member_needs_for_its_part() -> None:
    asked = config(1, 3, 1, batch=3, gradient_bytes=LINE)
    plain = simulate(replace(asked, gradient_bytes=0.0)).step_s[1]
    thin = replace(asked, hosts=(replace(asked.hosts[0], up_bytes_per_s=LINE / 3), *asked.hosts[1:]))
    # It sends its own values once and a third of the sum once more, at a third of the speed.
    assert simulate(thin).step_s[1] - plain == pytest.approx(3 * (1 + 1 / 3), rel=1e-3)
    (stage,) = asked.plan.stages
    spared = replace(asked.plan, stages=(replace(stage, reduce_fractions=(1e-6, 1.0, 1.0)),))
    assert simulate(replace(thin, plan=spared)).step_s[1] - plain == pytest.approx(3, rel=1e-3)


def test_a_backward_goes_before_a_forward() -> None:
    report = simulate(config(1, 1, 2, batch=40, window=20))
    # Were forwards first, all 40 would be in the host before the first came back, and the owners' ends could not hide.
    assert report.step_s[0] < 40 * LAYER_S + 2 * ENDS_S


def test_the_same_swarm_behaves_the_same() -> None:
    asked = config(3, 3, 2, batch=30, deaths=(Death(2.0, "h1.1"),), detection_s=0.5)
    assert simulate(asked) == simulate(asked)
    assert simulate(asked) != simulate(replace(asked, deaths=()))


@pytest.mark.parametrize("victims", [("h0.0",), ("h1.1", "h0.2"), ("o1",), ("o0", "h1.0")])
@pytest.mark.parametrize("first_s", [0.05, 1.0, 1.9, 3.3])
def test_a_death_in_mid_step_loses_no_microbatch(victims: tuple[str, ...], first_s: float) -> None:
    deaths = tuple(Death(first_s + 0.7 * number, name) for number, name in enumerate(victims))
    asked = config(2, 3, 2, batch=24, num_steps=4, deaths=deaths, detection_s=0.3, gradient_bytes=1e5)
    simulation = Watched(asked, None)
    report = simulation.run()
    assert report.problem == ""
    assert [len(record.work) for record in simulation.records] == [24] * 4
    assert set(report.lost_peers) == set(victims)
    # The dead leave the plan at the next commit.
    assert all(name not in simulation._leader.plan.groups[group] for name in victims for group in range(3))


def test_what_was_computed_in_vain_is_reported() -> None:
    asked = config(2, 2, 1, batch=24, deaths=(Death(2.0, "h0.0"),), detection_s=0.3)
    report = simulate(asked)
    assert report.attempts > report.microbatches
    assert report.lost_compute_s > LAYER_S


def test_the_last_replica_of_a_stage_ends_the_run() -> None:
    report = simulate(config(2, 1, 1, batch=8, deaths=(Death(1.0, "h1.0"),)))
    assert report.problem == "the last replica is gone"
    assert report.tokens == []


def followed(asked: SimConfig) -> Followed:
    """Follows the hosts of a configuration from `config`."""
    hosts, _ = hosts_of([claim_of(each) for each in asked.hosts])
    work = Work(
        num_layers=len(asked.plan.stages),
        layer_state_bytes=1e3,
        graph_bytes=1.0,
        working_bytes=1.0,
        raw_boundary_bytes=BOUNDARY,
        raw_gradient_bytes=1.0,
        global_batch=asked.num_microbatches,
        microbatch_tokens=8,
    )
    ends_s, line = np.full(len(asked.owners), 1e-3), np.full(len(asked.owners), 1e9)
    owners = Owners(asked.plan.owners, ends_s, line, line, np.zeros(len(asked.owners), dtype=np.int64))
    return Followed(Instance(hosts, owners, Regions.unlimited(), work), asked.plan, Policy())


def test_a_host_that_joins_stands_by_without_a_planner_and_serves_with_one() -> None:
    asked = config(2, 2, 2, batch=24, num_steps=6, joins=(Join(1.0, host("new")),), layer_state_bytes=1e5)
    alone = simulate(asked)
    assert alone.plans == [(1, 0)]
    assert alone.shares["idle"] > 0.1
    simulation = Watched(asked, followed(asked))
    report = simulation.run()
    assert "new" in {name for record in simulation.records for _, done in record.work for name in done.route}
    assert [number for number, _ in report.plans] == [1, 2]
    assert report.migrated_bytes >= 1e5
    assert report.tokens == alone.tokens


def test_a_stage_that_loses_a_host_gets_one_from_another() -> None:
    asked = config(2, 3, 1, batch=12, num_steps=8, deaths=(Death(1.0, "h1.0"), Death(6.0, "h1.1")), detection_s=0.2)
    simulation = Watched(asked, followed(asked))
    report = simulation.run()
    assert report.problem == ""
    assert [len(group) for group in simulation._leader.plan.groups] == [2, 2, 1]
    assert len(report.tokens) == 8


def test_peers_that_are_not_there_are_named() -> None:
    asked = config(1, 1, 1, batch=1)
    with pytest.raises(RunError, match=r"S700.*h0\.0"):
        simulate(replace(asked, hosts=()))
    with pytest.raises(RunError, match=r"S700.*ghost is to die"):
        simulate(replace(asked, deaths=(Death(1.0, "ghost"),)))


LINES = {"up_mbit": 80, "down_mbit": 80}
SWARM = {
    "hosts": [{"name": "h", "count": 4, "memory_gib": 1, "layer_ms": 100, **LINES}],
    "owners": [{"name": "o", "ends_ms": 10, **LINES}],
}
MODEL = {
    "model": TINY_MODEL,
    "data": {"context_tokens": 8},
    "batch": {"microbatch_sequences": 1, "global_batch_microbatches": 16},
}


def test_a_swarm_is_read_from_a_file_planned_and_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model, output = tmp_path / "swarm.json", tmp_path / "run.toml", tmp_path / "report.json"
    path.write_text(json.dumps(SWARM))
    model.write_text(to_toml(MODEL, {}))
    asked: dict[str, Any] = {"family": "", "steps": 2, "microbatches": 8, "seed": 1, "churn_life_h": 0.0}
    verb(peers=path, model=model, round_trip_ms=1.0, json=output, **asked)
    figures = json.loads(output.read_text())
    assert figures["microbatches"] == 16
    assert figures["tokens"] == [64, 64]
    assert figures["tokens_per_s"] == pytest.approx(figures["predicted_tokens_per_s"], rel=0.5)
    assert "tokens_per_s" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"S100.*--model"):
        verb(peers=path, model=None, round_trip_ms=1.0, json=None, **asked)


def test_swarms_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"S100.*nothing\.json"):
        of_file(tmp_path / "nothing.json", tmp_path / "run.toml")
    with pytest.raises(UnknownKey, match=r"S101.*university"):
        of_family("palace", 4, 1)


def test_reports_compare_by_value() -> None:
    """What the test of repeatability stands on."""
    assert Report(step_s=[1.0]) != Report(step_s=[2.0])
