"""The sampler visits every window once a pass, from nothing but (seed, cursor)."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.data.sampler import microbatch, take, windows, windows_per_pass
from tests.support.tiny_models import run_config

seeds = st.integers(min_value=0, max_value=2**64)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    """(tokens, context tokens) with room for a window."""
    context = draw(st.integers(1, 40))
    return draw(st.integers(context + 1, context * 70 + 1)), context


@given(shapes(), seeds, st.integers(0, 1000))
def test_every_pass_visits_each_of_its_windows_once(shape: tuple[int, int], seed: int, number: int) -> None:
    num_tokens, context = shape
    per_pass = windows_per_pass(num_tokens, context)
    starts = np.sort(windows(num_tokens, context, seed, number * per_pass, per_pass))
    assert starts[0] >= 0
    assert starts[-1] + context + 1 <= num_tokens
    assert (np.diff(starts) == context).all()
    # Nothing but one window's worth, and less than a window at either edge, is left out of a pass.
    assert num_tokens - per_pass * context <= 2 * context


@given(shapes(), seeds, st.integers(0, 10**9), st.integers(1, 60), st.data())
def test_any_cut_of_the_order_gives_the_same_order(
    shape: tuple[int, int], seed: int, cursor: int, count: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, count))
    whole = windows(*shape, seed, cursor, count)
    parts = [windows(*shape, seed, cursor, cut), windows(*shape, seed, cursor + cut, count - cut)]
    assert np.array_equal(whole, np.concatenate(parts))


@settings(max_examples=25)
@given(seeds)
def test_passes_and_seeds_differ_in_order_and_phase(seed: int) -> None:
    passes = [windows(20_001, 20, seed, number * 999, 999) for number in range(8)]
    assert all(not np.array_equal(passes[0], other) for other in passes[1:])
    assert len({int(starts[0]) % 20 for starts in passes}) > 1
    assert not np.array_equal(passes[0], windows(20_001, 20, seed + 1, 0, 999))


@settings(max_examples=25)
@given(seeds)
def test_the_order_looks_random(seed: int) -> None:
    starts = windows(100_001, 10, seed, 0, 9_999)
    places = np.argsort(np.argsort(starts))
    # Rank correlation of a random order of n is about 1/sqrt(n) = 0.01.
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.06


@given(seeds, st.integers(0, 10**6))
def test_microbatches_are_the_windows_at_their_cursor(seed: int, cursor: int) -> None:
    config = run_config()
    tokens = np.arange(1000, dtype=np.uint16)
    ids, labels = microbatch(tokens, config, seed, cursor)
    assert ids.shape == labels.shape == (2, 16)
    assert ids.dtype == labels.dtype == np.int64
    assert np.array_equal(ids + 1, labels)
    assert np.array_equal(ids[:, 0], windows(1000, 16, seed, 2 * cursor, 2))


def test_the_order_never_changes_between_versions() -> None:
    # A restart with another order would repeat samples and lose others.
    assert windows(1000, 16, 7, 58, 6).tolist() == [425, 457, 681, 284, 812, 476]


def test_windows_may_share_a_label_but_no_input() -> None:
    tokens = np.arange(9, dtype=np.uint16)
    ids, labels = take(tokens, np.array([0, 4]), 4)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
