"""Packs trajectories into microbatches in which every prompt is stored once.

A group is a prompt and all responses to it. In a microbatch it is laid out as its prompt followed
by its responses, and the groups are concatenated in a single row without padding:

    token_ids      5 6 | 7 2 | 8 9 2 | 4 3 | 1 2
    position_ids   0 1   2 3   2 3 4   0 1   2 3

The positions of each response continue those of its prompt. The attention mask is defined in
alignment/models/attention.py. A group is never split, so that baselines within
groups can be computed in one microbatch.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from alignment.mdp.trajectories import Trajectories

IntArray = NDArray[np.int64]


class PackedGroup(NamedTuple):
    """Position of a prompt and its responses in the packed row: the prompt first, no gaps."""

    start: int
    """Offset of the prompt in the row, in tokens."""
    prompt_length: int
    """Tokens in the prompt."""
    response_lengths: tuple[int, ...]
    """Tokens in each response, the end token included."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the prompt and its responses."""
        return self.prompt_length + sum(self.response_lengths)


class PackedBatch(NamedTuple):
    """Input of one forward pass: n trajectories in row order. An action is a response token."""

    token_ids: Tensor
    """[token] int64, each prompt once, followed by its responses."""
    position_ids: Tensor
    """[token] int64, position within the prompt and response of the token."""
    groups: tuple[PackedGroup, ...]
    """The layout of the row."""
    state_indices: Tensor
    """[action] int64, index of the token whose hidden state predicts the action; for the first
    action of a response the prompt's last token, which all responses of a group share."""
    action_ids: Tensor
    """[action] int64, ids of the chosen tokens."""
    sequence_index: Tensor
    """[action] int64, trajectory of the action: 0 to n - 1, ascending."""
    behavior_logprobs: Tensor
    """[action] float32, as recorded at sampling; 0 for demonstrations."""
    token_versions: Tensor
    """[action, 2] int64, the PolicyVersion of the weights that chose the token."""
    group_index: Tensor
    """[n] int64, the group of each trajectory: 0 to the number of groups - 1, ascending."""
    last_indices: Tensor
    """[n] int64, index of each response's last token in the row."""
    trajectory_indices: Tensor
    """[n] int64, the row of each trajectory in the Trajectories that were packed."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the row."""
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        """Number of trajectories in the microbatch."""
        return len(self.trajectory_indices)

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same batch with its tensors on this device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**moved)


def microbatches(trajectories: Trajectories, max_tokens: int) -> list[PackedBatch]:
    """Pack trajectories into as few microbatches as first-fit decreasing finds.

    Consecutive trajectories with the same prompt_id and the same prompt tokens form a group. The
    packing depends only on the lengths, so equal inputs give equal microbatches; within one, groups
    keep the order of the trajectories.

    Args:
        trajectories: any number; the responses to a prompt are adjacent. None give no microbatch.
        max_tokens: maximum number of tokens in a microbatch, a prompt counted once per group.

    Returns:
        Microbatches that together hold every trajectory exactly once.

    Raises:
        ValueError: if a group alone is longer than max_tokens.
    """
    groups = _groups(trajectories)
    prompt_lengths, response_lengths = trajectories.prompt_lengths, trajectories.response_lengths
    sizes = [int(prompt_lengths[rows[0]] + response_lengths[rows].sum()) for rows in groups]
    bins: list[list[int]] = []
    loads: list[int] = []
    for index in sorted(range(len(groups)), key=lambda i: -sizes[i]):
        if sizes[index] > max_tokens:
            rows = groups[index]
            raise ValueError(
                f"prompt {trajectories.prompt_ids[rows[0]]} and its {len(rows)} responses take "
                f"{prompt_lengths[rows[0]]} + {response_lengths[rows].sum()} = {sizes[index]} "
                f"tokens, more than learner.max_tokens_per_microbatch = {max_tokens}; raise that, "
                f"or lower objective.group_size or data.max_response_tokens"
            )
        fits = (b for b, load in enumerate(loads) if load + sizes[index] <= max_tokens)
        chosen = next(fits, len(bins))
        if chosen == len(bins):
            bins.append([])
            loads.append(0)
        bins[chosen].append(index)
        loads[chosen] += sizes[index]
    return [_packed(trajectories, [groups[i] for i in sorted(chosen)]) for chosen in bins]


def _groups(trajectories: Trajectories) -> list[IntArray]:
    """Return the rows of each run of trajectories with the same prompt."""
    ids = trajectories.prompt_ids
    opens = [
        i == 0
        or bool(ids[i] != ids[i - 1])
        or not np.array_equal(trajectories.prompt(i), trajectories.prompt(i - 1))
        for i in range(len(trajectories))
    ]
    rows = np.arange(len(trajectories), dtype=np.int64)
    return np.split(rows, np.flatnonzero(opens)[1:]) if len(rows) else []


