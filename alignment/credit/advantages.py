"""Advantages of responses, from what the group that shares their prompt received.

Every choice here goes into the same objective, which averages over all N responses of a step:

    gradient = -(1/N) sum_i A_i grad log pi(y_i)

    leave_one_out      the exact policy gradient, in expectation, for groups of any size
    group_mean         (1 - 1/K) times it, for groups of K
    group_normalized   another direction (GRPO)
    self_normalized    the gradient of forward KL as K grows; bounded, and biased for small K
    best_of_group      cloning each group's best: the gradient towards the best-of-K policy
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.mdp.segments import action_positions

MIN_STANDARD_DEVIATION = 1e-4
"""Rewards of a group that differ by less differ by rounding; other implementations add the same
number to the deviation, which bends every advantage a little."""


class Advantages(NamedTuple):
    """Advantages, constant for the gradient, and which responses had nothing to compare with."""

    values: Float[Tensor, " advantage"]
    """One for each response; one for each action from leave_one_out_by_position."""
    is_alone: Bool[Tensor, " trajectory"]
    """The only one of its group, hence without a baseline and with advantage 0; log the count."""


class SelfNormalized(NamedTuple):
    """Advantages from weights that sum to 1 in every group, and how many responses they are."""

    values: Float[Tensor, " trajectory"]
    """K w_i - 1, between -1 and K - 1, for a group of K."""
    effective_sizes: Float[Tensor, " group"]
    """1 / sum w^2 of each group, from 1 (one response has all the weight) to K, by ascending id.
    Their sum over the number of responses is the fraction that the weighted ones are worth."""


class _Centered(NamedTuple):
    """Rewards minus the mean of their group, and the group of each."""

    values: Tensor
    group: Tensor
    """[trajectory] a row of sizes."""
    sizes: Tensor


def leave_one_out(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Advantages:
    """Reward minus the mean reward of the other members of the group.

    With n members and group mean m, that is n / (n - 1) * (r_i - m). The baseline does not depend
    on response i, so the policy gradient stays unbiased. There is no division by the group's
    standard deviation; group_normalized says what that would do.

    Args:
        rewards: one scalar for each trajectory, in reward units.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, in the order of the rewards.

    References:
        Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian et al. 2024
        (RLOO), arXiv:2402.14740.
    """
    centered, group, sizes = _centered(rewards, group_ids)
    size = sizes[group]
    others = (size - 1).clamp(min=1)  # alone, a reward is its own mean: the advantage is 0
    return Advantages(centered * size / others, size == 1)


def leave_one_out_by_position(
    returns: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    group_ids: Int[Tensor, " trajectory"],
) -> Advantages:
    """Return minus the mean return of the other members of the group at the same position.

    For rewards by token: action t of a response is compared with what the others still had to
    come at their action t, which is 0 for one that has already ended. The baseline does not depend
    on the response itself, so the policy gradient stays unbiased.

    Args:
        returns: reward-to-go of each action, in reward units.
        sequence_index: which trajectory each action belongs to, ascending.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, in the order of the returns.
    """
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    position = action_positions(sequence_index)
    longest = int(position.max()) + 1 if len(position) else 0
    table = returns.new_zeros(len(group_ids), longest)
    table[sequence_index, position] = returns.detach()
    sums = table.new_zeros(len(ids), longest).index_add(0, group, table)
    size = sizes[group]
    is_alone = size == 1
    others = (size - 1).clamp(min=1)
    baselines = (sums[group] - table) / others[:, None]
    values = (table - baselines).masked_fill(is_alone[:, None], 0.0)
    return Advantages(values[sequence_index, position], is_alone)


def group_mean(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Advantages:
    """Reward minus the mean reward of the group, the response itself included.

    The expected gradient is 1 - 1/K of leave_one_out's, for groups of K: a smaller step in the same
    direction, where all groups have the same size.

    Args:
        rewards: one scalar for each trajectory, in reward units.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, in the order of the rewards.

    References:
        Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    centered, group, sizes = _centered(rewards, group_ids)
    return Advantages(centered, sizes[group] == 1)


