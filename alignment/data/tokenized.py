"""Demonstrations and comparisons, tokenized and split; no row is cut and none is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.chat_template import conversation_tokens
from alignment.data.comparisons import Comparison, LabelKind, label_kind
from alignment.data.conversations import PromptAndResponses
from alignment.data.demonstrations import Demonstration
from alignment.data.splits import prompt_of_draw, split_rows
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import Trajectories, concatenate, pack

Row = TypeVar("Row", Comparison, Demonstration)
Tokenized = TypeVar("Tokenized", bound="TokenizedRows[Any]")


@dataclass(frozen=True)
class TokenizedRows(Generic[Row]):
    """Tokenized rows with a fixed split; a row number is a prompt_id on both sides of it."""

    rows: tuple[Row, ...]
    """[row] the text."""
    trajectories: Trajectories
    """One per response, those of a row adjacent and in its order; prompt_ids are row numbers."""
    train_rows: NDArray[np.int64]
    """Row numbers of the training set, ascending."""
    held_out_rows: NDArray[np.int64]
    """Row numbers of the evaluation set, ascending."""
    tokenizer: PreTrainedTokenizerBase
    """Tokenizer of the policy."""
    seed: int
    """Seed of the order of the training rows."""

    @classmethod
    def tokenize(
        cls: type[Tokenized],
        rows: Sequence[Comparison] | Sequence[Demonstration],
        tokenizer: PreTrainedTokenizerBase,
        *,
        system_prompt: str | None,
        held_out_fraction: float,
        max_prompt_tokens: int,
        max_response_tokens: int,
        seed: int,
    ) -> Tokenized:
        """Tokenize and split rows.

        Args:
            held_out_fraction: expected share of the prompts in the evaluation set. The split
                depends on the prompts alone, so a prompt lies on the same side in every data set.
            seed: random seed of the order of the training rows; the split does not depend on it.

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
        return cls(
            rows=tuple(rows),
            trajectories=trajectories,
            train_rows=np.asarray(split.train, np.int64),
            held_out_rows=np.asarray(split.held_out, np.int64),
            tokenizer=tokenizer,
            seed=seed,
        )

    def row_of_draw(self, number: int) -> int:
        """Return the training row of a draw; every row is drawn once an epoch."""
        index = prompt_of_draw(number, num_prompts=len(self.train_rows), seed=self.seed)
        return int(self.train_rows[index])


@dataclass(frozen=True)
class TokenizedDemonstrations(TokenizedRows[Demonstration]):
    """Demonstrations: one trajectory a row, the prompt and the expert's response."""

    scorer_prompts: tuple[NDArray[np.int32], ...] | None = None
    """[row] token ids of the prompts that scorers read, context and template included; None if no
    row has a context."""

    @classmethod
    def tokenize(  # type: ignore[override]  # of demonstrations only
        cls,
        rows: Sequence[Demonstration],
        tokenizer: PreTrainedTokenizerBase,
        **limits: Any,  # noqa: ANN401  # those of TokenizedRows.tokenize
    ) -> "TokenizedDemonstrations":
        """Tokenize and split rows; see TokenizedRows.tokenize.

        The context of a row is a part of its prompt for scorers alone: text and a line break before
        the text of the prompt, in the same message, because many chat templates take no two
        messages of the user in a row.
        """
        data = super().tokenize(rows, tokenizer, **limits)
        if not any(row.context for row in rows):
            return data
        with_context = [
            row._replace(prompt=f"{row.context}\n{row.prompt}") if row.context else row
            for row in rows
        ]
        pairs = conversation_tokens(tokenizer, with_context, limits["system_prompt"])
        return replace(data, scorer_prompts=tuple(pair.prompt for pair in pairs))

    def with_context(self, trajectories: Trajectories) -> Trajectories:
        """Return trajectories as scorers read them: each row's prompt with its context."""
        if self.scorer_prompts is None:
            return trajectories
        prompts = self.scorer_prompts
        return trajectories.with_prompts([prompts[row] for row in trajectories.prompt_ids])

    def prompt_tokens(self, row: int) -> NDArray[np.int32]:
        """Return the token ids of a row's prompt, template included."""
        return self.trajectories.prompt(row)

    def demonstrations(self, rows: NDArray[np.int64]) -> Trajectories:
        """Return the expert's trajectories of these rows, in this order."""
        return self.trajectories.select(rows)

    def texts(self, row: int) -> tuple[str, str]:
        """Return a row's prompt and the expert's response."""
        return self.rows[row].prompt, self.rows[row].response

    def columns(self, row: int) -> Mapping[str, Any]:
        """Return all values of a row by key, if they were kept."""
        return self.rows[row].columns

    def decode(self, token_ids: NDArray[np.int32]) -> str:
        """Return the text of a response without special tokens."""
        return str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))