def _packed(trajectories: Trajectories, groups: list[IntArray]) -> PackedBatch:
    """Concatenate these groups in one row."""
    starts, lengths = trajectories.starts, trajectories.lengths.astype(np.int64)
    prompts = trajectories.prompt_lengths.astype(np.int64)
    sources: list[IntArray] = []  # index in the trajectories of each token of the row
    positions: list[IntArray] = []
    states: list[IntArray] = []
    actions: list[IntArray] = []  # as sources
    layout: list[PackedGroup] = []
    last: list[int] = []
    end = 0
    for rows in groups:
        start, first = end, rows[0]
        prompt_length = int(prompts[first])
        sources.append(starts[first] + np.arange(prompt_length))
        positions.append(np.arange(prompt_length))
        end += prompt_length
        for row in rows:
            action = starts[row] + np.arange(prompt_length, lengths[row])
            state = end - 1 + np.arange(len(action))
            state[0] = start + prompt_length - 1
            sources.append(action)
            actions.append(action)
            positions.append(np.arange(prompt_length, lengths[row]))
            states.append(state)
            end += len(action)
            last.append(end - 1)
        responses = tuple(int(n) for n in lengths[rows] - prompt_length)
        layout.append(PackedGroup(start, prompt_length, responses))
    action_sources = np.concatenate(actions)
    return PackedBatch(
        token_ids=_int64(trajectories.token_ids[np.concatenate(sources)]),
        position_ids=_int64(np.concatenate(positions)),
        groups=tuple(layout),
        state_indices=_int64(np.concatenate(states)),
        action_ids=_int64(trajectories.token_ids[action_sources]),
        sequence_index=_int64(np.repeat(np.arange(len(actions)), [len(a) for a in actions])),
        behavior_logprobs=torch.from_numpy(trajectories.behavior_logprobs[action_sources]),
        token_versions=_int64(trajectories.token_versions[action_sources]),
        group_index=_int64(np.repeat(np.arange(len(groups)), [len(rows) for rows in groups])),
        last_indices=_int64(np.asarray(last)),
        trajectory_indices=_int64(np.concatenate(groups)),
    )


def _int64(values: NDArray[np.int32] | IntArray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def flat_places(
    rows: Int[Tensor, " chosen"], counts: Int[Tensor, " trajectory"]
) -> Int[Tensor, " value"]:
    """Return the indices of some trajectories' values among those of all, in the order of the rows.

    Args:
        rows: trajectories, such as those of a microbatch.
        counts: values of every trajectory: logits, or response tokens.

    Returns:
        Indices in the flat array of all values.
    """
    chosen = counts[rows]
    starts, offsets = (counts.cumsum(0) - counts)[rows], chosen.cumsum(0) - chosen
    return torch.repeat_interleave(starts - offsets, chosen) + torch.arange(int(chosen.sum()))


def split_microbatches(trajectories: Trajectories, max_tokens: int) -> list[PackedBatch]:
    """Pack trajectories, splitting the responses to a prompt where they do not fit together.

    For scores that do not depend on the other responses of a group, such as those of a
    discriminator; a baseline within a group needs microbatches().

    Args:
        trajectories: those of a prompt are adjacent, to share its computation.
        max_tokens: maximum number of tokens in a microbatch, a prompt counted once in it.

    Returns:
        Microbatches that together hold every trajectory once.

    Raises:
        ValueError: if a prompt and one response alone are longer than max_tokens.
    """
    parts = _parts(trajectories, max_tokens)
    packed = []
    for part in parts:
        rows = torch.from_numpy(part)
        packed += [
            batch._replace(trajectory_indices=rows[batch.trajectory_indices])
            for batch in microbatches(trajectories.select(part), max_tokens)
        ]
    return packed


def _parts(trajectories: Trajectories, max_tokens: int) -> list[NDArray[np.int64]]:
    """Return the rows to pack together: those that fit of each prompt, then the overflow."""
    fitting: list[int] = []
    overflow: list[list[int]] = []
    current, used = fitting, 0
    prompts, lengths = trajectories.prompt_lengths.tolist(), trajectories.lengths.tolist()
    for row, prompt_id in enumerate(trajectories.prompt_ids):
        if row == 0 or prompt_id != trajectories.prompt_ids[row - 1]:
            current, used = fitting, 0
        elif used + lengths[row] - prompts[row] > max_tokens:
            overflow.append([])
            current, used = overflow[-1], 0
        used += lengths[row] - (prompts[row] if used else 0)
        current.append(row)
    return [np.asarray(rows, np.int64) for rows in (fitting, *overflow)]


def response_token_indices(batch: PackedBatch) -> Int[Tensor, " action"]:
    """Return the indices of the response tokens in a row, in the order of batch.action_ids."""
    is_response = torch.ones_like(batch.token_ids, dtype=torch.bool)
    for group in batch.groups:
        is_response[group.start : group.start + group.prompt_length] = False
    return is_response.nonzero()[:, 0]


def response_index(batch: PackedBatch) -> Int[Tensor, " token"]:
    """Return the response to which each token of a row belongs.

    Returns:
        0 to batch.num_sequences - 1 on tokens of responses, in the order of the row;
        batch.num_sequences on those of prompts, which belong to several.
    """
    index = torch.full_like(batch.token_ids, batch.num_sequences)
    index[response_token_indices(batch)] = batch.sequence_index
    return index
