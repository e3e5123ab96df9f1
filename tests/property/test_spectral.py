"""The spectral codec: bits where they pay, little error where tokens lie near few dimensions, and no trust in bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import NonFinite, ProtocolError
from swarm.wire import spectral
from swarm.wire.spectral import MOST_BITS, RATIO, Room, encoded_bytes, share_out


def relative_error(values: torch.Tensor) -> float:
    """Energy of the error over energy."""
    back = spectral.dequantize(spectral.quantize(values, whole), *values.shape)
    return float((back - values).square().sum() / values.square().sum())


def near(num_dimensions: int, noise: float, rows: int = 512, columns: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    parts = torch.randn(rows, num_dimensions, generator=generator)
    directions = torch.randn(num_dimensions, columns, generator=generator)
    spread = torch.randn(rows, columns, generator=generator)
    return parts @ directions / num_dimensions**0.5 + noise * spread


@pytest.mark.parametrize(("num_dimensions", "most"), [(1, 0.0005), (8, 0.0005), (24, 0.01), (64, 0.2)])
def test_the_fewer_dimensions_the_smaller_the_error(num_dimensions: int, most: float) -> None:
    assert relative_error(near(num_dimensions, 0.0)) < most


def test_noise_in_all_dimensions_costs_its_own_energy_only() -> None:
    clean, noisy = relative_error(near(16, 0.0)), relative_error(near(16, 0.1))
    assert noisy < clean + 1.2 * 0.01


def test_rows_of_very_different_lengths_keep_their_own_relative_error() -> None:
    """A quiet token counts as much as a loud one: what follows normalises each."""
    values = near(8, 0.0)
    values *= 10.0 ** torch.linspace(-9, 9, len(values))[:, None]
    back = spectral.dequantize(spectral.quantize(values, whole), *values.shape)
    errors = (back - values).norm(dim=1) / values.norm(dim=1)
    assert float(errors.median()) < 0.1
    assert float(errors.max()) < 0.5


def test_it_takes_a_twentieth_of_fp32() -> None:
    assert 4 * 512 * 256 / len(spectral.quantize(near(64, 0.1))) >= RATIO


variances = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)
rooms = st.builds(Room, st.integers(0, 5000), st.integers(5, 300).map(float), st.integers(1, 100))


@given(variances=variances, room=rooms)
def test_bits_stay_within_the_room_and_go_to_the_largest(variances: list[float], room: Room) -> None:
    ranked = sorted(variances, reverse=True)
    bits = share_out(ranked, room)
    spent = sum(each * room.bit_bytes + (room.direction_bytes if each else 0) for each in bits)
    assert spent <= max(0, room.num_bytes)
    assert all(0 <= each <= MOST_BITS for each in bits)
    assert all(not each or variance > 0 for each, variance in zip(bits, ranked, strict=True))
    loud = [each for each, variance in zip(bits, ranked, strict=True) if variance > 0]
    assert loud == sorted(loud, reverse=True)


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
    try:
        values = spectral.dequantize(noise, rows, columns)
    except (ProtocolError, NonFinite):
        return
    assert values.shape == (rows, columns)
