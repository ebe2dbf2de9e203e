"""Theorem 8: what each advantage within a group does to the expected gradient."""

import math

import pytest
import torch
from hypothesis import given, settings

from alignment.credit.advantages import group_mean, group_normalized, leave_one_out, self_normalized
from alignment.divergences.lookup import divergence
from alignment.objectives.policy_gradient import policy_gradient
from tests.enumeration import LENGTHS, NUM, all_groups, expected_gradient
from tests.strategies import floats64, policy_tables
from tests.theorems.tabular import (
    EXACT,
    cosine,
    gradient,
    kl,
    log_ratios,
    probabilities,
    random_logits,
    random_tables,
    reward_gradient,
)

every_seed = pytest.mark.parametrize("seed", range(3))


def expected_ascent(policy, advantages, rewards, size):
    """Minus the expectation over groups of a size of one step's gradient."""
    groups = all_groups(size)
    values = advantages(rewards[groups.members], groups.group_ids)
    return -expected_gradient(policy, policy, values, groups)


@pytest.mark.parametrize("size", [2, 3])
@given(policy=policy_tables(), rewards=floats64(NUM))
@settings(max_examples=10)
def test_leave_one_out_is_unbiased_and_the_group_mean_shrinks(size, policy, rewards):
    exact = reward_gradient(policy, rewards)
    found = expected_ascent(policy, leave_one_out, rewards, size)
    torch.testing.assert_close(found, exact, **EXACT)
    found = expected_ascent(policy, group_mean, rewards, size)
    torch.testing.assert_close(found, (1.0 - 1.0 / size) * exact, **EXACT)


@every_seed
def test_the_standard_deviation_changes_the_direction(seed):
    policy, rewards = random_tables(seed)[0], random_logits(seed + 10, NUM)
    found = expected_ascent(policy, group_normalized, rewards, 3)
    assert cosine(found, reward_gradient(policy, rewards)) < 1.0 - 1e-3


@every_seed
def test_the_standard_deviation_erases_the_scale_of_a_prompt(seed):
    rewards = random_logits(seed, 4)
    scaled = torch.cat([rewards, 100.0 * rewards])
    first, second = group_normalized(scaled, torch.arange(2).repeat_interleave(4)).chunk(2)
    torch.testing.assert_close(first, second, **EXACT)


def test_in_groups_of_two_the_standard_deviation_erases_the_divergence():
    logits = random_logits(0, 400, scale=2.0)
    groups = torch.arange(200).repeat_interleave(2)
    higher = torch.where(logits > logits.reshape(-1, 2).flip(1).ravel(), 1.0, -1.0)
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "squared_hellinger", "jeffreys"):
        found = group_normalized(divergence(name).reward(logits), groups)
        torch.testing.assert_close(found, higher.double() / math.sqrt(2.0), **EXACT)


@every_seed
def test_dividing_by_each_length_is_a_bias_and_by_a_constant_is_not(seed):
    policy, rewards = random_tables(seed)[0], random_logits(seed + 10, NUM)
    advantages = rewards - (probabilities(policy) * rewards).sum()
    exact = reward_gradient(policy, advantages)
    assert cosine(reward_gradient(policy, advantages / LENGTHS), exact) < 1.0 - 1e-3
    torch.testing.assert_close(3.0 * reward_gradient(policy, advantages / 3.0), exact, **EXACT)


def forward_kl_ascent(expert, policy):
    p = probabilities(expert)
    return -gradient(lambda table: kl(p, probabilities(table)), policy)


@every_seed
def test_the_bias_of_self_normalized_weights_falls_with_the_size_of_the_group(seed):
    expert, policy = random_tables(seed)
    exact = forward_kl_ascent(expert, policy)
    logits = log_ratios(expert, policy) + 3.0  # a constant of the prompt does not matter
    found = [
        expected_ascent(policy, lambda *given: self_normalized(*given).values, logits, size)
        for size in (1, 2, 3, 4)
    ]
    biases = [((ascent - exact).norm() / exact.norm()).item() for ascent in found]
    assert biases[0] == pytest.approx(1.0)  # alone, there is no gradient at all
    assert 1.0 > biases[1] > biases[2] > biases[3]


@given(expert=policy_tables(), policy=policy_tables())
@settings(max_examples=10)
def test_in_an_endless_group_self_normalized_weights_are_forward_kl(expert, policy):
    # A group in which every response occurs in exact proportion: probabilities in thousandths. For
    # the objective each response is one action, chosen by one softmax over all of them.
    counts = (1000.0 * probabilities(policy)).round().clamp(min=1.0)
    total = int(counts.sum())
    members = torch.arange(NUM).repeat_interleave(counts.long())
    q, p = counts / total, probabilities(expert)
    logits = (p / q).log()[members]
    advantages = self_normalized(logits, torch.zeros(total, dtype=torch.int64))

    def loss(table):
        logprobs = table.log_softmax(0)[members]
        return policy_gradient(
            logprobs,
            logprobs.detach(),
            advantages.values,
            torch.arange(total),
            importance="none",
            max_mean_log_ratio=None,
            num_sequences=total,
        ).loss

    exact = gradient(lambda table: kl(p, table.softmax(0)), q.log())
    torch.testing.assert_close(gradient(loss, q.log()), exact, **EXACT)
    # E_q[e^h] = 1, so the effective size is that of the weights e^h themselves
    expected = total / (q * (p / q).square()).sum()
    torch.testing.assert_close(advantages.effective_sizes, expected[None], **EXACT)


@given(expert=policy_tables(), policy=policy_tables())
@settings(max_examples=10)
def test_the_constant_in_self_normalized_advantages_shifts_no_expectation(expert, policy):
    groups = all_groups(2)
    logits = log_ratios(expert, policy)[groups.members]
    values = self_normalized(logits, groups.group_ids).values
    with_constant = expected_gradient(policy, policy, values, groups)
    without = expected_gradient(policy, policy, values + 1.0, groups)
    torch.testing.assert_close(with_constant, without, **EXACT)
    # In a pair, 2 softmax(h) - 1 = tanh((h_1 - h_2) / 2)
    first, second = logits.reshape(-1, 2).unbind(1)
    expected = torch.stack([first - second, second - first], 1).div(2.0).tanh().ravel()
    torch.testing.assert_close(values, expected, **EXACT)
