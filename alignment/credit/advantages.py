"""Advantages of responses, relative to the group of responses to the same prompt.

All of them are constants for the gradient, and are used in the same objective, an average over all
N responses of a step:

    gradient = -(1/N) sum_i A_i grad log pi(y_i)

    leave_one_out      the exact policy gradient, in expectation, for groups of any size
    group_mean         (1 - 1/K) times it, for groups of K
    group_normalized   another direction (GRPO)
    self_normalized    the gradient of forward KL as K grows; bounded, and biased for small K
    best_of_group      clones the best response of each group: towards the best-of-K policy

A response that is alone in its group has no baseline and gets advantage 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import action_positions

MIN_STANDARD_DEVIATION = 1e-4
"""Lower bound of a group's standard deviation: smaller differences are rounding. Other
implementations add this number to the deviation, which changes every advantage a little."""


class SelfNormalized(NamedTuple):
    """Advantages from weights that sum to 1 in every group, and effective sample sizes."""

    values: Float[Tensor, " trajectory"]
    """K w_i - 1, between -1 and K - 1, for a group of K."""
    effective_sizes: Float[Tensor, " group"]
    """1 / sum w^2 of each group, from 1 (one response has all the weight) to K, by ascending id.
    Their sum over the number of responses is the effective sample fraction."""


class _Centered(NamedTuple):
    """Rewards minus the mean of their group, and the group of each."""

    values: Tensor
    group: Tensor
    """[trajectory] a row of sizes."""
    sizes: Tensor


def leave_one_out(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Float[Tensor, " trajectory"]:
    """Reward minus the mean reward of the other members of the group.

    With n members and group mean m, that is n / (n - 1) * (r_i - m). The baseline does not depend
    on response i, so the policy gradient stays unbiased. There is no division by the group's
    standard deviation; see group_normalized for its effect.

    Args:
        rewards: one scalar for each trajectory, in reward units.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    References:
        Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian et al. 2024
        (RLOO), arXiv:2402.14740.
    """
    centered, group, sizes = _centered(rewards, group_ids)
    size = sizes[group]
    others = (size - 1).clamp(min=1)  # alone, a reward is its own mean: the advantage is 0
    return centered * size / others


def leave_one_out_by_position(
    returns: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    group_ids: Int[Tensor, " trajectory"],
) -> Float[Tensor, " action"]:
    """Return minus the mean return of the other members of the group at the same position.

    For rewards by token: the baseline of action t of a response is the mean of the others' returns
    at their action t, which is 0 for a response that has ended. It does not depend on the response
    itself, so the policy gradient stays unbiased.

    Args:
        returns: reward-to-go of each action, in reward units.
        sequence_index: trajectory of each action, ascending.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.
    """
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    position = action_positions(sequence_index)
    longest = int(position.max()) + 1 if len(position) else 0
    table = returns.new_zeros(len(group_ids), longest)
    table[sequence_index, position] = returns.detach()
    sums = table.new_zeros(len(ids), longest).index_add(0, group, table)
    size = sizes[group]
    others = (size - 1).clamp(min=1)
    baselines = (sums[group] - table) / others[:, None]
    values = (table - baselines).masked_fill((size == 1)[:, None], 0.0)
    advantages: Tensor = values[sequence_index, position]
    return advantages


def group_mean(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Float[Tensor, " trajectory"]:
    """Reward minus the mean reward of the group, the response itself included.

    The expected gradient is 1 - 1/K of leave_one_out's, for groups of K: a smaller step in the same
    direction, where all groups have the same size.

    Args:
        rewards: one scalar for each trajectory, in reward units.
        group_ids: equal ids share a prompt. Groups may lie anywhere and differ in size.

    References:
        Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    return _centered(rewards, group_ids).values


def group_normalized(
    rewards: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> Float[Tensor, " trajectory"]:
    """Reward minus the group's mean, over the group's standard deviation (GRPO).

    The step has the same size at any scale of the reward. Prompts whose responses differ little
    count as much as those whose responses differ a lot, so the direction is no longer that of the
    expected reward. The divergence hardly matters any more: in a group of two, every increasing
    reward gives the same advantages. To compare divergences use leave_one_out.

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
    return centered / deviations[group]


def self_normalized(
    logits: Float[Tensor, " trajectory"], group_ids: Int[Tensor, " trajectory"]
) -> SelfNormalized:
    """K times the self-normalized weight e^h in a group of K, minus 1; for forward KL only.

    e^h is the exact reward of forward KL and has a heavy tail. Dividing it by its mean over the
    group, whose expectation is 1 for the optimal discriminator, bounds it by K:

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
) -> Float[Tensor, " trajectory"]:
    """K for the best of a group of K and 0 for the others: the best response is cloned.

    Equally good responses share the K. Only the order of rewards matters. The expected gradient is
    that of KL(best-of-K, policy), where best-of-K is the distribution of the best of K samples of
    the behavior policy: supervised fine-tuning on the result of rejection sampling.
    On-policy that is the policy gradient of the reward best-of-K(y) / pi(y), which rises with the
    response's quantile F among the policy's own, as K F^(K - 1); it is not that of the expected
    reward. There is no baseline.

    Args:
        rewards: one scalar for each trajectory, in any unit.
        group_ids: equal ids share a prompt. Groups may lie anywhere; one counts by its size.

    Returns:
        The advantages, without unit. A response that is alone gets 0, which is its expected
        gradient on-policy.

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
    advantages: Tensor = values.masked_fill(sizes[group] == 1, 0.0)
    return advantages


def _centered(rewards: Tensor, group_ids: Tensor) -> _Centered:
    """Subtract from every reward the mean of its group."""
    rewards = rewards.detach()
    ids, group, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    sums = rewards.new_zeros(len(ids)).index_add(0, group, rewards)
    return _Centered(rewards - (sums / sizes)[group], group, sizes)
