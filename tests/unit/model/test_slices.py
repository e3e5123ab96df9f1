"""Slices are the unsliced model, bit for bit: weights, logits, and gradients in sum."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from swarm.config import RunConfig
from swarm.errors import ModelUnsupported
from swarm.model.blueprint import layout
from swarm.model.slices import Ends, TrunkSlice, build_ends, build_full, build_trunk_slice, named_global_parameters
from swarm.model.spans import LayerSpan
from tests.support.tiny_models import FAMILIES, run_config

torch.set_num_threads(1)


def _pieces(config: RunConfig) -> tuple[Ends, list[TrunkSlice]]:
    return build_ends(config), [build_trunk_slice(config, LayerSpan(*span)) for span in ((1, 2), (2, 4))]


def _batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_equal_the_unsliced_models(family: str) -> None:
    config = run_config(family)
    ends, trunk = _pieces(config)
    full = dict(build_full(config).named_parameters())
    sliced = dict(entry for piece in (ends, *trunk) for entry in named_global_parameters(piece))
    assert sliced.keys() == full.keys()
    assert all(torch.equal(sliced[name], full[name]) for name in full)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_unsliced_models(family: str) -> None:
    config = run_config(family)
    ends, trunk = _pieces(config)
    token_ids, _ = _batch()
    hidden = ends.front(token_ids)
    for piece in trunk:
        hidden = piece(hidden)
    expected = build_full(config)(input_ids=token_ids).logits
    assert torch.equal(ends.logits(hidden), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_unsliced_models(family: str) -> None:
    config = run_config(family)
    ends, trunk = _pieces(config)
    full = build_full(config)
    token_ids, labels = _batch()
    # As over a network: every piece has a graph of its own, and gradients are handed back by hand.
    sent = [ends.front(token_ids)]
    received = []
    for piece in trunk:
        received.append(sent[-1].detach().requires_grad_())
        sent.append(piece(received[-1]))
    received.append(sent[-1].detach().requires_grad_())
    loss = ends.back(received[-1], labels)
    loss.backward()
    for output, following in zip(reversed(sent), reversed(received), strict=True):
        output.backward(following.grad)

    logits = full(input_ids=token_ids).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    expected.backward()
    assert torch.equal(loss, expected)
    reference = dict(full.named_parameters())
    for piece in (ends, *trunk):
        for name, parameter in named_global_parameters(piece):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-5, atol=1e-6, msg=name)


def test_the_sliding_window_is_felt() -> None:
    token_ids, _ = _batch()
    narrow = build_full(run_config("mistral-sliding-window"))
    wide = build_full(run_config("mistral-sliding-window", sliding_window=64))
    assert not torch.equal(narrow(input_ids=token_ids).logits, wide(input_ids=token_ids).logits)


def test_the_loss_is_a_sum_over_tokens() -> None:
    ends = build_ends(run_config())
    hidden, labels = torch.randn(2, 16, 32), _batch()[1]
    loss = ends.back(hidden, labels)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    halves = ends.back(hidden[:1], labels[:1]) + ends.back(hidden[1:], labels[1:])
    torch.testing.assert_close(loss, halves)


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_trunk_slice(run_config(), LayerSpan(1, 3))
    assert torch.equal(torch.rand(3), expected)


def test_pieces_that_are_built_at_once_are_the_same() -> None:
    """A peer may load two groups at a time; torch's random numbers are one a process."""
    spans = [LayerSpan(1, 2), LayerSpan(2, 3), LayerSpan(1, 3)] * 4
    with ThreadPoolExecutor(len(spans)) as threads:
        pieces = list(threads.map(lambda span: build_trunk_slice(run_config(), span), spans))
    reference = dict(build_full(run_config()).named_parameters())
    for piece in pieces:
        for name, parameter in named_global_parameters(piece):
            assert torch.equal(parameter, reference[name]), name


_PRINT_HASH = """
import hashlib
from swarm.model.slices import build_full
from tests.support.tiny_models import run_config
digest = hashlib.sha256()
for parameter in build_full(run_config()).parameters():
    digest.update(parameter.detach().numpy().tobytes())
print(digest.hexdigest())
"""


def test_another_processor_gives_the_same_weights() -> None:
    digest = hashlib.sha256()
    for parameter in build_full(run_config()).parameters():
        digest.update(parameter.detach().numpy().tobytes())
    # torch's code paths for a processor without vector instructions.
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    other = subprocess.run([sys.executable, "-c", _PRINT_HASH], env=plain, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == digest.hexdigest()


def test_another_seed_gives_other_weights() -> None:
    config = run_config()
    one = build_trunk_slice(config, LayerSpan(1, 2))
    two = build_trunk_slice(dataclasses.replace(config, seed=2), LayerSpan(1, 2))
    weights = [named_global_parameters(piece)[0][1] for piece in (one, two)]
    assert not torch.equal(*weights)


def test_named_parameters_are_in_the_unsliced_models_order() -> None:
    config = run_config("llama-tied")
    names = [name for name, _ in named_global_parameters(build_ends(config))]
    assert names == [name for name, _ in build_full(config).named_parameters() if not 1 <= _layer(name) < 4]
    assert "lm_head.weight" not in names


def _layer(name: str) -> int:
    return int(name.split(".")[2]) if ".layers." in name else -1


@pytest.mark.parametrize("span", [(0, 2), (2, 5), (2, 2)])
def test_spans_outside_the_trunk_are_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ModelUnsupported, match="trunk"):
        build_trunk_slice(run_config(), LayerSpan(*span))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_counts_every_parameter_once(family: str) -> None:
    config = run_config(family)
    measured = layout(config)
    assert measured.trunk == LayerSpan(1, 4)
    assert (measured.num_layers, measured.hidden_size, measured.vocab_size) == (5, 32, 256)
    counted = sum(measured.layer_parameters[1:4]) + measured.ends_parameters
    assert counted == sum(parameter.numel() for parameter in build_full(config).parameters())
