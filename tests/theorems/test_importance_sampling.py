"""Theorem 10: which importance weights undo that another policy sampled the responses."""

import pytest
import torch
from hypothesis import assume, given

from alignment.credit.importance import TRUNCATION, prefix_staleness_correction
from alignment.mdp.segments import sequence_sums
from alignment.objectives.policy_gradient import policy_gradient
from alignment.studies.response_table import tabular_action_logprobs
from tests.strategies import TABLE, floats64, policy_tables
from tests.theorems.tabular import (
    EXACT,
    NUM,
    gradient,
    log_ratios,
    probabilities,
    random_logits,
    random_tables,
    reward_gradient,
)

INDEX = TABLE.sequence_index
every_seed = pytest.mark.parametrize("seed", range(4))


def expected_ascent(policy, behavior, advantages, importance, limit=None):
    """Expectation over responses of the behavior policy, weighted by the library."""
    chance = probabilities(behavior)[INDEX]

    def loss(table):
        return policy_gradient(
            tabular_action_logprobs(table, TABLE),
            tabular_action_logprobs(behavior, TABLE),
            chance * advantages,
            INDEX,
            importance=importance,
            max_mean_log_ratio=limit,
            num_sequences=1,
        ).loss

    return -gradient(loss, policy)


def mismatched(seed, scale):
    """A policy, one that differs from it a little, and rewards of mean 0 under the policy."""
    policy = random_tables(seed)[0]
    behavior = policy + random_logits(seed + 10, *policy.shape, scale=scale)
    rewards = random_logits(seed + 20, NUM)
    return policy, behavior, rewards - (probabilities(policy) * rewards).sum()


def relative_error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


@given(policy=policy_tables(0.1), behavior=policy_tables(0.1), rewards=floats64(NUM))
def test_sequence_weights_are_unbiased_until_truncated(policy, behavior, rewards):
    assume(log_ratios(policy, behavior).exp().max() < TRUNCATION)
    found = expected_ascent(policy, behavior, rewards[INDEX], "sequence")
    torch.testing.assert_close(found, reward_gradient(policy, rewards), **EXACT)


@every_seed
def test_token_weights_and_no_weights_are_biased(seed):
    policy, behavior, rewards = mismatched(seed, 0.15)
    exact = reward_gradient(policy, rewards)
    for importance in ("token", "none"):
        found = expected_ascent(policy, behavior, rewards[INDEX], importance)
        assert relative_error(found, exact) > 0.01


@given(policy=policy_tables(), behavior=policy_tables(0.5), rewards=floats64(NUM))
def test_prefix_weights_with_action_values_are_exact(policy, behavior, rewards):
    behavior = policy + behavior
    # Q(s_t, a_t): mean reward under the policy of all responses that begin with these tokens
    chance = probabilities(policy)
    begins = TABLE.prefix_index * 3 + TABLE.tokens
    size = len(TABLE.prefixes) * 3
    sums = sequence_sums((chance * rewards)[INDEX], begins, size)
    action_values = (sums / sequence_sums(chance[INDEX], begins, size))[begins]
    correction = prefix_staleness_correction(
        tabular_action_logprobs(policy, TABLE), tabular_action_logprobs(behavior, TABLE), INDEX
    )
    assert correction.num_clipped.item() == 0
    weights = (-correction.correction).exp()
    found = expected_ascent(policy, behavior, weights * action_values, "none")
    torch.testing.assert_close(found, reward_gradient(policy, rewards), **EXACT)


@given(policy=policy_tables(), advantages=floats64(len(INDEX)))
def test_clipping_is_reinforce_where_the_policies_agree(policy, advantages):
    clipped = expected_ascent(policy, policy, advantages, "clip")
    plain = expected_ascent(policy, policy, advantages, "none")
    torch.testing.assert_close(clipped, plain, **EXACT)


@every_seed
def test_within_its_range_clipping_is_a_token_weight(seed):
    policy, behavior, rewards = mismatched(seed, 0.04)
    clipped = expected_ascent(policy, behavior, rewards[INDEX], "clip")
    weighted = expected_ascent(policy, behavior, rewards[INDEX], "token")
    torch.testing.assert_close(clipped, weighted, **EXACT)


@every_seed
def test_truncation_is_nearly_harmless_and_tight_rejection_is_worst(seed):
    policy, behavior, rewards = mismatched(seed, 0.4)
    exact = reward_gradient(policy, rewards)
    assert log_ratios(policy, behavior).exp().max() > TRUNCATION  # it does bite
    truncated = expected_ascent(policy, behavior, rewards[INDEX], "sequence")
    rejected = expected_ascent(policy, behavior, rewards[INDEX], "sequence", 0.1)
    uncorrected = expected_ascent(policy, behavior, rewards[INDEX], "none")
    error = relative_error(truncated, exact)
    assert 0.0 < error < 0.5 * relative_error(uncorrected, exact)
    assert error < 0.5 * relative_error(rejected, exact)
