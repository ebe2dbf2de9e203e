"""Answers of a run's newest policy, or of any model, to one prompt."""

from pathlib import Path

from actors.errors import InvalidInputError
from alignment.data.chat_template import end_token_id, prompt_token_ids
from cluster.run_directory import CONFIG, read_config

MAX_RESPONSE_TOKENS = 256
"""Of a model that no run has given a limit."""
POLICY = "checkpoints/step-*/policy"
"""A run's exported policies; a checkpoint that is still being written has another name."""


def newest_policy(place: Path) -> Path:
    """Return the model folder of a run's newest checkpoint, or the folder itself if it is a model.

    Args:
        place: a run directory or a model folder.

    Returns:
        A folder with a model.

    Raises:
        InvalidInputError: if there is neither.
    """
    if (place / "config.json").is_file():
        return place
    complete = [
        policy
        for policy in place.glob(POLICY)
        if policy.parent.name.removeprefix("step-").isdecimal()
        and (policy / "config.json").is_file()
        and any(policy.glob("*.safetensors"))
    ]
    if not complete:
        raise InvalidInputError(
            f"{place} has no policy yet: neither a model nor a run with a complete checkpoint"
        )
    return max(complete, key=lambda policy: int(policy.parent.name.removeprefix("step-")))


def answers(place: Path, prompt: str, *, num: int, temperature: float) -> list[str]:
    """Sample responses to one prompt, through the chat template and the run's system prompt.

    Args:
        place: a run directory or a model folder.
        prompt: as a user would write it.
        num: responses wanted.
        temperature: 0 takes the likeliest token each time.

    Returns:
        The responses as text.
    """
    import torch  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
    )

    folder = newest_policy(place)
    config = read_config(place) if (place / CONFIG).is_file() else None
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(
        folder if has_tokenizer or config is None else config.model.name
    )
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    ids = prompt_token_ids(tokenizer, prompt, config.data.system_prompt if config else None)
    inputs = torch.as_tensor(ids, dtype=torch.long).expand(num, -1)
    end = end_token_id(tokenizer)
    how = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=None,  # the whole distribution, which is the one that was trained
        max_new_tokens=config.data.max_response_tokens if config else MAX_RESPONSE_TOKENS,
        eos_token_id=end,
        pad_token_id=end,
    )
    sampled = model.generate(  # type: ignore[misc]
        inputs, how, attention_mask=torch.ones_like(inputs)
    )
    responses = sampled[:, len(ids) :].tolist()
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in responses]
