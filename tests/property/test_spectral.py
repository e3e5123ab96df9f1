"""The spectral codec: little error where tokens lie near few dimensions, none on average, and no trust in bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import NonFinite, ProtocolError
from swarm.wire import spectral
from swarm.wire.range_coding import MOST_SPREAD, Reader, Writer, mean_bits, reach_of, spread_of
from swarm.wire.spectral import RATIO, Planner, encoded_bytes


def there_and_back(values: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
    return spectral.dequantize(spectral.quantize(values, whole), *values.shape)


def relative_error(values: torch.Tensor, *, whole: bool = False) -> float:
    """Energy of the error over energy."""
    return float((there_and_back(values, whole=whole) - values).square().sum() / values.square().sum())


def near(num_dimensions: int, noise: float, rows: int = 512, columns: int = 256, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(rows, num_dimensions, generator=generator)
    directions = torch.randn(num_dimensions, columns, generator=generator)
    spread = torch.randn(rows, columns, generator=generator)
    return parts @ directions / num_dimensions**0.5 + noise * spread


@pytest.mark.parametrize(("num_dimensions", "most"), [(1, 1e-5), (8, 1e-4), (24, 0.003), (64, 0.15)])
def test_the_fewer_dimensions_the_smaller_the_error(num_dimensions: int, most: float) -> None:
    assert relative_error(near(num_dimensions, 0.0)) < most


def test_noise_in_all_dimensions_costs_its_own_energy_only() -> None:
    clean, noisy = relative_error(near(16, 0.0)), relative_error(near(16, 0.1))
    assert noisy < clean + 1.2 * 0.01


def test_loud_tokens_drown_no_others() -> None:
    values = near(8, 0.1)
    calm = (there_and_back(values) - values).norm(dim=1)
    values[::300] = 300 * torch.randn(2, 256, generator=torch.Generator().manual_seed(1))
    errors = (there_and_back(values) - values).norm(dim=1)
    assert float(errors.median()) < 1.5 * float(calm.median())
    assert float((errors / values.norm(dim=1)).max()) < 0.5


def test_what_a_whole_tensor_loses_comes_back_on_average() -> None:
    """Weak directions too, which the least error drops: the same energy once, and the same values seen 64 times."""
    values = near(16, 0.1)
    dropped, averaged = torch.zeros_like(values), torch.zeros_like(values)
    for repeat in range(64):
        nearly = values * (1 + repeat / 1000)  # so that the dither is another
        dropped += there_and_back(nearly) / (1 + repeat / 1000) / 64
        averaged += there_and_back(nearly, whole=True) / (1 + repeat / 1000) / 64
    assert float((averaged - values).square().sum()) < 0.1 * float((dropped - values).square().sum())


@pytest.mark.parametrize("whole", [False, True])
def test_it_takes_a_twentieth_of_fp32_and_uses_it(whole: bool) -> None:
    payload = spectral.quantize(near(64, 0.1), whole)
    assert 4 * 512 * 256 / len(payload) >= RATIO
    assert np.flatnonzero(payload.numpy())[-1] > 0.95 * len(payload)


@given(
    scales=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40),
    left=st.floats(0, 1e6),
    rows=st.integers(1, 1000),
    columns=st.integers(40, 1000),
    whole=st.booleans(),
    bits=st.integers(100, 10**6),
)
def test_the_smallest_step_that_fits_is_found(
    scales: list[float], left: float, rows: int, columns: int, whole: bool, bits: int
) -> None:
    planner = Planner(np.array(scales), left, rows, columns, whole)
    step = planner.step_for(bits)
    plan = planner.at(step)
    assert list(plan.kept) == [index for index, scale in enumerate(scales) if scale > spectral.LEAST_STEPS * step]
    coarsest = 3 * max(*scales, math.sqrt(left / columns))
    finest = planner.finest
    assert plan.bits <= bits or step > coarsest
    assert planner.at(step * 0.99).bits > bits or step < 1.5 * finest or step > coarsest


@given(spread=st.integers(0, MOST_SPREAD), seed=st.integers(0, 2**31), count=st.integers(1, 300))
def test_numbers_come_back_from_the_range_coder(spread: int, seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    reach = reach_of(spread)
    numbers = np.clip(np.rint(generator.laplace(0, reach / 40, count)), -reach, reach).astype(np.float32)
    numbers[0] = reach
    writer = Writer()
    writer.put(numbers, spread)
    writer.put(-numbers, spread)
    reader = Reader(np.concatenate([writer.packed(), np.zeros(5, dtype=np.uint8)]))
    assert np.array_equal(reader.take(count, spread), numbers)
    assert np.array_equal(reader.take(count, spread), -numbers)


def test_a_number_takes_the_bits_that_are_reckoned_with() -> None:
    generator = np.random.default_rng(3)
    for scale in (0.2, 1.0, 7.0, 300.0):
        spread = spread_of([scale])
        dither = generator.random(20_000) - 0.5
        numbers = np.rint(generator.laplace(0, scale / math.sqrt(2), 20_000) + dither) * np.sign(dither)
        writer = Writer()
        writer.put(numbers.astype(np.float32), int(spread[0]))
        assert 8 * len(writer.packed()) == pytest.approx(20_000 * mean_bits(spread), rel=0.1)


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    seed=st.integers(0, 2**31),
    head=st.binary(max_size=24),
)
def test_any_bytes_are_a_tensor_or_refused(rows: int, columns: int, seed: int, head: bytes) -> None:
    num_bytes = encoded_bytes(rows * columns)
    noise = torch.randint(0, 256, (num_bytes,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    noise[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8) if head else noise[:0]
    noise[12] %= 64  # more directions than rows are refused at once
    noise[13] = 0
    noise[15 : 15 + int(noise[12])] %= MOST_SPREAD + 1
    try:
        values = spectral.dequantize(noise, rows, columns)
    except (ProtocolError, NonFinite):
        return
    assert values.shape == (rows, columns)
