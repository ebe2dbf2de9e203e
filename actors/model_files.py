"""What a causal language model in Hugging Face format says of itself, without its weights."""

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
"""Wrong names that an error shows: a wrong model has hundreds."""


def end_token_ids(model: str) -> list[int]:
    """Return the ids that end a response: of the generation config, else of the model's own.

    Returns:
        Token ids; empty if the model knows none, so that only its length ends a response.
    """
    from transformers import AutoConfig, GenerationConfig  # noqa: PLC0415

    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # there is no generation_config.json
        ids = None
    if ids is None:
        ids = AutoConfig.from_pretrained(model).eos_token_id
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def parameter_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by name; a tied head is not one of them.

    Returns:
        What a complete set of this model's weights must hold.
    """
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    with torch.device("meta"):  # shapes only: takes no memory
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))  # type: ignore[no-untyped-call]
    return {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}


def check_shapes(found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Refuse a set of weights that is not exactly the model's.

    vLLM itself accepts a set without some of the tensors, and samples from uninitialized memory.

    Args:
        found: shape by name, of the weights in hand.
        wanted: shape by name, of the model.

    Raises:
        WeightMismatchError: a tensor is missing, unknown, or of another shape.
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
    """Read a model's output head, and no other weight.

    Args:
        model: folder or hub name of a causal language model with safetensors, in one file or more.

    Returns:
        [vocab, hidden] float32 on the CPU; the embeddings where the two are one matrix.

    Raises:
        InvalidInputError: if no file holds it.
    """
    empty = _empty(model)
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


def _empty(model: str) -> PolicyModel:
    """Return a model without weights."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    with torch.device("meta"):  # shapes only: takes no memory
        return PolicyModel(AutoModelForCausalLM.from_config(config))  # type: ignore[no-untyped-call]
