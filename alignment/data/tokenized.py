"""Comparisons as a run uses them: every response tokenized once, none cut, none left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.chat_template import conversation_tokens
from alignment.data.comparisons import Answers, Comparison, answers_of
from alignment.data.conversations import Answered
from alignment.data.demonstrations import Demonstration
from alignment.data.splits import prompt_of_draw, split_rows
from alignment.mdp.trajectories import Trajectories, concatenate, pack


@dataclass(frozen=True)
class TokenizedComparisons:
    """All rows of the data; a row number is a prompt_id and means the same on both sides."""

    rows: tuple[Comparison, ...]
    """[row] the text."""
    trajectories: Trajectories
    """One a response, those of a row beside one another, best first; prompt_ids are rows."""
    first: NDArray[np.int64]
    """[row + 1] where each row's responses begin in the trajectories; the last is their number."""
    ranks: NDArray[np.float32]
    """[trajectory] from 0, the best of its row; equal ranks are a tie."""
    train_rows: NDArray[np.int64]
    """Rows to learn from, ascending."""
    held_out_rows: NDArray[np.int64]
    """Rows to measure on, ascending."""
    tokenizer: PreTrainedTokenizerBase
    """The policy's."""
    seed: int
    """Of the order of the training rows."""

    @property
    def answers(self) -> Answers:
        """What annotators were asked for."""
        return answers_of(self.rows)

    def row_of_draw(self, number: int) -> int:
        """Return which training row a draw is: every row once an epoch."""
        index = prompt_of_draw(number, num_prompts=len(self.train_rows), seed=self.seed)
        return int(self.train_rows[index])

    def select(
        self, rows: Sequence[int] | NDArray[np.int64]
    ) -> tuple[Trajectories, NDArray[np.float32]]:
        """Return the responses to these rows, in this order, as copies.

        Returns:
            Trajectories, those of a row beside one another and best first; their ranks,
            [trajectory].
        """
        parts = [np.arange(self.first[row], self.first[row + 1]) for row in rows]
        indices = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return self.trajectories.select(indices), self.ranks[indices]


def tokenize_comparisons(
    rows: Sequence[Comparison],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system_prompt: str | None,
    held_out_fraction: float,
    max_prompt_tokens: int,
    max_response_tokens: int,
    seed: int,
) -> TokenizedComparisons:
    """Tokenize and split the rows.

    Args:
        rows: the comparisons, all of one kind.
        system_prompt: opens every conversation, if given.
        held_out_fraction: expected share of the prompts that is held out; a prompt lies on the same
            side as in demonstrations.
        max_prompt_tokens: a longer prompt, template included, is an error.
        max_response_tokens: a longer response, end token included, is an error.
        seed: of the order of the training rows; the split does not depend on it.

    Returns:
        The data set.

    Raises:
        ValueError: if a row is too long, naming the longest, or a side of the split is empty.
    """
    split = split_rows(rows, held_out_fraction)
    trajectories = tokenize_rows(
        rows,
        tokenizer,
        system_prompt=system_prompt,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
    )
    return TokenizedComparisons(
        rows=tuple(rows),
        trajectories=trajectories,
        first=np.cumsum([0, *(len(row.responses) for row in rows)], dtype=np.int64),
        ranks=np.asarray([rank for row in rows for rank in row.ranks], np.float32),
        train_rows=np.asarray(split.train, np.int64),
        held_out_rows=np.asarray(split.held_out, np.int64),
        tokenizer=tokenizer,
        seed=seed,
    )


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


@dataclass(frozen=True)
class TokenizedDemonstrations:
    """All rows of the data; a row number is a prompt_id and means the same on both sides."""

    rows: tuple[Demonstration, ...]
    """[row] the text."""
    trajectories: Trajectories
    """[row] prompt, template included, and expert's response; prompt_ids are 0, 1, 2, ..."""
    train_rows: NDArray[np.int64]
    """Rows to learn from, ascending."""
    held_out_rows: NDArray[np.int64]
    """Rows to measure on, ascending."""
    tokenizer: PreTrainedTokenizerBase
    """The policy's."""
    seed: int
    """Of the order of the training rows."""

    def row_of_draw(self, number: int) -> int:
        """Return which training row a draw is: every row once an epoch."""
        index = prompt_of_draw(number, num_prompts=len(self.train_rows), seed=self.seed)
        return int(self.train_rows[index])

    def prompt_tokens(self, row: int) -> NDArray[np.int32]:
        """Return the token ids of a row's prompt, template included."""
        return self.trajectories.prompt(row)

    def demonstrations(self, rows: NDArray[np.int64]) -> Trajectories:
        """Return the expert's trajectories of these rows, in this order."""
        return self.trajectories.select(rows)

    def texts(self, row: int) -> tuple[str, str]:
        """Return prompt and expert's response of a row."""
        return self.rows[row].prompt, self.rows[row].response

    def decode(self, token_ids: NDArray[np.int32]) -> str:
        """Return the text of a response, special tokens left out."""
        return str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))


def tokenize_demonstrations(
    rows: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system_prompt: str | None,
    held_out_fraction: float,
    max_prompt_tokens: int,
    max_response_tokens: int,
    seed: int,
) -> TokenizedDemonstrations:
    """Tokenize and split the rows.

    Args:
        system_prompt: opens every conversation, if given.
        held_out_fraction: expected share of the prompts that is held out.
        max_prompt_tokens: a longer prompt, template included, is an error.
        max_response_tokens: a longer response, end token included, is an error.
        seed: of the order of the training rows; the split does not depend on it.

    Returns:
        The data set.

    Raises:
        ValueError: if a row is too long, naming the longest, or a side of the split is empty.
    """
    split = split_rows(rows, held_out_fraction)
    trajectories = tokenize_rows(
        rows,
        tokenizer,
        system_prompt=system_prompt,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
    )
    return TokenizedDemonstrations(
        rows=tuple(rows),
        trajectories=trajectories,
        train_rows=np.asarray(split.train, np.int64),
        held_out_rows=np.asarray(split.held_out, np.int64),
        tokenizer=tokenizer,
        seed=seed,
    )


def decoded(tokenizer: Any, trajectories: Trajectories) -> list[tuple[str, str]]:  # noqa: ANN401
    """Return prompt and response of each trajectory as text, without special tokens."""
    return [
        (
            tokenizer.decode(trajectories.prompt(index), skip_special_tokens=True),
            tokenizer.decode(trajectories.response(index), skip_special_tokens=True),
        )
        for index in range(len(trajectories))
    ]