class TokenizedComparisons(TokenizedRows[Comparison]):
    """Comparisons: one trajectory a response, those of a row best first."""

    @property
    def label_kind(self) -> LabelKind:
        """Kind of the labels of all rows."""
        return label_kind(self.rows)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[row] number of responses."""
        return np.asarray([len(row.responses) for row in self.rows], np.int64)

    @property
    def num_ties(self) -> int:
        """Pairs of responses to the same prompt that have equal ranks."""
        return self.select(range(len(self.rows))).num_ties

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> RankedResponses:
        """Return the comparisons of these rows, in this order and numbered from 0, as copies.

        A row that comes twice is two comparisons.
        """
        ends = self.sizes.cumsum()
        chosen = [self.rows[row] for row in rows]
        parts = [np.arange(ends[row] - len(self.rows[row].responses), ends[row]) for row in rows]
        trajectories = self.trajectories.select(np.concatenate([np.zeros(0, np.int64), *parts]))
        columns = [
            (number, rank, comparison.strength or 0.0)
            for number, comparison in enumerate(chosen)
            for rank in comparison.ranks
        ]
        numbers, ranks, strengths = np.asarray(columns, np.float64).reshape(-1, 3).T
        return RankedResponses(
            trajectories.numbered(numbers.astype(np.int64)),
            ranks.astype(np.float32),
            strengths.astype(np.float32),
        )


class TokenCount(NamedTuple):
    """The number of tokens of a text of a row."""

    num_tokens: int
    row: int
    text: str


def tokenize_rows(
    rows: Sequence[PromptAndResponses],
    tokenizer: PreTrainedTokenizerBase,
    *,
    system_prompt: str | None,
    max_prompt_tokens: int,
    max_response_tokens: int,
) -> Trajectories:
    """Tokenize the prompt of every row with each of its responses.

    Args:
        max_prompt_tokens: a longer prompt, template included, is an error.
        max_response_tokens: a longer response, end token included, is an error.

    Returns:
        One trajectory a response, those of a row adjacent; prompt_ids are row numbers.

    Raises:
        ValueError: if a row is too long, naming the longest, or the chat template does not take it.
    """
    pairs = conversation_tokens(tokenizer, rows, system_prompt)
    numbers = [number for number, row in enumerate(rows) for _ in row.responses]
    texts = [response for row in rows for response in row.responses]
    first_pairs = dict(zip(reversed(numbers), reversed(pairs), strict=True))
    _require_short_enough(
        "prompt",
        max_prompt_tokens,
        [TokenCount(len(first_pairs[n].prompt), n, row.prompt) for n, row in enumerate(rows)],
    )
    _require_short_enough(
        "response",
        max_response_tokens,
        [
            TokenCount(len(pair.response), number, text)
            for pair, number, text in zip(pairs, numbers, texts, strict=True)
        ],
    )
    return concatenate(
        [
            pack(pair.prompt.tolist(), pair.response.tolist(), prompt_id=number)
            for pair, number in zip(pairs, numbers, strict=True)
        ]
    )


def _require_short_enough(field: str, limit: int, texts: Sequence[TokenCount]) -> None:
    """Raise if a text has more tokens than the limit; texts are never truncated."""
    longest = max(texts, key=lambda text: text.num_tokens)
    if longest.num_tokens <= limit:
        return
    count = sum(text.num_tokens > limit for text in texts)
    raise ValueError(
        f"{count} of {len(texts)} {field}s are longer than data.max_{field}_tokens = {limit}; "
        f'the longest, row {longest.row + 1}, "{longest.text[:60]}...", has {longest.num_tokens} '
        f"tokens: raise data.max_{field}_tokens to that, or remove the long rows"
    )


def decoded(tokenizer: Any, trajectories: Trajectories) -> list[tuple[str, str]]:  # noqa: ANN401
    """Return the prompt and response of each trajectory as text without special tokens."""
    return [
        (
            tokenizer.decode(trajectories.prompt(index), skip_special_tokens=True),
            tokenizer.decode(trajectories.response(index), skip_special_tokens=True),
        )
        for index in range(len(trajectories))
    ]
