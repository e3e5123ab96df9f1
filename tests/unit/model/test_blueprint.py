"""What the model section of a run may say, and which models can be cut."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from swarm.errors import ConfigError, ModelUnsupported, UnknownKey
from swarm.model.blueprint import layout
from swarm.model.slices import build_trunk_slice
from swarm.model.spans import LayerSpan
from tests.support.tiny_models import run_config


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"hiden_size": 32}, UnknownKey, "did you mean hidden_size"),
        ({"model_type": "lama"}, ModelUnsupported, "did you mean"),
        ({"num_hidden_layers": 2}, ModelUnsupported, "none left for volunteers"),
        ({"hidden_size": "wide"}, ConfigError, "hidden_size"),
        ({"hidden_size": 30}, ConfigError, "multiple"),
        ({"attention_dropout": 0.1}, ModelUnsupported, "unrepeatable"),
        ({"dtype": "bfloat16"}, ModelUnsupported, "numerics.precision"),
        ({"max_position_embeddings": 8}, ConfigError, "max_position_embeddings"),
    ],
)
def test_bad_model_sections_are_named(changes: dict[str, Any], error: type[ConfigError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        layout(run_config(**changes))


def test_a_model_without_vocab_size_is_refused() -> None:
    config = run_config()
    values = {key: value for key, value in config.model.items() if key != "vocab_size"}
    object.__setattr__(config, "model", values)
    with pytest.raises(ConfigError, match="vocab_size"):
        layout(config)


def test_a_model_without_the_chain_is_refused() -> None:
    config = run_config()
    object.__setattr__(
        config, "model", {"model_type": "gpt2", "n_layer": 4, "n_embd": 32, "n_head": 4, "vocab_size": 256}
    )
    with pytest.raises(ModelUnsupported, match="embed_tokens"):
        layout(config)


def test_a_decoder_that_scales_its_input_is_refused() -> None:
    config = run_config(model_type="granite", embedding_multiplier=3.0)
    with pytest.raises(ModelUnsupported, match="more than run its layers"):
        build_trunk_slice(config, LayerSpan(1, 2))


def test_rotary_keys_of_older_files_are_known() -> None:
    assert layout(run_config(rope_theta=50000.0)).num_layers == 5


def test_spans_do_not_import_torch() -> None:
    check = "import sys, swarm.model.spans; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_spans_contain_their_parts() -> None:
    assert LayerSpan(1, 4).num_layers == 3
    assert LayerSpan(1, 4).contains(LayerSpan(2, 4))
    assert not LayerSpan(1, 4).contains(LayerSpan(0, 2))
    assert str(LayerSpan(1, 4)) == "layers 1..3"
