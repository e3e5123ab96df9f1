"""Leaders die at any moment, and the protocol keeps its promises (I1 to I4) under whoever is elected."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.world_turnover import TurnoverWorld


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stages=st.integers(1, 3),
    replicas=st.integers(1, 3),
    owners=st.integers(1, 3),
    batch=st.integers(1, 8),
    deaths=st.integers(0, 2),
    changes=st.sampled_from([0, 0, 3]),
    turnovers=st.integers(1, 4),
    staleness=st.integers(0, 1),
)
def test_no_step_is_lost_or_applied_twice(
    seed: int,
    stages: int,
    replicas: int,
    owners: int,
    batch: int,
    deaths: int,
    changes: int,
    turnovers: int,
    staleness: int,
) -> None:
    world = TurnoverWorld(
        seed,
        turnovers=turnovers,
        stages=stages,
        replicas=replicas,
        owners=owners,
        batch=batch,
        steps=8,
        deaths=deaths,
        changes=changes,
        staleness=staleness,
    )
    world.run()
    assert world.halted is None, world.halted
    world.check_end()


def test_the_turnovers_really_happen() -> None:
    fired: Counter[str] = Counter()
    for seed in range(60):
        world = TurnoverWorld(
            seed,
            turnovers=4,
            stages=2,
            replicas=3,
            owners=2,
            batch=6,
            steps=8,
            deaths=2,
            changes=seed % 3,
            staleness=seed % 2,
        )
        world.run()
        world.check_end()
        fired += world.fired
    for kind in (
        "leader died",
        "elected early",
        "elected by all",
        "applied under the next leader",
        "committed by the next leader",
        "members load before the first step",
        "order of an earlier leader",
        "report between leaders",
        "started over",
        "killed",
        "ran ahead",
    ):
        assert fired[kind] > 0, f"{kind} never happened: {fired}"
