"""Theorem 6: a discriminator of an older policy can be brought up to date exactly.

With h = log(expert / snapshot), log(expert / policy) = h + log snapshot - log policy.
"""

import pytest
import torch
from hypothesis import given

from alignment.credit.importance import staleness_correction
from alignment.credit.reference_kl import k1_penalty
from alignment.divergences.lookup import divergence
from alignment.studies.response_table import tabular_action_logprobs
from tests.strategies import TABLE, policy_tables
from tests.theorems.tabular import (
    EXACT,
    NUM,
    climb,
    cosine,
    gradient,
    kl,
    log_ratios,
    probabilities,
    random_logits,
    random_tables,
    reward_gradient,
)

every_divergence = pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "forward_kl"])

OUTCOMES = torch.arange(5)
EXPERT, SNAPSHOT = random_logits(3, 2, 5, scale=0.8).log_softmax(-1)
STALE_LOGITS = EXPERT - SNAPSHOT


def corrected_logits(expert, snapshot, policy):
    """What a discriminator trained against the snapshot says of the policy's responses."""
    found = staleness_correction(
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(snapshot, TABLE),
        TABLE.sequence_index,
        NUM,
    )
    assert found.num_clipped == 0
    return log_ratios(expert, snapshot) + found.correction


def descent(name, expert, policy):
    record, p = divergence(name), probabilities(expert)
    return -gradient(lambda table: record.value(p, probabilities(table)), policy)


@every_divergence
@given(expert=policy_tables(0.8), snapshot=policy_tables(0.8), policy=policy_tables(0.8))
def test_corrected_logit_gives_the_exact_gradient_at_any_staleness(name, expert, snapshot, policy):
    rewards = divergence(name).reward(corrected_logits(expert, snapshot, policy))
    exact = descent(name, expert, policy)
    torch.testing.assert_close(reward_gradient(policy, rewards), exact, **EXACT)


@every_divergence
@pytest.mark.parametrize("seed", range(3))
def test_without_the_correction_the_step_points_elsewhere(name, seed):
    expert, snapshot = random_tables(seed, scale=0.6)
    policy, _ = random_tables(seed + 10, scale=0.6)
    stale = divergence(name).reward(log_ratios(expert, snapshot))
    assert cosine(reward_gradient(policy, stale), descent(name, expert, policy)) < 0.99


@given(expert=policy_tables(0.8), snapshot=policy_tables(0.8), policy=policy_tables(0.8))
def test_for_reverse_kl_it_is_a_kl_penalty_to_the_snapshot_of_coefficient_one(
    expert, snapshot, policy
):
    penalty = k1_penalty(
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(snapshot, TABLE),
        TABLE.sequence_index,
        NUM,
    )
    stale = log_ratios(expert, snapshot)
    torch.testing.assert_close(stale - penalty, corrected_logits(expert, snapshot, policy), **EXACT)
    to_snapshot = descent("reverse_kl", snapshot, policy)
    torch.testing.assert_close(
        reward_gradient(policy, stale) + to_snapshot,
        descent("reverse_kl", expert, policy),
        **EXACT,
    )


def end_of_training(coefficient, num_steps):
    """Where a discriminator that is never refreshed leads, with a KL penalty to the snapshot."""

    def reward(logprobs):
        penalty = k1_penalty(logprobs[0], SNAPSHOT, OUTCOMES, len(OUTCOMES))
        return STALE_LOGITS - coefficient * penalty

    return climb(SNAPSHOT[None], reward, step_size=1.0, num_steps=num_steps)[0].log_softmax(-1)


def test_a_frozen_discriminator_without_penalty_makes_the_policy_collapse():
    end = end_of_training(0.0, 2000)
    assert end.argmax() == STALE_LOGITS.argmax()
    assert end.max().exp() > 0.98


@pytest.mark.parametrize("coefficient", [0.5, 1.0, 2.0])
def test_a_frozen_discriminator_with_a_penalty_ends_at_a_power_of_the_expert(coefficient):
    end = end_of_training(coefficient, 1500)
    # q0 (p / q0)^(1 / b): beyond the expert for b < 1, short of it for b > 1
    wanted = (SNAPSHOT + STALE_LOGITS / coefficient).softmax(-1)
    assert kl(wanted, end.exp()) < 1e-8
    is_expert = bool(kl(EXPERT.exp(), end.exp()) < 1e-8)
    assert is_expert == (coefficient == 1.0)
