"""What the discriminator trains on: responses of both classes, a prompt's beside one another.

A verdict is one logit: on a whole response, or on each of its prefixes, then one for each response
token. Verdicts lie flat in the order of the trajectories, those of one beside one another.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from alignment.batching import PackedBatch, microbatches
from alignment.replay import PromptGroup
from alignment.trajectories import Trajectories, concatenate


class LabelledBatch(NamedTuple):
    """Trajectories of several prompts: of each the rollouts, then the demonstrations."""

    trajectories: Trajectories
    is_expert: Tensor
    """[trajectory] true for demonstrations."""
    group_index: Tensor
    """[trajectory] int64, the group in the order given; a prompt may have several over time."""

    @property
    def num_expert(self) -> int:
        """Demonstrations."""
        return int(self.is_expert.sum())

    @property
    def num_policy(self) -> int:
        """Rollouts."""
        return len(self.is_expert) - self.num_expert


def labelled(groups: list[PromptGroup]) -> LabelledBatch:
    """Put groups one behind another, so that a prompt is computed once for both of its classes."""
    sizes = [len(group.rollouts) + len(group.demonstrations) for group in groups]
    labels = [
        np.arange(size) >= len(group.rollouts) for group, size in zip(groups, sizes, strict=True)
    ]
    return LabelledBatch(
        concatenate([trajectories for group in groups for trajectories in group]),
        torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(np.repeat(np.arange(len(groups)), sizes)),
    )


class Verdicts(NamedTuple):
    """What each logit of a labelled batch stands for, and how much it counts."""

    counts: Int[Tensor, " trajectory"]
    """Verdicts on each trajectory."""
    is_expert: Tensor
    """[verdict] true on demonstrations."""
    weights: Float[Tensor, " verdict"]
    """Of its cost in the loss of the step."""
    class_weights: Float[Tensor, " trajectory"]
    """1 / demonstrations or 1 / rollouts."""
    mean_count: float
    """Verdicts on a trajectory, over both classes."""


def verdicts(batch: LabelledBatch, *, per_token: bool) -> Verdicts:
    """Weigh verdicts so that the best one is log(expert / policy), on responses or on prefixes.

    On prefixes the loss is, for each class, the sum over all its prefixes divided by the number of
    its responses and by one constant for both classes, the mean response length of the step. A
    prefix then weighs as often as a class begins a response with it, rho, whatever follows, and the
    optimum is log(rho_expert / rho_policy) of the prefix, also where the classes have different
    lengths. A mean within each response would weigh the prefix of a short response more than the
    same prefix of a long one, and so shift the optimum by the log of the ratio of the two classes'
    E[1 / length | prefix]: a verdict on tokens that are yet to come.

    Args:
        batch: of one optimizer step, both classes.
        per_token: one verdict a response token, instead of one a response.

    Returns:
        Weights that add up to the two class means of the responses' costs, or of their sums over
        prefixes in units of the mean length.

    Raises:
        ValueError: if a class is missing.
    """
    num_expert, num_policy = batch.num_expert, batch.num_policy
    if not num_expert or not num_policy:
        raise ValueError(
            f"a discriminator needs both classes; got {num_expert} demonstrations "
            f"and {num_policy} rollouts"
        )
    class_weights = torch.where(batch.is_expert, 1.0 / num_expert, 1.0 / num_policy)
    counts = verdict_counts(batch.trajectories, per_token=per_token)
    mean_count = float(counts.double().mean())
    owners = torch.repeat_interleave(counts)
    return Verdicts(
        counts,
        batch.is_expert[owners],
        class_weights[owners] / mean_count,
        class_weights,
        mean_count,
    )


def verdict_counts(trajectories: Trajectories, *, per_token: bool) -> Int[Tensor, " trajectory"]:
    """Count the verdicts on each trajectory: its response tokens, or one."""
    lengths = torch.from_numpy(trajectories.response_lengths.astype(np.int64))
    return lengths if per_token else torch.ones_like(lengths)


def flat_places(
    rows: Int[Tensor, " chosen"], counts: Int[Tensor, " trajectory"]
) -> Int[Tensor, " value"]:
    """Find where the values of some trajectories lie among those of all, in the order of the rows.

    Args:
        rows: trajectories, such as those of a microbatch.
        counts: values of every trajectory: verdicts, or response tokens.

    Returns:
        Places in the flat array of all values.
    """
    chosen = counts[rows]
    starts, offsets = (counts.cumsum(0) - counts)[rows], chosen.cumsum(0) - chosen
    return torch.repeat_interleave(starts - offsets, chosen) + torch.arange(int(chosen.sum()))


def split_microbatches(trajectories: Trajectories, max_tokens: int) -> list[PackedBatch]:
    """Pack trajectories, splitting the responses to a prompt where they do not fit together.

    A discriminator scores each response by itself and so, unlike a baseline within a group, does
    not need them in one microbatch.

    Args:
        trajectories: those of a prompt beside one another, to share its computation.
        max_tokens: most tokens in a microbatch, a prompt counted once for its responses there.

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
    """Rows to pack together: what fits of every prompt, then the overflow of each by itself."""
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
    """Find where the response tokens lie in a row, in the order of batch.action_ids."""
    is_response = torch.ones_like(batch.token_ids, dtype=torch.bool)
    for group in batch.groups:
        is_response[group.start : group.start + group.prompt_length] = False
    return is_response.nonzero()[:, 0]


def response_index(batch: PackedBatch) -> Int[Tensor, " token"]:
    """Tell each token of a row which of its responses it belongs to.

    Args:
        batch: the row.

    Returns:
        0 to batch.num_sequences - 1 on tokens of responses, in the order of the row;
        batch.num_sequences on those of prompts, which belong to several.
    """
    index = torch.full_like(batch.token_ids, batch.num_sequences)
    index[response_token_indices(batch)] = batch.sequence_index
    return index
