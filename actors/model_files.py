"""Reads files of a causal language model in Hugging Face format without loading all its weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from actors.errors import InvalidInputError, WeightMismatchError
from alignment.models.policy import PolicyModel

MAX_NAMES_SHOWN = 3
"""Maximum number of wrong names that an error shows; a wrong model has hundreds."""


def parameter_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by name, without a tied head.

    A complete set of this model's weights has exactly these.
    """
    with torch.device("meta"):  # shapes only, without memory for the weights
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))  # type: ignore[no-untyped-call]
    return {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}


def check_shapes(found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Raise WeightMismatchError if a tensor is missing, unknown or of another shape.

    vLLM itself accepts a set without some of the tensors, and samples from uninitialized memory.

    Args:
        found: shape by name, of the weights to load.
    """
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted))
    misshapen = [
        f"{name} {tuple(found[name])} instead of {tuple(wanted[name])}"
        for name in sorted(set(found) & set(wanted))
        if tuple(found[name]) != tuple(wanted[name])
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    if any(faults.values()):
        described = "; ".join(
            f"{len(names)} {fault}: {', '.join(names[:MAX_NAMES_SHOWN])}"
            for fault, names in faults.items()
            if names
        )
        raise WeightMismatchError(f"these are not the weights of the model: {described}")


def load_output_head(model: str) -> Tensor:
    """Return a model's output head [vocab, hidden] in float32 on the CPU; read no other weight.

    It is the embeddings' matrix if the two are tied. Raises InvalidInputError if no safetensors
    file holds it.
    """
    empty = empty_policy(model)
    parameters = empty.model.named_parameters(remove_duplicate=False)
    names = {name for name, parameter in parameters if parameter is empty.head_weight}
    index = cached_file(model, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    files = {SAFE_WEIGHTS_NAME}
    if index is not None:
        file_of = json.loads(Path(index).read_text())["weight_map"]
        files = {file_of[name] for name in names & set(file_of)}
    for file in files:
        with safe_open(cached_file(model, file), framework="pt") as tensors:
            for name in names & set(tensors.keys()):
                weight: Tensor = tensors.get_tensor(name)
                return weight.float()
    raise InvalidInputError(
        f"teacher.model {model}: its safetensors files hold no {' or '.join(sorted(names))}, the "
        f"output head; save it with save_pretrained"
    )


def empty_policy(model: str) -> PolicyModel:
    """Return a model on the meta device: shapes only, without memory for the weights."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    with torch.device("meta"):
        return PolicyModel(AutoModelForCausalLM.from_config(config))  # type: ignore[no-untyped-call]
