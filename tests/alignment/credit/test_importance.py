import math

import pytest
import torch
from hypothesis import given

from alignment.credit.importance import (
    TRUNCATION,
    effective_sample_fraction,
    importance_diagnostics,
    importance_weights,
    prefix_staleness_correction,
    staleness_correction,
)
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
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
        ("clip", [3.0, 0.5, 1.0], [False, False, False]),
    ],
)
def test_hand_computed_weights(level, weights, truncated):
    found = importance_weights(POLICY, BEHAVIOR, INDEX, level=level, max_mean_log_ratio=None)
    torch.testing.assert_close(found.weights, torch.tensor(weights))
    assert found.was_truncated.tolist() == truncated


def test_hand_computed_diagnostics():
    found = importance_weights(POLICY, BEHAVIOR, INDEX, level="token", max_mean_log_ratio=None)
    diagnostics = importance_diagnostics(found, INDEX, num_sequences=2)
    # Sequence means of the weights: (2 + 1/2) / 2 and 1; of their squares: (4 + 1/4) / 2 and 1.
    assert diagnostics["importance_mean"].item() == pytest.approx((1.25 + 1.0) / 2)
    assert diagnostics["importance_second_moment"].item() == pytest.approx((2.125 + 1.0) / 2)
    assert diagnostics["importance_truncated_fraction"].item() == pytest.approx(0.5 / 2)
    # k3 is not truncated: (3 - 1 - log 3) + (1/2 - 1 + log 2), halved, and 0.
    k3 = (2.0 - math.log(3.0)) + (-0.5 + math.log(2.0))
    assert diagnostics["behavior_kl"].item() == pytest.approx(k3 / 2 / 2)
    magnitude = (math.log(3.0) + math.log(2.0)) / 2 / 2
    assert diagnostics["log_ratio_magnitude"].item() == pytest.approx(magnitude)
    assert diagnostics["rejected_sequences"].item() == 0.0


@given(batch=flat_batches())
def test_on_policy_every_weight_is_one(batch):
    index, logprobs, _ = batch
    for level in ("none", "token", "sequence", "clip"):
        found = importance_weights(logprobs, logprobs, index, level=level, max_mean_log_ratio=1e-9)
        assert (found.weights == 1.0).all()
        diagnostics = importance_diagnostics(found, index, num_sequences=int(index.max()) + 1)
        assert diagnostics["behavior_kl"].item() == 0.0
        assert diagnostics["importance_mean"].item() == pytest.approx(1.0)
        assert diagnostics["rejected_sequences"].item() == 0.0


@pytest.mark.parametrize("level", ["none", "token", "sequence", "clip"])
def test_a_sequence_is_rejected_by_its_mean_log_ratio(level):
    # Means of log 3/2 over 2, 0 and -1 over 3: only what is beyond the limit goes, at both ends
    policy = torch.cat([POLICY, torch.tensor([-3.0, 0.0, 0.0])])
    behavior = torch.zeros(6)
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    for limit, rejected in ((0.99, [2]), (1.01, []), (0.2, [0, 2]), (0.21, [2])):
        found = importance_weights(policy, behavior, index, level=level, max_mean_log_ratio=limit)
        free = importance_weights(policy, behavior, index, level=level, max_mean_log_ratio=None)
        is_rejected = torch.isin(index, torch.tensor(rejected, dtype=torch.int64))
        assert found.is_rejected.tolist() == is_rejected.tolist()
        assert found.num_rejected.item() == len(rejected)
        assert found.weights.tolist() == torch.where(is_rejected, 0.0, free.weights).tolist()
        assert not (found.was_truncated & is_rejected).any()
        diagnostics = importance_diagnostics(found, index, num_sequences=30)
        assert diagnostics["rejected_sequences"].item() == len(rejected)


def test_weights_carry_no_gradient():
    policy, behavior = POLICY.clone().requires_grad_(), BEHAVIOR.clone().requires_grad_()
    found = importance_weights(policy, behavior, INDEX, level="sequence", max_mean_log_ratio=None)
    assert not found.weights.requires_grad
    assert not found.log_ratios.requires_grad
    assert not staleness_correction(policy, behavior, INDEX, 2).correction.requires_grad
    assert not prefix_staleness_correction(policy, behavior, INDEX).correction.requires_grad


def test_a_ratio_beyond_all_numbers_is_still_truncated():
    far = torch.tensor([800.0, 0.0, -800.0])
    index = torch.tensor([0, 1, 2])
    found = importance_weights(
        far, torch.zeros(3), index, level="sequence", max_mean_log_ratio=None
    )
    assert found.weights.tolist() == [TRUNCATION, 1.0, 0.0]
    found = importance_weights(far, torch.zeros(3), index, level="clip", max_mean_log_ratio=9.0)
    assert found.weights.tolist() == [0.0, 1.0, 0.0]


def test_no_actions_have_no_weights():
    empty = torch.zeros(0)
    index = torch.zeros(0, dtype=torch.int64)
    found = importance_weights(empty, empty, index, level="sequence", max_mean_log_ratio=1.0)
    assert len(found.weights) == 0
    assert len(prefix_staleness_correction(empty, empty, index).correction) == 0
    assert importance_diagnostics(found, index, num_sequences=3)["importance_mean"].item() == 0.0


@given(policy=policy_tables(), behavior=policy_tables())
def test_k3_is_the_exact_divergence_in_expectation(policy, behavior):
    logprobs = tabular_action_logprobs(policy, TABLE)
    sampled = tabular_action_logprobs(behavior, TABLE)
    found = importance_weights(
        logprobs, sampled, TABLE.sequence_index, level="none", max_mean_log_ratio=None
    )
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


def test_hand_computed_prefix_staleness_correction():
    # Sequence 0: 4, then 4 + 4 clipped, then 4 + 4 - 6. Sequence 1: -7, clipped, then -7 + 3.
    snapshot = torch.tensor([4.0, 4.0, -6.0, -7.0, 3.0])
    index = torch.tensor([0, 0, 0, 1, 1])
    found = prefix_staleness_correction(torch.zeros(5), snapshot, index)
    assert found.correction.tolist() == [4.0, 5.0, 2.0, -5.0, -4.0]
    assert found.num_clipped.item() == 2


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
    prefixes = prefix_staleness_correction(
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(snapshot, TABLE),
        TABLE.sequence_index,
    )
    is_last = TABLE.sequence_index.diff(append=torch.tensor([-1])) != 0
    torch.testing.assert_close(prefixes.correction[is_last], found.correction)
