"""Comparisons as a run uses them: every response tokenized once, none cut, none left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.comparisons import Answers, Comparison, answers_of
from alignment.data.prompts import prompt_of_draw
from alignment.data.split import split_rows
from alignment.data.tokenized_rows import tokenize_rows
from alignment.trajectories import Trajectories


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

        Args:
            rows: row numbers.

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
        tokenizer: the policy's.
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
