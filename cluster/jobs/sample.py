"""Responses of a run's newest policy, or of any model, to one prompt."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from actors.errors import InvalidInputError
from alignment.data.chat_template import end_token_id, prompt_token_ids
from cluster.config.run_config import MAX_RESPONSE_TOKENS
from cluster.run_state.directory import newest_policy, read_config, run_of
from cluster.run_state.files import CONFIG


def sample_responses(
    place: Path, prompt: str, *, num: int, temperature: float, max_tokens: int | None = None
) -> list[str]:
    """Sample responses to one prompt, through the chat template and the run's system prompt.

    Args:
        place: a run directory or a model folder.
        temperature: 0 samples the most likely token at each step.
        max_tokens: maximum length of a response; None takes that of the run.

    Raises:
        InvalidInputError: if there is no policy, it is damaged, or its context is too short.
    """
    folder = newest_policy(place)
    run_dir = place if (place / CONFIG).is_file() else run_of(folder)
    config = read_config(run_dir) if run_dir else None
    limit = max_tokens or (config.data.max_response_tokens if config else MAX_RESPONSE_TOKENS)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(
        folder if has_tokenizer or config is None else config.model.name
    )
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    ids = prompt_token_ids(tokenizer, prompt, config.data.system_prompt if config else None)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = limit if context is None else context - len(ids)
    if room < (max_tokens or 1):
        raise InvalidInputError(
            f"the prompt has {len(ids)} tokens, and the model's context {context}; shorten the "
            f"prompt{', or lower --max-tokens' if max_tokens else ''}"
        )
    inputs = torch.as_tensor(ids, dtype=torch.long).expand(num, -1)
    end = end_token_id(tokenizer)
    how = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=None,  # the whole distribution, which is the one that was trained
        max_new_tokens=min(limit, room),
        eos_token_id=end,
        pad_token_id=end,
    )
    sampled = model.generate(  # type: ignore[misc]
        inputs, how, attention_mask=torch.ones_like(inputs)
    )
    responses = sampled[:, len(ids) :].tolist()
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in responses]
