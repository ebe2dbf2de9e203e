"""The demonstrations of a run, ready for its driver."""

from transformers import AutoTokenizer

from alignment.data.demonstrations import read_demonstrations
from alignment.data.tokenized_demonstrations import (
    TokenizedDemonstrations,
    tokenize_demonstrations,
)
from cluster.config import RunConfig


def load_data(config: RunConfig) -> TokenizedDemonstrations:
    """Read, check, tokenize and split a run's data. Raises ValueError if it cannot be used."""
    return tokenize_demonstrations(
        read_demonstrations(config.data.path),
        AutoTokenizer.from_pretrained(config.model.name),
        system_prompt=config.data.system_prompt,
        held_out_fraction=config.data.held_out_fraction,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_response_tokens=config.data.max_response_tokens,
        seed=config.seed,
    )
