"""The step protocol under random interleavings, losses, duplicates and deaths (invariants I1 to I4)."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.world import World


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(1, 3),
    replicas=st.integers(1, 3),
    owners=st.integers(1, 3),
    batch=st.integers(1, 9),
    deaths=st.integers(0, 3),
    staleness=st.integers(0, 1),
    pauses=st.integers(0, 2),
)
def test_every_group_counts_every_microbatch_once(
    seed: int, stages: int, replicas: int, owners: int, batch: int, deaths: int, staleness: int, pauses: int
) -> None:
    world = World(
        seed,
        stages=stages,
        replicas=replicas,
        owners=owners,
        batch=batch,
        steps=4,
        deaths=deaths,
        staleness=staleness,
        pauses=pauses,
    )
    world.run()
    assert world.halted is None, world.halted
    world.check_end()


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_faults_really_fire(staleness: int) -> None:
    fired: Counter[str] = Counter()
    for seed in range(40):
        world = World(seed, stages=2, replicas=3, owners=2, batch=8, steps=6, deaths=3, staleness=staleness, pauses=2)
        world.run()
        world.check_end()
        fired += world.fired
    for kind in (
        "killed",
        "death noticed",
        "hop to the dead",
        "frame lost",
        "delivered twice",
        "overdue",
        "retracted",
        "round failed",
        "given up",
        "answered from the books",
        "waited for a step to open again",
        "paused",
    ):
        assert fired[kind] > 0, f"{kind} never happened: {fired}"


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(1, 3),
    replicas=st.integers(1, 3),
    owners=st.integers(1, 2),
    deaths=st.integers(0, 2),
    staleness=st.integers(0, 1),
    pauses=st.integers(0, 2),
)
def test_plans_change_under_way(
    seed: int, stages: int, replicas: int, owners: int, deaths: int, staleness: int, pauses: int
) -> None:
    world = World(
        seed,
        stages=stages,
        replicas=replicas,
        owners=owners,
        batch=6,
        steps=10,
        deaths=deaths,
        changes=4,
        staleness=staleness,
        pauses=pauses,
    )
    world.run()
    assert world.halted is None, world.halted
    world.check_end()


@pytest.mark.parametrize("staleness", [0, 1])
def test_where_nobody_dies_every_load_comes_to_something(staleness: int) -> None:
    fired: Counter[str] = Counter()
    for seed in range(20):
        world = World(seed, stages=2, replicas=3, owners=2, batch=8, steps=16, deaths=0, changes=6, staleness=staleness)
        world.run()
        world.check_end()
        fired += world.fired
    assert fired["a shadow took over"] > 0
    assert fired["ShadowIsGone"] <= 2, fired
    assert fired["PlanChangeOff"] <= 2, fired


@pytest.mark.parametrize("staleness", [0, 1])
def test_plan_changes_really_happen(staleness: int) -> None:
    fired: Counter[str] = Counter()
    for seed in range(40):
        world = World(seed, stages=2, replicas=3, owners=2, batch=8, steps=12, deaths=3, changes=5, staleness=staleness)
        world.run()
        world.check_end()
        fired += world.fired
    for kind in (
        "plan proposed",
        "span changed",
        "average followed",
        "PlanChangeOff",
        "killed",
        "retracted",
        "ShadowIsCurrent",
        "average followed by a shadow",
        "a shadow took over",
        "shadow of what it served",
    ):
        assert fired[kind] > 0, f"{kind} never happened: {fired}"
