"""Four bits a value: what tokens have in common costs no precision, no token drowns another, and no trust in bytes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import NonFinite
from swarm.wire.compression import decode, encode
from swarm.wire.four_bits import dequantize, encoded_bytes, quantize, rank_of

ROWS, COLUMNS = 384, 128


def tokens(seed: int = 2) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def errors(values: torch.Tensor) -> torch.Tensor:
    """Of each row, its length."""
    return (dequantize(quantize(values), *values.shape) - values).norm(dim=1)


def test_what_all_tokens_have_in_common_costs_no_precision() -> None:
    values = tokens()
    common = 3 * torch.randn(COLUMNS, generator=torch.Generator().manual_seed(3))
    assert float(errors(values + common).mean()) < 1.3 * float(errors(values).mean())


def test_the_second_layer_takes_up_the_errors_of_the_first() -> None:
    generator = torch.Generator().manual_seed(4)
    few = torch.randn(ROWS, 4, generator=generator) @ torch.randn(4, COLUMNS, generator=generator)
    assert float((errors(few) / few.norm(dim=1)).max()) < 0.03  # one layer alone: 0.1


def test_loud_tokens_drown_no_others() -> None:
    values = tokens()
    calm = errors(values)
    values[::50] *= 10.0 ** torch.linspace(-12, 12, 8)[:, None]
    assert float(errors(values).median()) < 1.5 * float(calm.median())
    assert float((errors(values) / values.norm(dim=1)).max()) < 0.3


@given(rows=st.integers(1, 5000), columns=st.integers(1, 5000))
def test_both_layers_fit(rows: int, columns: int) -> None:
    rank = rank_of(rows, columns)
    assert rank <= min(rows, columns)
    blocks = sum(math.ceil(values / 128) for values in (rank * rows, rank * columns, rows * columns))
    assert 68 * blocks + (4 + rows if rank else 0) <= encoded_bytes(rows * columns)
    assert encoded_bytes(rows * columns) == 73 * math.ceil(rows * columns / 128)


@pytest.mark.parametrize(("rows", "columns"), [(ROWS, COLUMNS), (130, 200), (1, 300), (300, 1)])
@given(seed=st.integers(0, 2**31))
def test_any_bytes_are_a_tensor_or_refused(rows: int, columns: int, seed: int) -> None:
    noise = torch.randint(
        0, 256, (encoded_bytes(rows * columns),), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    try:
        values = decode("int4", noise.numpy().data, (rows, columns))
    except NonFinite:
        return
    assert values.shape == (rows, columns)
    assert bool(torch.isfinite(values).all())


def test_rows_of_zeros_stay_zero_and_bad_values_stop() -> None:
    values = tokens()
    values[3] = 0
    assert not decode("int4", encode("int4", values), values.shape)[3].any()
    values[5, 7] = math.inf
    with pytest.raises(NonFinite):
        encode("int4", values)
