"""Reward models as files: sequence classification in Hugging Face format."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from actors.distributed import whole
from actors.errors import InvalidInputError
from alignment.data.chat_template import end_token_id
from alignment.models.lora import SCALE
from alignment.models.scalar_head import ScalarModel

HEAD = "score.weight"
"""What transformers calls the head of a decoder that classifies sequences."""
READS_CONVERSATIONS = "reads_irlign_conversations"
"""In the config of a reward model that was trained here: it reads a conversation as the policy
does, up to the end token, and not as its chat template writes one that is over."""


def load_reward_model(name: str) -> PreTrainedModel:
    """Load a sequence-classification model in float32, all of it from files.

    Returns:
        The model, in evaluation mode.

    Raises:
        InvalidInputError: if the model has several outputs, or weights that are in no file.
    """
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        name,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    if model.config.num_labels != 1:
        raise InvalidInputError(
            f"reward model {name} has {model.config.num_labels} outputs; it needs exactly 1"
        )
    if loading["missing_keys"]:
        raise InvalidInputError(
            f"reward model {name} lacks the weights {sorted(loading['missing_keys'])}, so its "
            f"rewards would be random; give a model trained for sequence classification"
        )
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def save_reward_model(folder: Path, model: ScalarModel, *, source: str, rank: int) -> None:
    """Write a reward model so that load_reward_model loads it; all ranks call it.

    Of a head with several outputs the first is the reward. Adapters are added to the weights that
    they correct.

    Args:
        model: sharded or not, its head without bias; written in float32, as it is trained.
        source: folder or hub name of the model that training began with, for the tokenizer.
        rank: of this process; rank 0 writes, and holds the whole model in main memory.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        tensor = whole(parameter)
        if rank == 0:
            tensors[name] = tensor.float().cpu().contiguous()
    if rank != 0:
        return
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = classification_config(model.backbone.config, tokenizer)
    prefix = empty_classifier(config).base_model_prefix
    weights = {
        name.replace("backbone", prefix, 1): tensor
        for name, tensor in _without_adapters(tensors).items()
        if name != "head.weight"
    }
    weights[HEAD] = tensors["head.weight"][:1].contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def classification_config(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedConfig:
    """Return a decoder's configuration with one output, marked as trained here.

    transformers reads the score at the last token that is not the pad token. So a tokenizer that
    pads with its end token gets none here; then batches of one are what transformers takes.

    Args:
        tokenizer: its tokenizer.

    Returns:
        A copy.
    """
    changed = copy.deepcopy(config)
    pad = tokenizer.pad_token_id
    changed.num_labels = 1
    changed.pad_token_id = None if pad == end_token_id(tokenizer) else pad
    setattr(changed, READS_CONVERSATIONS, True)
    changed.architectures = [type(empty_classifier(changed)).__name__]
    return changed


def empty_classifier(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a sequence classifier without memory for its weights.

    Returns:
        The model, on the device meta.

    Raises:
        InvalidInputError: if transformers has none for it, or one with another head.
    """
    kind = config.model_type
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InvalidInputError(
            f"transformers has no sequence classifier for a model of type {kind}, so a reward "
            "model of it could not be served; choose another model.name"
        ) from error
    others = {
        name
        for name, _ in model.named_parameters()
        if not name.startswith(f"{model.base_model_prefix}.")
    }
    if others != {HEAD}:
        raise InvalidInputError(
            f"the sequence classifier for a model of type {kind} has the head {sorted(others)} in "
            f"place of {HEAD}; choose another model.name"
        )
    return model


def _without_adapters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add low-rank corrections to their weights, and name these as before they were adapted."""
    merged = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part in ("down", "up"):
            continue
        if layer.endswith(".base"):
            layer = layer.removesuffix(".base")
            if part == "weight":
                correction = SCALE * tensors[f"{layer}.up"] @ tensors[f"{layer}.down"]
                merged[f"{layer}.weight"] = tensor + correction
                continue
        merged[f"{layer}.{part}"] = tensor
    return merged
