"""Charts show every step of a run in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.dashboard.history import History


@given(num_steps=st.integers(0, 500), most=st.integers(1, 12).map(lambda half: 2 * half))
def test_every_step_counts_once_in_few_points(num_steps: int, most: int) -> None:
    history = History(most)
    for step in range(1, num_steps + 1):
        history.add(step, {"tokens": float(step), "odd": float(step % 2)})
    assert len(history.points) <= most
    assert len(history.points) >= min(num_steps, most // 2)
    for key, total in (("tokens", num_steps * (num_steps + 1) / 2), ("odd", (num_steps + 1) // 2)):
        assert sum(point.sums[key] for point in history.points) == total
    covered = [step for point in history.points for step in range(point.first_step, point.last_step + 1)]
    assert covered == list(range(1, num_steps + 1))


def test_the_mean_of_merged_points_is_weighted() -> None:
    history = History(2)
    for step, (loss_sum, tokens) in enumerate([(10.0, 1.0), (20.0, 9.0), (1.0, 1.0)], start=1):
        history.add(step, {"loss": loss_sum, "tokens": tokens})
    assert history.points[0].ratio("loss", "tokens") == 3.0
    assert history.points[0].ratio("loss", "seconds") is None, "nothing is divided by what is not known"