def group_normalized(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Advantages:
    """Reward minus the group's mean, over the group's standard deviation (GRPO).

    It makes steps of one size at any scale of reward, and hides two things. Prompts whose responses
    differ little count as much as those whose responses differ a lot, so the direction is no longer
    that of the expected reward. And the choice of divergence all but vanishes: in a group of two
    every increasing reward gives the same advantages. To compare divergences use leave_one_out.

    Args:
        rewards: one scalar for each trajectory, in any unit.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, without unit, in the order of the rewards. A standard deviation (with n - 1)
        below MIN_STANDARD_DEVIATION counts as that.

    References:
        Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, eq. 3. Departures: the loss does not
        divide by a response's length, and the deviation has a floor and no added number.
    """
    centered, group, sizes = _centered(rewards, group_ids)
    squares = centered.new_zeros(len(sizes)).index_add(0, group, centered.square())
    deviations = (squares / (sizes - 1).clamp(min=1)).sqrt().clamp(min=MIN_STANDARD_DEVIATION)
    return Advantages(centered / deviations[group], sizes[group] == 1)


def self_normalized(
    logits: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> SelfNormalized:
    """Share of the group's e^h, times the group's size K, minus 1: bounded, for forward KL only.

    e^h is the exact reward of forward KL and has the heaviest tail of all. Dividing it by its mean
    over the group, whose expectation is 1 for the optimal discriminator, bounds it by K:

        A_i = K w_i - 1,    w = softmax(h_1 .. h_K)

    As K grows, the expected gradient tends to that of KL(expert, policy) at scale 1; a constant
    added to a prompt's logits does not matter. For small K it is biased, and 0 at K = 1. The -1 is
    a constant: it shifts no expectation, and gives equal logits advantage 0.

    Args:
        logits: expert-positive, staleness correction included; finite, clipping optional.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    Returns:
        The advantages, in the order of the logits, and the effective size of every group.

    References:
        Self-normalized importance sampling, with the response sampled from the policy and e^h in
        the place of the weight expert / policy; a reward-weighted regression at temperature 1.
    """
    logits = logits.detach()
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    largest = logits.new_zeros(len(ids)).scatter_reduce(
        0, group, logits, "amax", include_self=False
    )
    odds = (logits - largest[group]).exp()
    weights = odds / odds.new_zeros(len(ids)).index_add(0, group, odds)[group]
    squares = weights.new_zeros(len(ids)).index_add(0, group, weights.square())
    return SelfNormalized(weights * sizes[group] - 1.0, 1.0 / squares)


def best_of_group(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Advantages:
    """K for the best of a group of K and 0 for the rest: each group's best response is cloned.

    Several that are equally good share the K. Only the order of rewards matters. The expected
    gradient is that of KL(best-of-K, policy), where best-of-K is the law of the best of K samples
    of the policy that sampled: supervised fine-tuning on responses that rejection sampling wrote.
    On-policy that is the policy gradient of the reward best-of-K(y) / pi(y), which rises with the
    response's quantile F among the policy's own, as K F^(K - 1); it is not that of the expected
    reward. There is no baseline.

    Args:
        rewards: one scalar for each trajectory, in any unit.
        group_ids: equal ids share a prompt. Groups may lie anywhere; one counts by its size.

    Returns:
        The advantages, without unit, in the order of the rewards. One that is alone is its own
        best, from which nothing can be learned: 0, as its expected gradient is on-policy.

    References:
        Dong et al. 2023 (RAFT), arXiv:2304.06767, with one response kept at each prompt.
    """
    rewards = rewards.detach()
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    largest = rewards.new_zeros(len(ids)).scatter_reduce(
        0, group, rewards, "amax", include_self=False
    )
    is_best = (rewards == largest[group]).to(rewards.dtype)  # none in a group with NaN: 0 / 0
    num_best = is_best.new_zeros(len(ids)).index_add(0, group, is_best)
    values = is_best / num_best[group] * sizes[group]
    is_alone = sizes[group] == 1
    return Advantages(values.masked_fill(is_alone, 0.0), is_alone)


def _centered(rewards: Tensor, group_ids: Tensor) -> _Centered:
    """Subtract from every reward the mean of its group."""
    rewards = rewards.detach()
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    sums = rewards.new_zeros(len(ids)).index_add(0, group, rewards)
    return _Centered(rewards - (sums / sizes)[group], group, sizes)
