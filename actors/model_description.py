"""What a causal language model in Hugging Face format says of itself, without its weights."""

from collections.abc import Mapping, Sequence

from actors.errors import WeightMismatchError

MAX_NAMES_SHOWN = 3
"""Wrong names that an error shows: a wrong model has hundreds."""


def end_token_ids(model: str) -> list[int]:
    """Return the ids that end a response: of the generation config, else of the model's own.

    Args:
        model: folder or hub name.

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

    Args:
        model: folder or hub name.

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
