"""Rewards by token, from the logits of prefixes.

The prefix logit of action t is h_t = log(rho_E / rho_pi) of the first t tokens of a response, the
token that the action chose included: the output of an optimal token discriminator. Before the first
token h_0 = 0. With r the reward of a divergence D, there are two kinds of rewards:

    level token        r(h_t) - r(h_{t-1})   D between the distributions of whole responses
    level occupancy    r(h_t) - r(0)         D between the occupancies, sum over prefixes of
                                             rho_pi f(rho_E / rho_pi), with f(u) - f'(1) (u - 1)
                                             in the place of f, as occupancies do not sum to 1

Both need the sum of all rewards still to come (rewards_to_go), and give the exact gradient then.
The increments of level token sum to r(h_L) - r(h_{t-1}), and r(h_{t-1}) does not depend on the
action: a baseline that every divergence brings along. Occupancies are another objective: early
tokens count once for every token that follows, and lengths are matched as well.

Actions are flat as in alignment/mdp/segments.py, those of one sequence in order and without gaps,
sequence_index ascending. All results are constants for the gradient.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import action_positions, prefix_sums

Reward = Callable[[Tensor], Tensor]
"""r(h) of expert-positive logits: the field reward of a Divergence."""


def increment_rewards(
    prefix_logits: Float[Tensor, " action"], sequence_index: Int[Tensor, " action"], reward: Reward
) -> Float[Tensor, " action"]:
    """Rewards of level token, r(h_t) - r(h_{t-1}): what each token adds to the reward.

    They sum to the reward of the whole response, whatever its length, so they favor
    no length. A reward that is positive (or negative) on every token would.

    Args:
        prefix_logits: h_t, corrected for staleness and clipped.
        sequence_index: sequence of each action.

    Returns:
        One reward for each action, in nats.
    """
    rewards = reward(prefix_logits.detach())
    is_first = action_positions(sequence_index) == 0
    previous = torch.where(is_first, _reward_of_no_evidence(rewards, reward), rewards.roll(1))
    return rewards - previous


def occupancy_rewards(
    prefix_logits: Float[Tensor, " action"], reward: Reward
) -> Float[Tensor, " action"]:
    """Rewards of level occupancy, r(h_t) - r(0): the reward of each visited prefix.

    The constant r(0) matters here, because a longer response receives it more often: with it, a
    policy that equals the expert gains nothing by a longer or a shorter response.

    Args:
        prefix_logits: h_t, corrected for staleness and clipped.

    Returns:
        One reward for each action, in nats.
    """
    rewards = reward(prefix_logits.detach())
    return rewards - _reward_of_no_evidence(rewards, reward)


def rewards_to_go(
    rewards: Float[Tensor, " action"], sequence_index: Int[Tensor, " action"]
) -> Float[Tensor, " action"]:
    """Sum the rewards of each action and of all that follow it in its sequence, undiscounted.

    Args:
        sequence_index: sequence of each action, ascending.

    Returns:
        The return of each action.
    """
    if not len(rewards):
        return rewards
    reversed_index = sequence_index[-1] - sequence_index.flip(0)
    return prefix_sums(rewards.flip(0), reversed_index).flip(0)


def _reward_of_no_evidence(rewards: Tensor, reward: Reward) -> Tensor:
    """[1] r(0), the reward of a prefix that is equally likely under expert and policy."""
    return reward(rewards.new_zeros(1))
