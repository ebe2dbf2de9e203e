"""Advantages of whole responses, from the rewards of the group that shares their prompt."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Advantages(NamedTuple):
    """One advantage for each trajectory, and which trajectories had nothing to compare with."""

    values: Float[Tensor, " trajectory"]
    is_alone: Bool[Tensor, " trajectory"]
    """The only one of its group, hence without a baseline and with advantage 0; log the count."""


def leave_one_out(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Advantages:
    """Reward minus the mean reward of the other members of the group.

    With n members and group mean m, that is n / (n - 1) * (r_i - m). The baseline does not depend
    on response i, so the policy gradient stays unbiased. There is no division by the group's
    standard deviation: it would reweight prompts, and make the choice of divergence almost moot
    (with groups of two, every increasing reward would give the same advantages).

    Args:
        rewards: one scalar for each trajectory, in reward units.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, in the order of the rewards.

    References:
        Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian et al. 2024
        (RLOO), arXiv:2402.14740.
    """
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    sums = rewards.new_zeros(len(ids)).index_add(0, group, rewards)
    size = sizes[group]
    is_alone = size == 1
    others = (size - 1).clamp(min=1)  # alone, a reward is its own mean: the advantage is 0
    values = (rewards - (sums / sizes)[group]) * size / others
    return Advantages(values, is_alone)
