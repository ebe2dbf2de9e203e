"""The training batch of the discriminator: responses of both classes, grouped by prompt.

The discriminator gives one logit for each response, or one for each of its prefixes, that is for
each response token. Logits are flat, in the order of the trajectories.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import Trajectories, concatenate


class LabelledBatch(NamedTuple):
    """Trajectories of several prompts: for each the rollouts, then the demonstrations."""

    trajectories: Trajectories
    is_expert: Tensor
    """[trajectory] true for demonstrations."""
    group_index: Tensor
    """[trajectory] int64, the group in the given order; a prompt may have several groups."""

    @property
    def num_expert(self) -> int:
        """Number of demonstrations."""
        return int(self.is_expert.sum())

    @property
    def num_policy(self) -> int:
        """Number of rollouts."""
        return len(self.is_expert) - self.num_expert


def labelled(groups: list[PromptGroup]) -> LabelledBatch:
    """Join groups, so that the model computes a prompt once for both classes."""
    sizes = [len(group.rollouts) + len(group.demonstrations) for group in groups]
    labels = [
        np.arange(size) >= len(group.rollouts) for group, size in zip(groups, sizes, strict=True)
    ]
    return LabelledBatch(
        concatenate([trajectories for group in groups for trajectories in group]),
        torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(np.repeat(np.arange(len(groups)), sizes)),
    )


class LogitWeights(NamedTuple):
    """The label and weight of each logit of a labelled batch."""

    counts: Int[Tensor, " trajectory"]
    """Logits of each trajectory."""
    is_expert: Tensor
    """[logit] true on demonstrations."""
    weights: Float[Tensor, " logit"]
    """Weight of its cost in the loss of the step."""
    class_weights: Float[Tensor, " trajectory"]
    """1 / demonstrations or 1 / rollouts."""
    mean_count: float
    """Mean number of logits of a trajectory, over both classes."""


def logit_weights(batch: LabelledBatch, *, per_token: bool) -> LogitWeights:
    """Weight logits so that the optimal one is log(expert / policy), of responses or prefixes.

    On prefixes the loss is, for each class, the sum over all its prefixes divided by the number of
    its responses and by one constant for both classes, the mean response length of the step. The
    weight of a prefix in a class is then rho, the frequency with which responses of the class begin
    with it, and the optimum is log(rho_expert / rho_policy), also if the classes have different
    lengths. A mean within each response would weight the prefix of a short response more than the
    same prefix of a long one, and so shift the optimum by the log of the ratio of the two classes'
    E[1 / length | prefix], which depends on later tokens.

    Args:
        per_token: one logit a response token instead of one a response.

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
    counts = logit_counts(batch.trajectories, per_token=per_token)
    mean_count = float(counts.double().mean())
    owners = torch.repeat_interleave(counts)
    return LogitWeights(
        counts,
        batch.is_expert[owners],
        class_weights[owners] / mean_count,
        class_weights,
        mean_count,
    )


def logit_counts(trajectories: Trajectories, *, per_token: bool) -> Int[Tensor, " trajectory"]:
    """Count the logits of each trajectory: its response tokens, or one."""
    lengths = torch.from_numpy(trajectories.response_lengths.astype(np.int64))
    return lengths if per_token else torch.ones_like(lengths)
