"""Costs on paper are those that a peer measures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.probe import measure_layer
from swarm.config import NumericsConfig, OptimizerConfig, ScheduleConfig
from swarm.model.blueprint import layout
from swarm.training.costs import costs
from swarm.training.device import Device
from tests.support.tiny_models import FAMILIES, run_config


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_what_peers_measure(family: str, precision: str) -> None:
    config = replace(run_config(family), numerics=NumericsConfig(precision=precision))
    laid_out = layout(config)
    measured = measure_layer(config, laid_out, Device("cpu", precision))
    found = costs(config, laid_out)
    assert found.layer_state_bytes == measured.layer_bytes
    # Kernels may share what they keep; on paper nothing is shared.
    assert measured.graph_bytes <= found.graph_bytes <= 1.15 * measured.graph_bytes


@pytest.mark.parametrize(("name", "momentum", "words"), [("adamw", 0.0, 4), ("sgd", 0.0, 2), ("sgd", 0.9, 3)])
def test_the_optimizer_s_state_counts(name: str, momentum: float, words: int) -> None:
    config = replace(run_config("llama"), optimizer=OptimizerConfig(name=name, momentum=momentum))
    laid_out = layout(config)
    parameters = laid_out.layer_parameters[laid_out.trunk.first]
    assert costs(config, laid_out).layer_state_bytes == pytest.approx(4 * words * parameters, rel=1e-3)


def test_steps_that_run_at_once_have_weights_of_their_own() -> None:
    config = replace(run_config("llama"), schedule=ScheduleConfig(staleness=1))
    laid_out = layout(config)
    assert (
        costs(config, laid_out).layer_state_bytes == measure_layer(config, laid_out, Device("cpu", "fp32")).layer_bytes
    )


def test_operations_follow_the_weights() -> None:
    config = run_config("llama")
    laid_out = layout(config)
    trunk, sizes = laid_out.trunk, laid_out.layer_parameters
    attention = config.data.context_tokens * laid_out.hidden_size
    each = 6 * config.microbatch_tokens
    found = costs(config, laid_out)
    assert found.layer_flops == each * (sizes[trunk.first] + attention)
    ends = sum(sizes) - sum(sizes[trunk.first : trunk.last]) + laid_out.vocab_size * laid_out.hidden_size
    assert found.ends_flops == each * (ends + 2 * attention)


def test_a_large_model_costs_no_memory() -> None:
    """Seven billion parameters and more memory than any test may take."""
    config = run_config("llama")
    wide = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
    config = replace(config, model={**config.model, **wide})
    assert costs(config, layout(config)).layer_state_bytes > 2.9e9
