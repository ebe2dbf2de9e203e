"""Theorem 7: which rewards by token have which gradient, with the optimal prefix logits.

The head of an optimal token discriminator emits h_t = log(rho_E / rho_pi) of the prefix that ends
with action t. Responses have lengths from 1 to 3.
"""

import pytest
import torch
from hypothesis import given

from alignment.credit.token_rewards import increment_rewards, occupancy_rewards, rewards_to_go
from alignment.divergences.lookup import divergence
from alignment.mdp.segments import prefix_sums
from alignment.objectives.policy_gradient import policy_gradient
from alignment.studies.response_table import tabular_action_logprobs
from tests.strategies import TABLE, policy_tables
from tests.theorems.tabular import (
    EXACT,
    action_visits,
    cosine,
    gradient,
    kl,
    log_ratios,
    probabilities,
    random_tables,
    state_visits,
)

NAMES = ["forward_kl", "reverse_kl", "jensen_shannon", "squared_hellinger", "pearson_chi2"]
INDEX = TABLE.sequence_index

every_divergence = pytest.mark.parametrize("name", NAMES)
tables = given(expert=policy_tables(), policy=policy_tables())


def prefix_logits(expert, policy):
    local = tabular_action_logprobs(expert, TABLE) - tabular_action_logprobs(policy, TABLE)
    return prefix_sums(local, INDEX)


def expected_ascent(policy, returns):
    """Expectation over responses of sum_t return_t * grad log pi(a_t|s_t), by the objective."""
    chance = probabilities(policy).detach()[INDEX]

    def loss(table):
        logprobs = tabular_action_logprobs(table, TABLE)
        return policy_gradient(
            logprobs,
            logprobs.detach(),
            chance * returns,
            INDEX,
            importance="none",
            max_mean_log_ratio=None,
            num_sequences=1,
        ).loss

    return -gradient(loss, policy)


def occupancy_divergence(name, expert, policy):
    """Sum over prefixes of rho_pi g(rho_E / rho_pi), g = f - f'(1) (u - 1)."""
    generator = divergence(name).generator
    p, q = action_visits(expert), action_visits(policy)
    u = p / q
    slope = generator.derivative(torch.ones((), dtype=u.dtype))
    return (q * (generator.f(u) - slope * (u - 1.0))).sum()


def mean_length(policy):
    return action_visits(policy).sum()


@every_divergence
@tables
def test_increments_to_go_give_the_gradient_of_the_divergence_of_responses(name, expert, policy):
    record = divergence(name)
    rewards = increment_rewards(prefix_logits(expert, policy), INDEX, record.reward)
    found = expected_ascent(policy, rewards_to_go(rewards, INDEX))
    p = probabilities(expert)
    exact = gradient(lambda table: record.value(p, probabilities(table)), policy)
    torch.testing.assert_close(found, -exact, **EXACT)
    # and so does one reward for the whole response
    whole = record.reward(log_ratios(expert, policy))[INDEX]
    torch.testing.assert_close(expected_ascent(policy, whole), -exact, **EXACT)


@every_divergence
@tables
def test_prefix_rewards_to_go_give_the_gradient_of_the_divergence_of_occupancies(
    name, expert, policy
):
    rewards = occupancy_rewards(prefix_logits(expert, policy), divergence(name).reward)
    found = expected_ascent(policy, rewards_to_go(rewards, INDEX))
    exact = gradient(lambda table: occupancy_divergence(name, expert, table), policy)
    torch.testing.assert_close(found, -exact, **EXACT)


@tables
def test_without_the_constant_a_positive_reward_pays_for_length(expert, policy):
    # softplus(h) / 2 is log(2) / 2 where expert and policy agree, and is received at every token
    reward = divergence("jensen_shannon").reward
    rewards = reward(prefix_logits(expert, policy))
    found = expected_ascent(policy, rewards_to_go(rewards, INDEX))
    exact = gradient(lambda table: occupancy_divergence("jensen_shannon", expert, table), policy)
    bonus = reward(torch.zeros((), dtype=torch.float64)) * gradient(mean_length, policy)
    torch.testing.assert_close(found, bonus - exact, **EXACT)


@tables
def test_immediate_rewards_hold_the_states_fixed(expert, policy):
    # Discount 0: reverse KL of the next token, summed over the states that the policy visits
    rewards = increment_rewards(
        prefix_logits(expert, policy), INDEX, divergence("reverse_kl").reward
    )
    visits = state_visits(policy)

    def at_fixed_states(table):
        return (visits * kl(table.softmax(-1), expert.softmax(-1))).sum()

    found = expected_ascent(policy, rewards)
    torch.testing.assert_close(found, -gradient(at_fixed_states, policy), **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_immediate_rewards_and_occupancies_point_elsewhere(seed):
    expert, policy = random_tables(seed)
    logits, reward = prefix_logits(expert, policy), divergence("reverse_kl").reward
    increments = increment_rewards(logits, INDEX, reward)
    full = expected_ascent(policy, rewards_to_go(increments, INDEX))
    immediate = expected_ascent(policy, increments)
    occupancy = expected_ascent(policy, rewards_to_go(occupancy_rewards(logits, reward), INDEX))
    assert cosine(immediate, full) < 0.999
    assert cosine(occupancy, full) < 0.999


@tables
def test_the_full_gradient_is_an_immediate_part_and_a_part_still_to_come(expert, policy):
    # The split of MiniLLM, arXiv:2306.08543: by what the token itself earns, and what follows it
    rewards = increment_rewards(
        prefix_logits(expert, policy), INDEX, divergence("reverse_kl").reward
    )
    returns = rewards_to_go(rewards, INDEX)
    parts = expected_ascent(policy, rewards) + expected_ascent(policy, returns - rewards)
    torch.testing.assert_close(parts, expected_ascent(policy, returns), **EXACT)
