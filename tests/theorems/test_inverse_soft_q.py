"""Theorem 11: logits read as soft Q-values, as in IQ-Learn, and the reward that they imply.

With V(s) = logsumexp Q(s, .), 0 after the end, a policy pi = exp(Q - V) is optimal for the reward
Q(s, a) - V(s'). Garg et al. 2021, arXiv:2106.12142; for language models: arXiv:2409.01369.
"""

import torch
from hypothesis import given

from alignment.mdp.segments import sequence_sums
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE, policy_tables
from tests.theorems.tabular import EXACT, NUM, expected_behavior_cloning, probabilities

CHI2_WEIGHT = 0.7


def values(soft_q):
    """(V(s), V(s')) of each action of each response."""
    state = soft_q.logsumexp(-1)[TABLE.prefix_index]
    goes_on = TABLE.sequence_index[1:] == TABLE.sequence_index[:-1]
    following = torch.zeros_like(state)
    following[:-1] = torch.where(goes_on, state[1:], 0.0)
    return state, following


def implied_rewards(soft_q):
    return soft_q[TABLE.prefix_index, TABLE.tokens] - values(soft_q)[1]


@given(soft_q=policy_tables(), anyone=policy_tables())
def test_value_differences_telescope_to_the_first_value_under_every_policy(soft_q, anyone):
    state, following = values(soft_q)
    chance = probabilities(anyone)[TABLE.sequence_index]
    first_value = soft_q[0].logsumexp(-1)
    torch.testing.assert_close((chance * (state - following)).sum(), first_value, **EXACT)


@given(soft_q=policy_tables())
def test_implied_rewards_sum_to_the_likelihood_plus_the_first_value(soft_q):
    returns = sequence_sums(implied_rewards(soft_q), TABLE.sequence_index, NUM)
    likelihood = tabular_response_logprobs(soft_q, TABLE)
    torch.testing.assert_close(returns, likelihood + soft_q[0].logsumexp(-1), **EXACT)


@given(soft_q=policy_tables())
def test_policy_is_soft_optimal_for_the_implied_reward(soft_q):
    # e^return, normalized over all responses, is the policy
    returns = sequence_sums(implied_rewards(soft_q), TABLE.sequence_index, NUM)
    torch.testing.assert_close(returns.softmax(0), probabilities(soft_q), **EXACT)


@given(soft_q=policy_tables(), expert=policy_tables())
def test_chi_square_iq_learn_is_cloning_with_a_penalty_on_the_implied_rewards(soft_q, expert):
    state, following = values(soft_q)
    rewards = implied_rewards(soft_q)
    chance = probabilities(expert)
    visits = chance[TABLE.sequence_index]
    penalty = (visits * rewards.square()).sum() / (4 * CHI2_WEIGHT)
    iq_learn = (visits * (rewards - (state - following))).sum() - penalty
    logprobs = tabular_action_logprobs(soft_q, TABLE)
    cloning = expected_behavior_cloning(chance, logprobs, TABLE.sequence_index).loss
    torch.testing.assert_close(iq_learn, -cloning - penalty, **EXACT)
