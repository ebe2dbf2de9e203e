"""What the discriminator trains on: responses of both classes, a prompt's beside one another.

A verdict is one logit: on a whole response, or on each of its prefixes, then one for each response
token. Verdicts lie flat in the order of the trajectories, those of one beside one another.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import Trajectories, concatenate


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
