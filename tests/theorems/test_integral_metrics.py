"""Theorem 14: for metrics that are a supremum over critics, the best critic is the exact reward."""

import pytest
import torch

from alignment.divergences.lookup import divergence
from tests.theorems.tabular import (
    EXACT,
    NUM,
    gradient,
    probabilities,
    random_tables,
    reward_gradient,
)

PLACES = torch.linspace(0.0, 1.0, NUM, dtype=torch.float64)
"""Where each response lies on a line."""
GAP = PLACES[1] - PLACES[0]
KERNEL = (-(PLACES[:, None] - PLACES[None, :]).square() / 0.08).exp()

every_seed = pytest.mark.parametrize("seed", range(3))


def wasserstein(p, q):
    """On a line: the area between the cumulative distributions."""
    return GAP * (p - q).cumsum(0)[:-1].abs().sum()


def best_critic(p, q):
    """Falls with slope 1 where the policy lies too far left, rises where too far right."""
    slopes = -(p - q).cumsum(0)[:-1].sign()
    return torch.cat([slopes.new_zeros(1), (GAP * slopes).cumsum(0)])


def discrepancy(p, q):
    """Half the squared maximum mean discrepancy."""
    return 0.5 * (p - q) @ KERNEL @ (p - q)


@every_seed
def test_best_critic_attains_the_distance_and_is_lipschitz(seed):
    p, q = (probabilities(table) for table in random_tables(seed))
    critic = best_critic(p, q)
    torch.testing.assert_close(((p - q) * critic).sum(), wasserstein(p, q), **EXACT)
    assert (critic.diff().abs() <= GAP + 1e-15).all()


@every_seed
def test_critic_of_the_wasserstein_distance_is_its_exact_reward(seed):
    expert, policy = random_tables(seed)
    p, q = probabilities(expert), probabilities(policy)
    rewards = divergence("wasserstein").reward(best_critic(p, q))
    exact = gradient(lambda table: wasserstein(p, probabilities(table)), policy)
    torch.testing.assert_close(reward_gradient(policy, rewards), -exact, **EXACT)


@every_seed
def test_witness_of_the_mean_discrepancy_is_its_exact_reward(seed):
    expert, policy = random_tables(seed)
    p, q = probabilities(expert), probabilities(policy)
    witness = KERNEL @ (p - q)
    exact = gradient(lambda table: discrepancy(p, probabilities(table)), policy)
    torch.testing.assert_close(reward_gradient(policy, witness), -exact, **EXACT)
