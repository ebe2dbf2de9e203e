"""Files of reward models: sequence classification in Hugging Face format."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
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
from alignment.models.lora import merge_adapters
from alignment.models.scalar_head import ScalarModel

HEAD = "score.weight"
"""The name in transformers of the head of a decoder that classifies sequences."""
READS_CONVERSATIONS = "reads_irlign_conversations"
"""Entry in the config of a reward model trained by irlign: its input is a conversation in the
policy's format, up to the end token, instead of a finished one by its chat template."""


def load_reward_model(name: str) -> PreTrainedModel:
    """Load a sequence-classification model in float32 and in evaluation mode.

    Raises:
        InvalidInputError: if the model has several outputs, or if weights are in no file, which
            transformers would initialize at random.
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
            f"reward model {name} has {model.config.num_labels} outputs; give a model with 1"
        )
    if loading["missing_keys"]:
        raise InvalidInputError(
            f"reward model {name} lacks the weights {sorted(loading['missing_keys'])}, so its "
            f"rewards would be random; give a model trained for sequence classification"
        )
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def save_reward_model(folder: Path, model: ScalarModel, *, source: str, rank: int) -> None:
    """Write a reward model for load_reward_model, in float32; all ranks call it, rank 0 writes.

    The reward is the first output of the head. Adapters are merged into the weights. Rank 0 holds
    the whole model in main memory.

    Args:
        source: folder or hub name of the model that training began with, for the tokenizer.
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
        for name, tensor in merge_adapters(tensors).items()
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
    """Return a copy of a decoder's configuration with one output, marked as trained by irlign.

    transformers reads the score at the last token that is not the pad token. If the tokenizer pads
    with its end token, the copy has no pad token; transformers then accepts only batches of one.
    """
    changed = copy.deepcopy(config)
    pad = tokenizer.pad_token_id
    changed.num_labels = 1
    changed.pad_token_id = None if pad == end_token_id(tokenizer) else pad
    setattr(changed, READS_CONVERSATIONS, True)
    changed.architectures = [type(empty_classifier(changed)).__name__]
    return changed


def empty_classifier(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a sequence classifier on the meta device, without memory for its weights.

    Raises:
        InvalidInputError: if transformers has no classifier for the model, or one whose head is
            not HEAD.
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
