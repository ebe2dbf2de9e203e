import math

import pytest
import torch
from hypothesis import given

from alignment.estimators import tabular_action_logprobs, tabular_response_logprobs
from alignment.importance import (
    TRUNCATION,
    effective_sample_fraction,
    importance_diagnostics,
    importance_weights,
    staleness_correction,
)
from tests.strategies import TABLE, flat_batches, policy_tables

# Two sequences, of two actions and of one: ratios 3 and 1/2, then 1.
POLICY = torch.tensor([math.log(3.0), math.log(0.5), 0.0])
BEHAVIOR = torch.zeros(3)
INDEX = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("level", "weights", "truncated"),
    [
        ("none", [1.0, 1.0, 1.0], [False, False, False]),
        ("token", [2.0, 0.5, 1.0], [True, False, False]),
        ("sequence", [1.5, 1.5, 1.0], [False, False, False]),  # 3 x 1/2
    ],
)
def test_hand_computed_weights(level, weights, truncated):
    found = importance_weights(POLICY, BEHAVIOR, INDEX, level=level)
    torch.testing.assert_close(found.weights, torch.tensor(weights))
    assert found.was_truncated.tolist() == truncated


def test_hand_computed_diagnostics():
    found = importance_weights(POLICY, BEHAVIOR, INDEX, level="token")
    diagnostics = importance_diagnostics(found, INDEX, num_sequences=2)
    # Sequence means of the weights: (2 + 1/2) / 2 and 1; of their squares: (4 + 1/4) / 2 and 1.
    assert diagnostics["importance_mean"].item() == pytest.approx((1.25 + 1.0) / 2)
    assert diagnostics["importance_second_moment"].item() == pytest.approx((2.125 + 1.0) / 2)
    assert diagnostics["importance_truncated_fraction"].item() == pytest.approx(0.5 / 2)
    # k3 is not truncated: (3 - 1 - log 3) + (1/2 - 1 + log 2), halved, and 0.
    k3 = (2.0 - math.log(3.0)) + (-0.5 + math.log(2.0))
    assert diagnostics["behavior_kl"].item() == pytest.approx(k3 / 2 / 2)


@given(batch=flat_batches())
def test_on_policy_every_weight_is_one(batch):
    index, logprobs, _ = batch
    for level in ("none", "token", "sequence"):
        found = importance_weights(logprobs, logprobs, index, level=level)
        assert (found.weights == 1.0).all()
        diagnostics = importance_diagnostics(found, index, num_sequences=int(index.max()) + 1)
        assert diagnostics["behavior_kl"].item() == 0.0
        assert diagnostics["importance_mean"].item() == pytest.approx(1.0)


def test_weights_carry_no_gradient():
    policy, behavior = POLICY.clone().requires_grad_(), BEHAVIOR.clone().requires_grad_()
    found = importance_weights(policy, behavior, INDEX, level="sequence")
    assert not found.weights.requires_grad
    assert not found.log_ratios.requires_grad
    assert not staleness_correction(policy, behavior, INDEX, 2).correction.requires_grad


def test_a_ratio_beyond_all_numbers_is_still_truncated():
    far = torch.tensor([800.0, 0.0, -800.0])
    found = importance_weights(far, torch.zeros(3), torch.tensor([0, 1, 2]), level="sequence")
    assert found.weights.tolist() == [TRUNCATION, 1.0, 0.0]


def test_no_actions_have_no_weights():
    empty = torch.zeros(0)
    index = torch.zeros(0, dtype=torch.int64)
    found = importance_weights(empty, empty, index, level="sequence")
    assert len(found.weights) == 0
    assert importance_diagnostics(found, index, num_sequences=3)["importance_mean"].item() == 0.0


@given(policy=policy_tables(), behavior=policy_tables())
def test_k3_is_the_exact_divergence_in_expectation(policy, behavior):
    logprobs = tabular_action_logprobs(policy, TABLE)
    sampled = tabular_action_logprobs(behavior, TABLE)
    found = importance_weights(logprobs, sampled, TABLE.sequence_index, level="none")
    probability = tabular_response_logprobs(behavior, TABLE).exp()
    k3 = found.log_ratios.expm1() - found.log_ratios
    expected = (probability[TABLE.sequence_index] * k3).sum()
    exact = (probability * (probability.log() - tabular_response_logprobs(policy, TABLE))).sum()
    torch.testing.assert_close(expected, exact, atol=1e-12, rtol=0.0)


def test_effective_sample_fraction_of_two_unequal_weights():
    # Weights 3 and 1: (4 / 2)^2 / (10 / 2) = 0.8, that is 1.6 samples of 2
    assert effective_sample_fraction(2.0, 5.0) == pytest.approx(0.8)
    assert effective_sample_fraction(1.0, 1.0) == 1.0


def test_hand_computed_staleness_correction():
    # Sequence 0: snapshot minus policy = (-1 + 2) + (-2 + 2) = 1. Sequence 1: 7, clipped to 5.
    policy = torch.tensor([-2.0, -2.0, -8.0])
    snapshot = torch.tensor([-1.0, -2.0, -1.0])
    found = staleness_correction(policy, snapshot, INDEX, 2)
    assert found.correction.tolist() == [1.0, 5.0]
    assert found.num_clipped.item() == 1
    opposite = staleness_correction(snapshot, policy, INDEX, 2)
    assert opposite.correction.tolist() == [-1.0, -5.0]


@given(
    expert=policy_tables(1.0),
    snapshot=policy_tables(0.8),
    policy=policy_tables(0.8),
)
def test_correction_turns_the_snapshot_logit_into_the_present_one(expert, snapshot, policy):
    target = tabular_response_logprobs(expert, TABLE)
    stale = target - tabular_response_logprobs(snapshot, TABLE)
    found = staleness_correction(
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(snapshot, TABLE),
        TABLE.sequence_index,
        len(TABLE.responses),
    )
    assert found.num_clipped.item() == 0
    present = target - tabular_response_logprobs(policy, TABLE)
    torch.testing.assert_close(stale + found.correction, present, atol=1e-12, rtol=0.0)
