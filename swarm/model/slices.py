"""The model in pieces: a run of trunk layers for volunteers, both ends for data owners, and the whole for checks.

Each piece keeps transformers' own decoder around its layers, cut down to them, so that masks, rotary positions and
whatever a family adds are computed by the code that defines them. Shapes: B sequences, T tokens, H hidden width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor, nn
from transformers import PreTrainedModel

from swarm.config import RunConfig
from swarm.errors import ModelUnsupported
from swarm.model.blueprint import LLAMA_KIND, decoder_of, skeleton, trunk_span
from swarm.model.materialise import materialise
from swarm.model.spans import LayerSpan


class TrunkSlice(nn.Module):
    """Consecutive decoder layers, hidden states in and hidden states out."""

    def __init__(self, decoder: Any, prefix: str, span: LayerSpan) -> None:
        super().__init__()
        self.decoder = decoder
        self.prefix = prefix
        self.span = span

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the layers.

        Args:
            hidden: [B, T, H], float, positions 0 to T-1.

        Returns:
            [B, T, H], of the same dtype unless autocast says otherwise.
        """
        return _run(self.decoder, hidden)


class Ends(nn.Module):
    """What an owner computes: embedding and first layers; last layers, norm, head and loss."""

    def __init__(self, front: Any, back: PreTrainedModel, back_first: int) -> None:
        super().__init__()
        self.embed_tokens = front.embed_tokens
        front.embed_tokens = None
        self.front_decoder = front
        self.back_model = back
        self.prefix: str = back.base_model_prefix
        self.back_first = back_first

    def front(self, token_ids: Tensor) -> Tensor:
        """Embed and run the front layers.

        Args:
            token_ids: [B, T], int64.

        Returns:
            The first boundary activation, [B, T, H], float.
        """
        return _run(self.front_decoder, self.embed_tokens(token_ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """Run the back layers, the norm and the head.

        Args:
            hidden: the last boundary activation, [B, T, H], float.

        Returns:
            [B, T, vocabulary], fp32.
        """
        # The whole causal model, not just its head: some families scale or cap what the head gives.
        logits: Tensor = self.back_model(inputs_embeds=hidden, use_cache=False).logits
        return logits.float()

    def back(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The loss, summed over tokens: sums can be added up over any split of the batch, means cannot.

        Args:
            hidden: the last boundary activation, [B, T, H], float.
            labels: the token that follows each position, [B, T], int64.

        Returns:
            Cross entropy in nats, summed over B and T: a scalar, fp32.
        """
        logits = self.logits(hidden)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def build_trunk_slice(config: RunConfig, span: LayerSpan) -> TrunkSlice:
    """Make the trunk layers of a span, with their initial weights, on the CPU.

    Raises:
        ModelUnsupported: the model cannot be cut there, or is not a plain chain of layers.
    """
    model = skeleton(config)
    trunk = trunk_span(config, len(decoder_of(model).layers))
    if span.num_layers < 1 or not trunk.contains(span):
        raise ModelUnsupported(f"{span} are not in the trunk ({trunk})", "ask for layers of the trunk")
    decoder = _cut(model, span, config.seed)
    decoder.embed_tokens = None
    decoder.norm = nn.Identity()
    _check_plain(decoder, model.config.hidden_size)
    return TrunkSlice(decoder, model.base_model_prefix, span)


def build_ends(config: RunConfig) -> Ends:
    """Make the owner's part of the model, with its initial weights, on the CPU.

    Raises:
        ModelUnsupported: the model cannot be cut, or is not a plain chain of layers.
    """
    # Cutting uses a skeleton up; skeletons are cheap, so each end has its own.
    front_model, back_model = skeleton(config), skeleton(config)
    prefix = front_model.base_model_prefix
    num_layers = len(decoder_of(front_model).layers)
    trunk = trunk_span(config, num_layers)
    front = _cut(front_model, LayerSpan(0, trunk.first), config.seed)
    front.norm = nn.Identity()
    materialise(front_model, front.embed_tokens, f"{prefix}.embed_tokens", config.seed)
    _check_plain(front, front_model.config.hidden_size)
    tied = _is_tied(back_model)
    back = _cut(back_model, LayerSpan(trunk.last, num_layers), config.seed)
    back.embed_tokens = None
    materialise(back_model, back.norm, f"{prefix}.norm", config.seed)
    _head(back_model, front.embed_tokens, tied, config.seed)
    return Ends(front, back_model, trunk.last)


def build_full(config: RunConfig) -> PreTrainedModel:
    """Make the unsliced model, with the weights that its slices have, on the CPU.

    Raises:
        ModelUnsupported: as `build_ends`.
    """
    model = skeleton(config)
    decoder = decoder_of(model)
    tied = _is_tied(model)
    _cut(model, LayerSpan(0, len(decoder.layers)), config.seed)
    for name in ("embed_tokens", "norm"):
        materialise(model, getattr(decoder, name), f"{model.base_model_prefix}.{name}", config.seed)
    _head(model, decoder.embed_tokens, tied, config.seed)
    return model


def named_global_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters of a piece or of the whole, under their names in the unsliced model.

    Args:
        module: what `build_trunk_slice`, `build_ends` or `build_full` returned.

    Returns:
        Name and parameter, in the unsliced model's order; tied ones once, under the embedding's name.
    """
    if isinstance(module, TrunkSlice):
        return _named_layers(module.decoder, module.prefix, module.span.first)
    if isinstance(module, Ends):
        back = decoder_of(module.back_model)
        found = _named(module.embed_tokens, f"{module.prefix}.embed_tokens")
        found += _named_layers(module.front_decoder, module.prefix, 0)
        found += _named_layers(back, module.prefix, module.back_first)
        found += _named(back.norm, f"{module.prefix}.norm")
        found += _named(module.back_model.lm_head, "lm_head")
        return _each_once(found)
    return list(module.named_parameters())


def _each_once(entries: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Drop later names of a parameter that was named before."""
    first_names: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in entries:
        first_names.setdefault(id(parameter), (name, parameter))
    return list(first_names.values())


def _named(module: nn.Module, prefix: str) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters(prefix=prefix))


def _named_layers(decoder: Any, prefix: str, first: int) -> list[tuple[str, nn.Parameter]]:
    layers = enumerate(decoder.layers, start=first)
    return [entry for index, layer in layers for entry in _named(layer, f"{prefix}.layers.{index}")]


def _run(decoder: Any, hidden: Tensor) -> Tensor:
    output: Tensor = decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
    return output


def _cut(model: PreTrainedModel, span: LayerSpan, seed: int) -> Any:
    """Leave only a span's layers in the model's decoder, and fill them; also what has no weights, such as rotary."""
    decoder = decoder_of(model)
    prefix = model.base_model_prefix
    num_layers = len(decoder.layers)
    decoder.layers = decoder.layers[span.first : span.last]
    for index, layer in enumerate(decoder.layers, start=span.first):
        materialise(model, layer, f"{prefix}.layers.{index}", seed)
    for name, child in decoder.named_children():
        if name not in ("embed_tokens", "layers", "norm"):
            materialise(model, child, f"{prefix}.{name}", seed)
    if span.num_layers < num_layers:
        # A copy: the layers keep the configuration they were built with.
        decoder.config = _cut_config(decoder.config, span, num_layers)
    return decoder


def _cut_config(config: Any, span: LayerSpan, num_layers: int) -> Any:
    cut = copy.copy(config)
    layer_types = getattr(config, "layer_types", None)
    cut.num_hidden_layers = span.num_layers
    if isinstance(layer_types, list) and len(layer_types) == num_layers:
        # Decoders look a layer's mask up by its place in this list.
        cut.layer_types = layer_types[span.first : span.last]
    return cut


def _is_tied(model: PreTrainedModel) -> bool:
    return model.lm_head.weight is decoder_of(model).embed_tokens.weight


def _head(model: PreTrainedModel, embed_tokens: nn.Module, tied: bool, seed: int) -> None:
    if not tied:
        materialise(model, model.lm_head, "lm_head", seed)
        return
    if getattr(model.lm_head, "bias", None) is not None:
        raise ModelUnsupported("a tied head with a bias of its own cannot be initialised", LLAMA_KIND)
    model.lm_head.weight = embed_tokens.weight


def _check_plain(decoder: Any, hidden_size: int) -> None:
    """Prove that a decoder adds nothing of its own around its layers: without any it must be the identity.

    Some families scale the embeddings or add positions before the first layer; in slices that would happen again
    at every stage.
    """
    layers, config = decoder.layers, decoder.config
    decoder.layers = nn.ModuleList()
    decoder.config = _cut_config(config, LayerSpan(0, 0), len(layers))
    probe = torch.linspace(-1.0, 1.0, 2 * hidden_size).reshape(1, 2, hidden_size)
    with torch.no_grad():
        plain = torch.equal(_run(decoder, probe), probe)
    decoder.layers, decoder.config = layers, config
    if not plain:
        raise ModelUnsupported(
            f"a {config.model_type} decoder does more than run its layers, so it cannot be cut between them", LLAMA_KIND
        )
