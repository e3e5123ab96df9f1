"""Replanning under random events: few moves, no stage given up, memory kept, books that add up, repeatable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.planner.instance import Assignment, Instance, Owners, Regions, Work
from scheduler.planner.intake import Measured, hosts_of
from scheduler.planner.moves import Decision, Policy
from scheduler.planner.occupancy import Phase
from scheduler.planner.replan import Replanner

WORK = Work(
    num_layers=6,
    layer_state_bytes=100.0,
    graph_bytes=10.0,
    working_bytes=5.0,
    raw_boundary_bytes=1.0,
    raw_gradient_bytes=20.0,
    global_batch=100,
    microbatch_tokens=8,
)
ROOM_FOR_ALL = 5.0 + 3 * 110.0 + 3 * 100.0
CUTS = ([6], [3, 3], [2, 2, 2], [1, 2, 3])

Event = tuple[str, int, float, float, float]
"""Kind, which host, seconds a layer, bytes/s, memory in shares of what holds everything."""

events = st.tuples(
    st.sampled_from(["join", "join", "leave", "leave", "drift", "arrive", "arrive", "copied", "solve"]),
    st.integers(0, 10**6),
    st.sampled_from([0.01, 0.03, 0.1]),
    st.sampled_from([50.0, 500.0, 5000.0]),
    st.sampled_from([0.4, 0.7, 1.0]),
)


def claim(name: str, layer_s: float = 0.1, line: float = 1000.0, room: float = 1.0) -> Measured:
    return Measured(name, room * ROOM_FOR_ALL, layer_s, line, line)


def start(
    sizes: Sequence[int], per_stage: int, policy: Policy, copies: Mapping[str, tuple[int, bool]] | None = None
) -> Replanner:
    """So many equal hosts on every stage."""
    names = [f"s{stage}.{number}" for stage in range(len(sizes)) for number in range(per_stage)]
    hosts, _ = hosts_of([claim(name, room=1.2 if len(sizes) == 1 else 1.0) for name in names])
    owners = Owners(("o",), np.array([1e-3]), *np.full((2, 1), 1e6), np.zeros(1, dtype=np.int64))
    stages = np.repeat(np.arange(len(sizes)), per_stage)
    instance = Instance(hosts, owners, Regions.unlimited(), WORK)
    return Replanner(instance, Assignment(stages, np.array(sizes)), policy, copies)


def happen(replanner: Replanner, number: int, event: Event) -> Decision:
    kind, which, layer_s, line, room = event
    places = replanner.places
    names = sorted(places.hosts)
    if kind == "join" or not names:
        return replanner.join(claim(f"j{number}", layer_s, line, room))
    name = names[which % len(names)]
    host = places.hosts[name]
    if kind == "leave":
        # The last that serves a stage: the run ends, which is not replanning's business.
        return Decision() if host.stage >= 0 and places.num_planned[host.stage] < 2 else replanner.leave(name)
    if kind == "drift":
        return replanner.drifted(claim(name, layer_s, line, room))
    if kind == "arrive":
        return replanner.arrived(name)
    if kind == "copied":
        return replanner.copied(name, host.copy)
    target = {name: (position + which) % len(places.sizes) for position, name in enumerate(names)}
    decision = replanner.propose(target, places.sizes, budget_bytes=line)
    assert decision.num_bytes <= line
    return decision


def check(replanner: Replanner, kind: str, decision: Decision) -> None:
    places = replanner.places
    assert len(decision.moves) <= 2
    assert len(decision.copies) <= 2
    assert len({move.host for move in decision.moves}) == len(decision.moves)
    for move in decision.moves:
        assert move.num_bytes <= places.state_bytes(move.to_stage)
        if move.from_stage >= 0:
            staying = sum(
                host.stage == move.from_stage and host.phase is Phase.SERVING for host in places.hosts.values()
            )
            assert staying >= 1, "a move emptied a stage"
            if staying < 2:
                assert places.num_planned[move.to_stage] <= 2, "a stage was left with one host for another's comfort"
    for host in places.hosts.values():
        if host.stage >= 0:
            own = places.sizes[host.stage] * (WORK.layer_state_bytes + WORK.graph_bytes)
            kept = places.sizes[host.copy] * WORK.layer_state_bytes if host.copy >= 0 else 0.0
            assert WORK.working_bytes + own + kept <= host.claim.memory_bytes
        assert host.copy < 0 or host.copy != host.stage
    if len(decision.moves) < 2 and kind != "solve":
        check_no_avoidable_loneliness(replanner)


def check_no_avoidable_loneliness(replanner: Replanner) -> None:
    places = replanner.places
    for stage, count in enumerate(places.num_planned):
        if count < 2:
            for host in places.hosts.values():
                free = host.phase is Phase.STANDBY or (
                    host.phase is Phase.SERVING and places.num_staying(host.stage) > 2
                )
                assert host.rates[stage] == 0 or not free, f"{host.name} could help stage {stage}"


def check_sums(replanner: Replanner) -> None:
    places = replanner.places
    for stage in range(len(places.sizes)):
        here = [host for host in places.hosts.values() if host.stage == stage]
        loading = [host for host in places.hosts.values() if host.phase is Phase.LOADING]
        ready = [host for host in here if host not in loading] + [host for host in loading if host.still == stage]
        assert places.num_planned[stage] == len(here)
        assert places.num_serving[stage] == len(ready)
        assert math.isclose(places.planned[stage], sum(host.rates[stage] for host in here), abs_tol=1e-6)
        assert math.isclose(places.now[stage], sum(host.rates[stage] for host in ready), abs_tol=1e-6)
        copies = {host.name for host in places.hosts.values() if host.copy == stage and host.copy_whole}
        assert {name for _, name in places.copies[stage]} == copies


@settings(max_examples=400, deadline=None)
@given(
    sizes=st.sampled_from(CUTS),
    per_stage=st.integers(1, 5),
    copy_cover=st.sampled_from([0.0, 0.5, 1.0]),
    goes_on=st.booleans(),
    drawn=st.lists(events, min_size=5, max_size=30),
)
def test_any_sequence_of_events(
    sizes: list[int], per_stage: int, copy_cover: float, goes_on: bool, drawn: list[Event]
) -> None:
    policy = Policy(horizon_s=600.0, serves_while_loading=goes_on, copy_cover=copy_cover)
    first, second = start(sizes, per_stage, policy), start(sizes, per_stage, policy)
    for number, event in enumerate(drawn):
        decision = happen(first, number, event)
        if event[0] in ("join", "drift") or decision.moves:
            check(first, event[0], decision)
        assert happen(second, number, event) == decision, "the same history led to another decision"
        check_sums(first)


def test_the_interesting_events_really_happen() -> None:
    """The strategy above reaches switches, copies, standbys and moves from stage to stage."""
    generator = np.random.default_rng(3)
    seen = set()
    for _ in range(40):
        replanner = start(CUTS[int(generator.integers(len(CUTS)))], 4, Policy(horizon_s=600.0, copy_cover=1.0))
        for number in range(60):
            kind = str(generator.choice(["join", "leave", "leave", "arrive", "arrive", "copied", "copied", "solve"]))
            event = (kind, int(generator.integers(10**6)), 0.03, float(generator.choice([5.0, 5000.0])), 1.0)
            decision = happen(replanner, number, event)
            for move in decision.moves:
                seen.add("switch" if move.num_bytes == 0 else "join" if move.from_stage < 0 else "move")
                if move.serves_meanwhile:
                    seen.add("goes on")
            if decision.copies:
                seen.add("copy")
            if replanner.places.standbys:
                seen.add("standby")
    assert seen == {"switch", "join", "move", "copy", "standby", "goes on"}
