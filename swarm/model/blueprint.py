"""The run's model as transformers would build it, without its weights: what it is made of and where it can be cut."""

from __future__ import annotations

import dataclasses
import difflib
import threading
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from swarm.config import RunConfig
from swarm.errors import ConfigError, ModelUnsupported, UnknownKey
from swarm.model.layout import Layout
from swarm.model.spans import LayerSpan

# Keys of older configuration files that every rotary model still understands.
_ROTARY_KEYS = frozenset({"rope_theta", "rope_scaling", "partial_rotary_factor"})

# The classes' own defaults name tokens of their authors' vocabularies. A padding token's embedding gets no gradient,
# so a default would silently freeze one of our tokens.
_NO_SPECIAL_TOKENS: Mapping[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


LLAMA_KIND = "choose a decoder of the Llama kind (llama, qwen3, mistral, olmo2)"
"""The remedy for every model whose shape does not fit."""
BUILDING = threading.RLock()
"""Held while a model is built or filled: both change what torch has once a process (how modules register parameters,
the random numbers), and a peer may load two groups at once."""


def transformers_config(config: RunConfig) -> Any:
    """Check the run's model section and make a transformers configuration of it.

    Returns:
        An instance of the model type's configuration class.

    Raises:
        ModelUnsupported: a model type that transformers lacks, reduced weights or dropout.
        UnknownKey: a key that this model type does not have.
        ConfigError: a value that this model type does not take, or no vocab_size, or windows beyond its positions.
    """
    values = dict(config.model)
    model_type = values.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING.keys()), n=1)
        remedy = f"did you mean {near[0]}?" if near else 'use one that transformers has, such as "llama"'
        raise ModelUnsupported(f"transformers has no model type {model_type!r}", remedy)
    kind = CONFIG_MAPPING[model_type]
    _check_keys(kind, values)
    try:
        built = kind(**{**_NO_SPECIAL_TOKENS, **values})
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        # Validators wrap the cause in several lines; the last one says what is wrong.
        cause = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"the {model_type} model's configuration is wrong ({cause})", "correct [model]") from None
    _check_values(config, values, built)
    return built


def skeleton(config: RunConfig) -> PreTrainedModel:
    """The whole model on the meta device: every module, not one byte of weights.

    Returns:
        What `AutoModelForCausalLM` builds, in fp32 with `sdpa` attention.

    Raises:
        ModelUnsupported: not a chain of embedding, layers, norm and head, or too short to have a trunk.
        ConfigError: as `transformers_config`.
    """
    built = transformers_config(config)
    try:
        with BUILDING, init_empty_weights(include_buffers=True):
            model = AutoModelForCausalLM.from_config(built, attn_implementation="sdpa", dtype=torch.float32)
    except ValueError as error:
        raise ModelUnsupported(
            f"transformers cannot build a {built.model_type} decoder ({str(error).splitlines()[0]})",
            "choose a causal language model with sdpa attention",
        ) from None
    _check_parts(model)
    trunk = trunk_span(config, len(decoder_of(model).layers))
    if trunk.num_layers < 1:
        raise ModelUnsupported(
            f"a model of {len(decoder_of(model).layers)} layers has none left for volunteers "
            f"({config.ends.front_layers} in front and {config.ends.back_layers} at the back stay with owners)",
            "raise model.num_hidden_layers",
        )
    return model


def decoder_of(model: PreTrainedModel) -> Any:
    """The part of a causal language model below its head: embedding, layers and norm."""
    return getattr(model, model.base_model_prefix)


def trunk_span(config: RunConfig, num_layers: int) -> LayerSpan:
    """The layers between the owners' ends; empty or negative when there are too few."""
    return LayerSpan(config.ends.front_layers, num_layers - config.ends.back_layers)


def layout(config: RunConfig) -> Layout:
    """Measure the run's model without allocating it.

    Raises:
        ModelUnsupported: as `skeleton`.
        ConfigError: as `transformers_config`.
    """
    model = skeleton(config)
    layers = decoder_of(model).layers
    layer_parameters = tuple(_count(layer) for layer in layers)
    trunk = trunk_span(config, len(layers))
    return Layout(
        num_layers=len(layers),
        trunk=trunk,
        hidden_size=model.config.hidden_size,
        vocab_size=model.config.vocab_size,
        layer_parameters=layer_parameters,
        ends_parameters=_count(model) - sum(layer_parameters[trunk.first : trunk.last]),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_keys(kind: Any, values: Mapping[str, Any]) -> None:
    known = {entry.name for entry in dataclasses.fields(kind)} | set(kind.attribute_map)
    if "rope_parameters" in known:
        known |= _ROTARY_KEYS
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"see transformers' {kind.__name__} for its keys"
            raise UnknownKey(f"model has the unknown key {key!r}", remedy)


def _check_values(config: RunConfig, values: Mapping[str, Any], built: Any) -> None:
    if "vocab_size" not in values:
        raise ConfigError("model has no vocab_size", "set it to the tokenizer's number of tokens, 256 for bytes")
    if values.get("dtype") not in (None, "float32"):
        raise ModelUnsupported(
            f"model.dtype is {values['dtype']!r}, but master weights are fp32",
            "leave it out, and choose the precision of compute with numerics.precision",
        )
    for key, value in values.items():
        # A replayed microbatch must give the gradient it gave before, whoever computes it.
        if "dropout" in key and value:
            raise ModelUnsupported(f"model.{key} is {value}, which makes microbatches unrepeatable", "set it to 0")
    positions = getattr(built, "max_position_embeddings", None)
    if positions is not None and config.data.context_tokens > positions:
        raise ConfigError(
            f"data.context_tokens is {config.data.context_tokens}, but the model has {positions} positions",
            "raise model.max_position_embeddings or shorten the context",
        )


def _check_parts(model: PreTrainedModel) -> None:
    decoder = getattr(model, model.base_model_prefix, None)
    found = {name for name in ("embed_tokens", "layers", "norm") if getattr(decoder, name, None) is not None}
    missing = sorted({"embed_tokens", "layers", "norm"} - found)
    if getattr(model, "lm_head", None) is None:
        missing.append("lm_head")
    if missing:
        raise ModelUnsupported(
            f"a {model.config.model_type} model has no {', '.join(missing)} where the swarm cuts", LLAMA_KIND
        )
    _check_no_other_weights(model, ("lm_head", model.base_model_prefix))
    _check_no_other_weights(decoder, ("embed_tokens", "layers", "norm"))


def _check_no_other_weights(module: Any, known: tuple[str, ...]) -> None:
    # Weights beside the chain would belong to no stage, and be trained by nobody.
    for name, child in module.named_children():
        if name not in known and _count(child):
            raise ModelUnsupported(f"the weights of {name} lie outside the chain of layers", LLAMA_KIND)
