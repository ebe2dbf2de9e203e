"""Responses of a run's newest policy, or of any model, to one prompt."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alignment.data.chat_template import end_token_id, prompt_token_ids
from cluster.config.run_config import MAX_RESPONSE_TOKENS
from cluster.run_state.directory import newest_policy, read_config
from cluster.run_state.files import CONFIG


def sample_responses(place: Path, prompt: str, *, num: int, temperature: float) -> list[str]:
    """Sample responses to one prompt, through the chat template and the run's system prompt.

    Args:
        place: a run directory or a model folder.
        temperature: 0 samples the most likely token at each step.
    """
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
