"""The shape of a dense decoder, from its config.json or guessed from its number of parameters."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from actors.errors import InvalidInputError

HIDDEN_PER_LAYER = 128
"""Hidden units per layer of a guessed model: 4096 in 32 layers, as Llama 2 7B and Llama 3 8B."""
GUESSED_VOCAB = 128_256
"""That of Llama 3: large, so that a guess does not underestimate embeddings."""
GUESSED_QUERY_GROUPS = 4
"""Query heads per head of keys and values, as Llama 3 8B."""


class ModelShape(NamedTuple):
    """Sizes of a dense decoder, from which memory and computation follow."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    key_value_size: int
    """Width of one layer's keys of one token; its values are as wide."""
    intermediate_size: int
    """Hidden units of the feed-forward network."""
    num_tables: int
    """Matrices of vocabulary times hidden size: 1 if the head shares the embeddings', else 2."""

    @property
    def table_parameters(self) -> int:
        """Parameters of embeddings and head."""
        return self.num_tables * self.vocab_size * self.hidden_size

    def first_layers(self, num_layers: int | None) -> "ModelShape":
        """Return the model without its head, cut to its first layers; None keeps all layers."""
        kept = min(num_layers or self.num_layers, self.num_layers)
        in_layers = max(self.num_parameters - self.table_parameters, 0)
        embeddings = self.vocab_size * self.hidden_size
        cut = self._replace(num_layers=kept, num_tables=1)
        return cut._replace(num_parameters=embeddings + in_layers * kept // self.num_layers)


def shape_of_config(config: Mapping[str, Any], num_parameters: int | None = None) -> ModelShape:
    """Read a shape from the content of a config.json.

    Where the number of parameters is not given, those of a Llama-like model are counted: with
    hidden size H, queries q and keys k wide, feed-forward width I, and tables of vocabulary V,

        layers * (2 H q + 2 H k + 3 H I + 2 H) + tables * V H + H

    Biases and norms of other architectures are left out: less than 0.1 %. A size that the
    configuration does not name is 0, except that there is one layer and one head, every head has
    keys of its own, and the feed-forward width is 4 H.
    """
    hidden = _first(config, "hidden_size", "n_embd") or 0
    layers = _first(config, "num_hidden_layers", "n_layer") or 1
    vocab = _first(config, "vocab_size") or 0
    heads = _first(config, "num_attention_heads", "n_head") or 1
    head_dim = _first(config, "head_dim") or hidden // heads
    keys = (_first(config, "num_key_value_heads") or heads) * head_dim
    width = _first(config, "intermediate_size", "n_inner") or 4 * hidden
    tables = 1 if config.get("tie_word_embeddings") else 2
    if num_parameters is None:
        attention = 2 * hidden * heads * head_dim + 2 * hidden * keys
        layer = attention + 3 * hidden * width + 2 * hidden
        num_parameters = layers * layer + tables * vocab * hidden + hidden
    return ModelShape(num_parameters, layers, hidden, vocab, keys, width, tables)


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first setting that is present: older architectures use other names."""
    return next((int(config[name]) for name in names if config.get(name) is not None), None)


def shape_of_parameters(num_parameters: float) -> ModelShape:
    """Guess the shape of a dense decoder from its number of parameters.

    The number of layers L is the largest with

        12 L H^2 + 2 V H <= parameters,    H = 128 L,    V = 128,256

    where 12 H^2 is 4 H^2 of attention and 8 H^2 of a feed-forward network with three matrices,
    which is therefore 8/3 H wide. Keys are H / 4 wide.

    Raises:
        InvalidInputError: if one layer has more parameters, or the number is not finite.

    References:
        Kaplan et al. 2020, arXiv:2001.08361, table 1, for 12 L H^2.
    """
    if not (math.isfinite(num_parameters) and num_parameters >= _guessed_parameters(1)):
        raise InvalidInputError(
            f"--parameters {num_parameters:g} is not enough for one layer; give at "
            f"least {_guessed_parameters(1):.2g}, such as 7e9"
        )
    num_layers = 1
    while _guessed_parameters(num_layers + 1) <= num_parameters:
        num_layers += 1
    hidden = HIDDEN_PER_LAYER * num_layers
    return ModelShape(
        num_parameters=int(num_parameters),
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=GUESSED_VOCAB,
        key_value_size=hidden // GUESSED_QUERY_GROUPS,
        intermediate_size=8 * hidden // 3,
        num_tables=2,
    )


def _guessed_parameters(num_layers: int) -> int:
    hidden = HIDDEN_PER_LAYER * num_layers
    return 12 * num_layers * hidden**2 + 2 * GUESSED_VOCAB * hidden
