"""What time and memory on a GPU follow from, of a dense decoder: read without a weight, or guessed.

cluster/resources/model_files.py inspects the model that a run shall load and refuses what cannot
run. Here a config.json is enough, or a number of parameters, since a plan is made before
anything is fetched.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from actors.errors import InvalidInputError

HIDDEN_PER_LAYER = 128
"""Hidden units by layer of a guessed model: 4096 in 32, as Llama 2 7B and Llama 3 8B have."""
GUESSED_VOCAB = 128_256
"""Llama 3's: large, so that embeddings are not taken too lightly."""
GUESSED_QUERY_GROUPS = 4
"""Query heads that share a head of keys and values (Llama 3 8B)."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What a config.json with a mixture of experts names."""


class ModelShape(NamedTuple):
    """A dense decoder."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    key_value_size: int
    """Numbers in one layer's keys for one token; its values have as many."""
    intermediate_size: int
    """Hidden units of the feed-forward part."""
    num_tables: int
    """Matrices of vocabulary times hidden size: 1 if the head shares the embeddings', else 2."""

    @property
    def table_parameters(self) -> int:
        """Parameters of embeddings and head."""
        return self.num_tables * self.vocab_size * self.hidden_size

    def first_layers(self, num_layers: int | None) -> "ModelShape":
        """Return the model cut to its first layers, without its head; None keeps all layers.

        Args:
            num_layers: at most as many as there are.

        Returns:
            What a discriminator is built of.
        """
        kept = min(num_layers or self.num_layers, self.num_layers)
        in_layers = max(self.num_parameters - self.table_parameters, 0)
        embeddings = self.vocab_size * self.hidden_size
        cut = self._replace(num_layers=kept, num_tables=1)
        return cut._replace(num_parameters=embeddings + in_layers * kept // self.num_layers)


def shape_of_files(name: str) -> ModelShape:
    """Read a model's config.json; of a model on the Hub, that one file is fetched.

    The parameters of a Llama-like model are counted: with hidden size H, queries q and keys k wide,
    feed-forward width I, and tables of vocabulary V,

        layers * (2 H q + 2 H k + 3 H I + 2 H) + tables * V H + H

    Biases and norms of other architectures are left out: less than 0.1 %. Where weights lie in
    the folder, their own count is taken.

    Returns:
        The shape.

    Raises:
        InvalidInputError: if there is no config.json, or it is not that of a dense decoder.
    """
    path = _config_file(name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        text = config.get("text_config") or config
        if any(text.get(key) for key in EXPERTS):
            raise InvalidInputError(
                f"model {name} is a mixture of experts, and only dense models can be planned for"
            )
        shape = _shape(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{path} does not describe a decoder ({error!r}); give --parameters, such as 7e9"
        ) from error
    if any(path.parent.glob("*.safetensors")):
        from cluster.resources.model_files import policy_files  # noqa: PLC0415

        return shape._replace(num_parameters=policy_files(str(path.parent)).size.num_parameters)
    return shape


def shape_of_parameters(num_parameters: float) -> ModelShape:
    """Guess the shape of a dense decoder from its size.

    The number of layers L is the largest with

        12 L H^2 + 2 V H <= parameters,    H = 128 L,    V = 128,256

    12 H^2 being 4 H^2 of attention and 8 H^2 of the feed-forward part, which gives it the width
    8/3 H where it has three matrices; keys are H / 4 wide.

    Returns:
        A shape with this number of parameters.

    Raises:
        InvalidInputError: if not even one layer has so few, or the number is no number.

    References:
        Kaplan et al. 2020, arXiv:2001.08361, table 1, for 12 L H^2.
    """
    if not (math.isfinite(num_parameters) and num_parameters >= _guessed_parameters(1)):
        raise InvalidInputError(
            f"--parameters {num_parameters:g} is too few to guess layers from; it must be a number "
            f"of at least {_guessed_parameters(1):.2g}, such as 7e9"
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


def _shape(config: dict[str, Any]) -> ModelShape:
    """Count what a Llama-like configuration describes."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    vocab, heads = int(config["vocab_size"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    queries = heads * head_dim
    keys = int(config.get("num_key_value_heads") or heads) * head_dim
    width = int(config["intermediate_size"])
    tables = 1 if config.get("tie_word_embeddings") else 2
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * width + 2 * hidden
    count = layers * layer + tables * vocab * hidden + hidden
    return ModelShape(count, layers, hidden, vocab, keys, width, tables)


def _config_file(name: str) -> Path:
    """Return where a model's config.json is, fetched from the Hub if its name is no path."""
    if Path(name).is_dir():
        return Path(name) / "config.json"
    remedy = "name a folder with config.json, or give --parameters, such as 7e9"
    if name.startswith((".", "/", "~")):
        raise InvalidInputError(f"there is no model folder {name}; {remedy}")
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - slow, and rarely needed

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:  # not found, not allowed, offline, not a name
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"model {name} is no folder, and the Hugging Face Hub does not give its config.json "
            f"({reason}); {remedy}"
        ) from error
