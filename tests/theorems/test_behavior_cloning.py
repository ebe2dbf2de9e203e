"""Theorem 2: supervised fine-tuning minimizes KL(expert, policy), and only summed per sequence."""

import pytest
import torch
from hypothesis import given

from alignment.divergences.lookup import divergence
from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE, policy_tables
from tests.theorems.tabular import (
    EXACT,
    NUM,
    action_visits,
    cosine,
    expected_behavior_cloning,
    gradient,
    log_ratios,
    probabilities,
    random_tables,
    reward_gradient,
)


def cloning_gradient(chance, policy, reduction="sum_per_sequence"):
    def loss(table):
        logprobs = tabular_action_logprobs(table, TABLE)
        return expected_behavior_cloning(chance, logprobs, TABLE.sequence_index, reduction).loss

    return gradient(loss, policy)


@given(expert=policy_tables(), policy=policy_tables())
def test_cloning_has_the_gradient_of_the_forward_kl_of_whole_responses(expert, policy):
    p = probabilities(expert)
    record = divergence("forward_kl")
    exact = gradient(lambda table: record.value(p, probabilities(table)), policy)
    torch.testing.assert_close(cloning_gradient(p, policy), exact, **EXACT)


@given(expert=policy_tables(), policy=policy_tables())
def test_negative_log_likelihood_is_forward_kl_plus_the_entropy_of_the_expert(expert, policy):
    p = probabilities(expert)
    out = expected_behavior_cloning(p, tabular_action_logprobs(policy, TABLE), TABLE.sequence_index)
    entropy = -(p * p.log()).sum()
    exact = divergence("forward_kl").value(p, probabilities(policy))
    torch.testing.assert_close(out.diagnostics["nll_per_sequence"] - entropy, exact, **EXACT)


@given(expert=policy_tables(), policy=policy_tables())
def test_cloning_actions_state_by_state_is_cloning_responses(expert, policy):
    visits = action_visits(expert)
    by_state = gradient(lambda table: -(visits * table.log_softmax(-1)).sum(), policy)
    torch.testing.assert_close(cloning_gradient(probabilities(expert), policy), by_state, **EXACT)


@given(expert=policy_tables(), policy=policy_tables())
def test_adversarial_forward_kl_with_the_exact_reward_is_supervised_fine_tuning(expert, policy):
    rewards = divergence("forward_kl").reward(log_ratios(expert, policy))
    cloning = cloning_gradient(probabilities(expert), policy)
    torch.testing.assert_close(reward_gradient(policy, rewards), -cloning, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_over_each_response_is_another_objective(seed):
    expert, policy = random_tables(seed)
    p = probabilities(expert)
    lengths = torch.bincount(TABLE.sequence_index)
    by_length = gradient(
        lambda table: -(p / lengths * tabular_response_logprobs(table, TABLE)).sum(), policy
    )
    sequence_mean = cloning_gradient(p, policy, "sequence_mean")
    torch.testing.assert_close(sequence_mean, by_length, **EXACT)
    assert cosine(sequence_mean, cloning_gradient(p, policy)) < 0.999


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_over_all_tokens_only_rescales_a_step(seed):
    policy, _ = random_tables(seed)
    counts = {"num_sequences": NUM, "num_action_tokens": len(TABLE.tokens)}

    def step(reduction):
        def loss(table):
            logprobs = tabular_action_logprobs(table, TABLE)
            return behavior_cloning(
                logprobs, TABLE.sequence_index, reduction=reduction, **counts
            ).loss

        return gradient(loss, policy)

    rescaled = step("token_mean") * counts["num_action_tokens"] / counts["num_sequences"]
    torch.testing.assert_close(rescaled, step("sum_per_sequence"), **EXACT)
