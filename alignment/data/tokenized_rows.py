"""Rows to packed tokens: one trajectory a response, none cut, none left out."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from alignment.data.chat_template import conversation_tokens
from alignment.data.turns import Answered
from alignment.trajectories import Trajectories, concatenate, pack


class Measured(NamedTuple):
    """A text of a row, and how long it is."""

    num_tokens: int
    row: int
    text: str


def tokenize_rows(
    rows: Sequence[Answered],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system_prompt: str | None,
    max_prompt_tokens: int,
    max_response_tokens: int,
) -> Trajectories:
    """Tokenize the responses of every row behind its prompt.

    Args:
        rows: demonstrations or comparisons.
        tokenizer: the policy's.
        system_prompt: opens every conversation, if given.
        max_prompt_tokens: a longer prompt, template included, is an error.
        max_response_tokens: a longer response, end token included, is an error.

    Returns:
        One trajectory a response, those of a row beside one another; prompt_ids are row numbers.

    Raises:
        ValueError: if a row is too long, naming the longest, or the model cannot read it.
    """
    pairs = conversation_tokens(tokenizer, rows, system_prompt)
    numbers = [number for number, row in enumerate(rows) for _ in row.responses]
    texts = [response for row in rows for response in row.responses]
    first_pairs = dict(zip(reversed(numbers), reversed(pairs), strict=True))
    _refuse_what_is_too_long(
        "prompt",
        max_prompt_tokens,
        [Measured(len(first_pairs[n].prompt), n, row.prompt) for n, row in enumerate(rows)],
    )
    _refuse_what_is_too_long(
        "response",
        max_response_tokens,
        [
            Measured(len(pair.response), number, text)
            for pair, number, text in zip(pairs, numbers, texts, strict=True)
        ],
    )
    return concatenate(
        [
            pack(pair.prompt.tolist(), pair.response.tolist(), prompt_id=number)
            for pair, number in zip(pairs, numbers, strict=True)
        ]
    )


def _refuse_what_is_too_long(field: str, limit: int, texts: Sequence[Measured]) -> None:
    """Raise if a text has more tokens than allowed; nothing is ever cut."""
    longest = max(texts, key=lambda text: text.num_tokens)
    if longest.num_tokens <= limit:
        return
    count = sum(text.num_tokens > limit for text in texts)
    raise ValueError(
        f"{count} of {len(texts)} {field}s are longer than data.max_{field}_tokens = {limit}; "
        f'the longest, row {longest.row + 1}, "{longest.text[:60]}...", has {longest.num_tokens} '
        f"tokens: raise data.max_{field}_tokens to that, or remove the long rows"
    )
