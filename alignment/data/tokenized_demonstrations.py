"""The data set as the run uses it: every row tokenized once, none cut, none left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.demonstrations import Demonstration
from alignment.data.prompts import prompt_of_draw
from alignment.data.split import split_rows
from alignment.data.tokenized_rows import tokenize_rows
from alignment.trajectories import Trajectories


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
        rows: the demonstrations.
        tokenizer: the policy's.
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
