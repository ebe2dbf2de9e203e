"""One step of the on-policy stage descends the divergence that it names, exactly.

The expectation over sampled groups is taken by enumeration: every pair of responses is a group of
two, weighed by its probability, and all of them go through the real code in one call. With the
optimal discriminator's logits the gradient must be that of the exact divergence, at scale 1.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alignment.credit.advantages import leave_one_out, leave_one_out_by_position
from alignment.credit.importance import (
    TRUNCATION,
    prefix_staleness_correction,
    staleness_correction,
)
from alignment.credit.token_rewards import increment_rewards, rewards_to_go
from alignment.divergences.lookup import divergence
from alignment.divergences.record import clip_logits
from alignment.mdp.segments import prefix_sums
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.enumeration import all_groups, expected_gradient
from tests.strategies import TABLE, policy_tables

NUM = len(TABLE.responses)
PAIRS = all_groups(2)
NAMES = ["forward_kl", "reverse_kl", "jensen_shannon"]
"""The theorem is tested for every divergence elsewhere; here it is the way from logit to step."""


def by_response(rewards):
    """Advantages of all pairs from one reward for each response."""
    return leave_one_out(rewards[PAIRS.members], PAIRS.group_ids)


def by_token(rewards):
    """Advantages of all pairs from one reward for each action."""
    returns = rewards_to_go(rewards, TABLE.sequence_index)[PAIRS.actions]
    return leave_one_out_by_position(returns, PAIRS.sequence_index, PAIRS.group_ids)


def exact_gradient(name, expert, logits):
    logits = logits.detach().requires_grad_()
    p = tabular_response_logprobs(expert, TABLE).exp()
    q = tabular_response_logprobs(logits, TABLE).exp()
    return torch.autograd.grad(divergence(name).value(p, q), logits)[0]


def optimal_logits(expert, policy):
    return tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)


def optimal_prefix_logits(expert, policy):
    log_ratios = tabular_action_logprobs(expert, TABLE) - tabular_action_logprobs(policy, TABLE)
    return prefix_sums(log_ratios, TABLE.sequence_index)


@pytest.mark.parametrize("name", NAMES)
@given(
    expert=policy_tables(),
    policy=policy_tables(),
    importance=st.sampled_from(["none", "token", "sequence", "clip"]),
)
def test_step_is_the_gradient_of_the_divergence(name, expert, policy, importance):
    advantages = by_response(divergence(name).reward(optimal_logits(expert, policy)))
    step = expected_gradient(policy, policy, advantages, PAIRS, importance=importance)
    exact = exact_gradient(name, expert, policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(expert=policy_tables(), policy=policy_tables())
def test_credit_by_token_is_the_same_step(name, expert, policy):
    rewards = increment_rewards(
        optimal_prefix_logits(expert, policy), TABLE.sequence_index, divergence(name).reward
    )
    step = expected_gradient(policy, policy, by_token(rewards), PAIRS, importance="token")
    exact = exact_gradient(name, expert, policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(expert=policy_tables(0.5), policy=policy_tables(0.1), snapshot=policy_tables(0.1))
@settings(max_examples=20)
def test_stale_samples_and_a_stale_discriminator_do_not_matter(name, expert, policy, snapshot):
    arguments = (
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(snapshot, TABLE),
        TABLE.sequence_index,
    )
    record = divergence(name)
    whole = optimal_logits(expert, snapshot) + staleness_correction(*arguments, NUM).correction
    prefixes = optimal_prefix_logits(expert, snapshot)
    prefixes = prefixes + prefix_staleness_correction(*arguments).correction
    assume(not clip_logits(prefixes, record).was_clipped.any())
    assume(optimal_logits(policy, snapshot).exp().max() < TRUNCATION)
    exact = exact_gradient(name, expert, policy)
    for advantages in (
        by_response(record.reward(whole)),
        by_token(increment_rewards(prefixes, TABLE.sequence_index, record.reward)),
    ):
        step = expected_gradient(policy, snapshot, advantages, PAIRS, importance="sequence")
        torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(policy=policy_tables())
@settings(max_examples=20)
def test_the_expert_itself_stays_where_it_is(name, policy):
    advantages = by_response(divergence(name).reward(optimal_logits(policy, policy)))
    step = expected_gradient(policy, policy, advantages, PAIRS, importance="token")
    assert step.abs().max().item() < 1e-14
