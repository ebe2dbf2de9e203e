"""What the discriminator trains on: responses of both classes, a prompt's beside one another."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
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
    labels = [
        np.arange(len(group.rollouts) + len(group.demonstrations)) >= len(group.rollouts)
        for group in groups
    ]
    return LabelledBatch(
        concatenate([trajectories for group in groups for trajectories in group]),
        torch.from_numpy(np.concatenate(labels)),
    )


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


def response_token_weights(
    batch: PackedBatch, is_expert: Bool[Tensor, " trajectory"], num_expert: int, num_policy: int
) -> Float[Tensor, " token"]:
    """Weigh each token of a row so that its responses' sums add up to the two class means.

    Args:
        batch: the row.
        is_expert: of its responses, in the row's order.
        num_expert: demonstrations in the optimizer step.
        num_policy: responses of the policy in the same.

    Returns:
        1 / num_expert or 1 / num_policy on the tokens of responses, and 0 on those of prompts,
        which several logits depend on.
    """
    is_action = torch.ones(batch.num_tokens, dtype=torch.bool, device=is_expert.device)
    for group in batch.groups:
        is_action[group.start : group.start + group.prompt_length] = False
    of_response = torch.where(is_expert, 1.0 / num_expert, 1.0 / num_policy)
    weights = torch.zeros(batch.num_tokens, device=is_expert.device)
    weights[is_action] = of_response[batch.sequence_index]
    return weights
