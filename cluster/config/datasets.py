"""Reads, checks, tokenizes and splits the data of a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.errors import InvalidInputError
from alignment.data.comparisons import Comparison, best_responses, read_comparisons
from alignment.data.demonstrations import Demonstration, read_demonstrations
from cluster.config.run_config import RunConfig

if TYPE_CHECKING:
    from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations


class Rows(NamedTuple):
    """The data as text."""

    demonstrations: list[Demonstration]
    """Rows of data.path, or the best responses of the preferences if it is not set."""
    comparisons: list[Comparison] | None
    """Rows of preferences.path, if it is set."""


class RunData(NamedTuple):
    """The data in tokens, split into training and evaluation rows."""

    demonstrations: "TokenizedDemonstrations"
    comparisons: "TokenizedComparisons | None"


def read_rows(config: RunConfig) -> Rows:
    """Read and check the rows of a job. Needs no tokenizer, so a missing file is reported early.

    Raises:
        InvalidInputError: if they cannot be used.
    """
    source = config.preferences.path if config.preferences else None
    with invalid_input():
        demonstrations = _demonstrations(config)
        comparisons = read_comparisons(source) if source else None
        if demonstrations is None:
            assert comparisons  # RunConfig requires one of both paths
            demonstrations = best_responses(comparisons)
    return Rows(demonstrations, comparisons)


def tokenize_data(config: RunConfig, rows: Rows) -> RunData:
    """Tokenize and split the rows of a job with the tokenizer of its policy.

    Raises:
        InvalidInputError: if a row is longer than the job allows, or a side of the split is empty.
    """
    # imports transformers, which takes seconds
    from alignment.data.tokenized import (  # noqa: PLC0415
        TokenizedComparisons,
        TokenizedDemonstrations,
    )

    with invalid_input():
        tokenizer, limits = _tokenizer(config), _limits(config)
        demonstrations = TokenizedDemonstrations.tokenize(rows.demonstrations, tokenizer, **limits)
        if rows.comparisons is None:
            return RunData(demonstrations, None)
        comparisons = TokenizedComparisons.tokenize(rows.comparisons, tokenizer, **limits)
        return RunData(demonstrations, comparisons)


def load_data(config: RunConfig) -> RunData:
    """Read, check, tokenize and split the data of a job. Raises as read_rows and tokenize_data."""
    return tokenize_data(config, read_rows(config))


def load_demonstrations(config: RunConfig) -> "TokenizedDemonstrations":
    """Return the demonstrations; preferences are read only if data.path is not set."""
    if config.data.path is not None:
        config = config.model_copy(update={"preferences": None})
    return load_data(config).demonstrations


def load_comparisons(config: RunConfig) -> "TokenizedComparisons":
    """Read, check, tokenize and split the rows of preferences.path, without data.path.

    Raises:
        InvalidInputError: if they cannot be used.
    """
    from alignment.data.tokenized import TokenizedComparisons  # noqa: PLC0415  # as above

    assert config.preferences
    assert config.preferences.path
    with invalid_input():
        rows = read_comparisons(config.preferences.path)
        return TokenizedComparisons.tokenize(rows, _tokenizer(config), **_limits(config))


def _demonstrations(config: RunConfig) -> list[Demonstration] | None:
    if config.data.path is None:
        return None
    return read_demonstrations(
        config.data.path,
        config.data.discriminator_context,
        keeps_columns=config.evaluation.metric is not None,
        group_column=config.evaluation.group_by,
    )


@contextmanager
def invalid_input() -> Iterator[None]:
    """Convert the errors of the data's readers to InvalidInputError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InvalidInputError(str(error)) from error


def _tokenizer(config: RunConfig) -> Any:  # noqa: ANN401  # transformers' classes are dynamic
    from transformers import AutoTokenizer  # noqa: PLC0415  # takes seconds

    return AutoTokenizer.from_pretrained(config.model.name)


def _limits(config: RunConfig) -> dict[str, Any]:
    return {
        "system_prompt": config.data.system_prompt,
        "held_out_fraction": config.data.held_out_fraction,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_response_tokens": config.data.max_response_tokens,
        "seed": config.seed,
    }
