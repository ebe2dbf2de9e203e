"""The data of a run, ready for its driver."""

from typing import Any

from transformers import AutoTokenizer

from alignment.data.comparisons import best_responses, read_comparisons
from alignment.data.demonstrations import read_demonstrations
from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations
from cluster.config.run_config import RunConfig


def load_data(config: RunConfig) -> TokenizedDemonstrations:
    """Read, check, tokenize and split a run's demonstrations.

    Returns:
        The rows of data.path, or the best responses of the preferences where it is not given.

    Raises:
        ValueError: if they cannot be used.
    """
    if config.data.path is not None:
        rows = read_demonstrations(config.data.path)
    else:
        assert config.preferences
        assert config.preferences.path
        rows = best_responses(read_comparisons(config.preferences.path))
    return TokenizedDemonstrations.tokenize(
        rows, AutoTokenizer.from_pretrained(config.model.name), **_limits(config)
    )


def load_comparisons(config: RunConfig) -> TokenizedComparisons | None:
    """Read, check, tokenize and split a run's preferences.

    Returns:
        The rows of preferences.path, if it is given.

    Raises:
        ValueError: if they cannot be used.
    """
    if config.preferences is None or config.preferences.path is None:
        return None
    return TokenizedComparisons.tokenize(
        read_comparisons(config.preferences.path),
        AutoTokenizer.from_pretrained(config.model.name),
        **_limits(config),
    )


def _limits(config: RunConfig) -> dict[str, Any]:
    return {
        "system_prompt": config.data.system_prompt,
        "held_out_fraction": config.data.held_out_fraction,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_response_tokens": config.data.max_response_tokens,
        "seed": config.seed,
    }
