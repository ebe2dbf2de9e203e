"""Trajectories of the token MDP as packed arrays, the form in which processes exchange them.

A trajectory is one prompt, the response to it, and the log-probability and policy version of each
sampled token. Many of them are concatenated in flat arrays, whose transfer is several times faster
than that of lists of records, and whose tokens are never converted to text and back. Demonstrations
have the same form: the expert's tokens, with unknown behavior log-probabilities stored as 0.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class FinishReason(IntEnum):
    """Reason of the end of a response."""

    STOP = 0
    """The policy (or the expert) chose an end-of-sequence token, which is the last token."""
    LENGTH = 1
    """The response reached its limit or the context window was full; there is no end token."""


class PolicyVersion(NamedTuple):
    """Identifies weights. A restarted learner repeats steps, so the step alone is not unique."""

    attempt: int
    """Number of restarts of the learner; a later attempt supersedes every earlier one."""
    step: int
    """Optimizer steps that produced these weights, counted over the whole run."""

    def __str__(self) -> str:
        """Return v17, or v17.2 after the learner has been restarted twice."""
        return f"v{self.step}" if self.attempt == 0 else f"v{self.step}.{self.attempt}"


NO_VERSION = PolicyVersion(-1, -1)
"""Version of tokens that no policy sampled, such as demonstrations and prompts."""


class Trajectories(NamedTuple):
    """Several trajectories, packed: the tokens of one follow the tokens of the one before.

    Example, two responses [7, 2] and [8, 9, 2] to the prompt [5, 6], which is number 3 of the data:

        token_ids         5 6 7 2 5 6 8 9 2
        action_mask       0 0 1 1 0 0 1 1 1
        lengths           4 5
        prompt_ids        3 3
    """

    token_ids: NDArray[np.int32]
    """[token] prompt and response of each trajectory."""
    behavior_logprobs: NDArray[np.float32]
    """[token] natural log at the sampling temperature; 0 outside the response."""
    action_mask: NDArray[np.bool_]
    """[token] true where the policy chose the token: the response, end token included."""
    token_versions: NDArray[np.int32]
    """[token, 2] PolicyVersion of the weights that chose the token; NO_VERSION in the prompt.
    Weights may change in the middle of a response."""
    lengths: NDArray[np.int32]
    """[trajectory] number of tokens of prompt and response together."""
    prompt_ids: NDArray[np.int64]
    """[trajectory] row of the prompt in the data set; equal ids share one prompt."""
    finish_reasons: NDArray[np.uint8]
    """[trajectory] a FinishReason."""

    def __len__(self) -> int:  # the number of trajectories, not of fields
        """Return the number of trajectories."""
        return len(self.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """[trajectory] index of its first token in the token arrays."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    @property
    def response_lengths(self) -> NDArray[np.int32]:
        """[trajectory] number of tokens in each response, the end token included."""
        if len(self) == 0:
            return np.zeros(0, np.int32)
        return np.add.reduceat(self.action_mask, self.starts, dtype=np.int32)

    @property
    def prompt_lengths(self) -> NDArray[np.int32]:
        """[trajectory] number of tokens in each prompt."""
        return self.lengths - self.response_lengths

    @property
    def policy_versions(self) -> NDArray[np.int64]:
        """[trajectory, 2] PolicyVersion of the oldest weights that chose a token of the response.

        That is those of its first token, since no worker goes back to older weights.
        """
        first = self.starts + self.prompt_lengths
        return np.asarray(self.token_versions[first], np.int64)

    def prompt(self, index: int) -> NDArray[np.int32]:
        """Return the token ids of one prompt."""
        start = int(self.starts[index])
        return self.token_ids[start : start + int(self.prompt_lengths[index])]

    def response(self, index: int) -> NDArray[np.int32]:
        """Return the token ids of one response, the end token included."""
        start = int(self.starts[index])
        end = start + int(self.lengths[index])
        return self.token_ids[start + int(self.prompt_lengths[index]) : end]

    def select_values(
        self, values: NDArray[np.float32], indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the values of the trajectories at these indices, in this order.

        Args:
            values: [trajectory, ...] or [response token, ...], in the order of the trajectories.

        Returns:
            Rows of values, as copies: one per trajectory, or one per response token of it.
        """
        index = np.asarray(indices, dtype=np.int64)
        if len(values) == len(self):
            return values[index]
        lengths = self.response_lengths.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        tokens = [np.arange(starts[i], starts[i] + lengths[i]) for i in index]
        selected: NDArray[np.float32] = values[np.concatenate(tokens) if tokens else index]
        return selected

    def with_prompts(self, prompts: Sequence[NDArray[np.int32]]) -> "Trajectories":
        """Return the same responses to other prompts, as copies.

        Args:
            prompts: [trajectory] token ids, at least one each.
        """
        first, end = self.starts + self.prompt_lengths, self.starts + self.lengths
        responses = [np.arange(*bounds) for bounds in zip(first, end, strict=True)]

        def joined(column: NDArray[Any], of_prompts: Sequence[NDArray[Any]]) -> NDArray[Any]:
            pairs = zip(of_prompts, responses, strict=True)
            parts = [part for prompt, rows in pairs for part in (prompt, column[rows])]
            return np.concatenate(parts).astype(column.dtype) if parts else column

        lengths = [len(prompt) for prompt in prompts]
        return Trajectories(
            joined(self.token_ids, prompts),
            joined(self.behavior_logprobs, [np.zeros(n) for n in lengths]),
            joined(self.action_mask, [np.zeros(n) for n in lengths]),
            joined(self.token_versions, [np.tile(NO_VERSION, (n, 1)) for n in lengths]),
            np.asarray(self.response_lengths + np.asarray(lengths, np.int32), np.int32),
            *self[5:],
        )

    def numbered(self, prompt_ids: NDArray[np.int64]) -> "Trajectories":
        """Return the same trajectories with other prompt ids."""
        return Trajectories(*self[:5], prompt_ids, self.finish_reasons)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Trajectories":
        """Return the trajectories at these indices, in this order, as copies."""
        index = np.asarray(indices, dtype=np.int64)
        starts = self.starts
        tokens = [np.arange(starts[i], starts[i] + self.lengths[i]) for i in index]
        flat = np.concatenate(tokens) if tokens else np.zeros(0, np.int64)
        return Trajectories(
            *(column[flat] for column in self[:4]), *(column[index] for column in self[4:])
        )


def pack(
    prompt: Sequence[int],
    response: Sequence[int],
    *,
    prompt_id: int,
    behavior_logprobs: Sequence[float] | None = None,
    finish_reason: FinishReason = FinishReason.STOP,
    policy_version: PolicyVersion = NO_VERSION,
    token_versions: Sequence[PolicyVersion] | None = None,
) -> Trajectories:
    """Pack one trajectory.

    Args:
        prompt: token ids, at least one.
        response: token ids, at least one; the end token is the last if there is one.
        prompt_id: row of the prompt in the data set.
        behavior_logprobs: one per response token; None for a demonstration.
        policy_version: the weights that chose the tokens.
        token_versions: one per response token, if they differ; replaces policy_version.

    Returns:
        A batch of one.

    Raises:
        ValueError: if prompt or response is empty, or log-probabilities or versions do not match.
    """
    if not len(prompt) or not len(response):
        raise ValueError(
            f"a trajectory needs a prompt and a response; "
            f"got {len(prompt)} and {len(response)} tokens (prompt_id {prompt_id})"
        )
    logprobs = [0.0] * len(response) if behavior_logprobs is None else behavior_logprobs
    if len(logprobs) != len(response):
        raise ValueError(f"{len(logprobs)} behavior_logprobs for {len(response)} response tokens")
    versions = token_versions or [policy_version] * len(response)
    if len(versions) != len(response):
        raise ValueError(f"{len(versions)} token_versions for {len(response)} response tokens")
    length = len(prompt) + len(response)
    return Trajectories(
        token_ids=np.asarray([*prompt, *response], np.int32),
        behavior_logprobs=np.asarray([*[0.0] * len(prompt), *logprobs], np.float32),
        action_mask=np.arange(length) >= len(prompt),
        token_versions=np.asarray([*[NO_VERSION] * len(prompt), *versions], np.int32),
        lengths=np.asarray([length], np.int32),
        prompt_ids=np.asarray([prompt_id], np.int64),
        finish_reasons=np.asarray([finish_reason], np.uint8),
    )


def concatenate(batches: Sequence[Trajectories]) -> Trajectories:
    """Concatenate batches in order; no batches give an empty one."""
    if not batches:
        return EMPTY
    return Trajectories(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))


EMPTY = Trajectories(
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
    np.zeros(0, np.bool_),
    np.zeros((0, 2), np.int32),
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint8),
)


def no_scores(batch: Trajectories) -> NDArray[np.float32]:
    """Return [trajectory] zeros, for a task that needs no logits and no rewards."""
    return np.zeros(len(batch), np.float32)


def group_starts(trajectories: Trajectories) -> np.ndarray:
    """Return the [group] index of the first trajectory of each run of equal prompt ids."""
    ids = trajectories.prompt_ids
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else ids
