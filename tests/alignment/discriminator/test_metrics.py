import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.discriminator.metrics import area_under_curve, discriminator_estimates
from alignment.divergences.lookup import divergence
from alignment.studies.response_table import tabular_response_logprobs
from tests.strategies import TABLE, policy_tables


@given(expert=policy_tables(0.7), policy=policy_tables(0.7))
def test_estimates_of_the_optimal_discriminator_are_the_exact_divergences(expert, policy):
    # Means over a sample become expectations when each response occurs in exact proportion, so
    # both distributions are rounded to thousandths first.
    def counts(logits):
        p = tabular_response_logprobs(logits, TABLE).exp()
        n = (1000 * p).round().clamp(min=1).long()
        return n, n / n.sum().double()

    num_expert, p = counts(expert)
    num_policy, q = counts(policy)
    optimal = p.log() - q.log()
    found = discriminator_estimates(
        optimal.repeat_interleave(num_expert), optimal.repeat_interleave(num_policy)
    )
    for name in ("forward_kl", "reverse_kl", "jensen_shannon"):
        exact = divergence(name).value(p, q)
        torch.testing.assert_close(found[f"{name}_estimate"], exact, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(found["calibration_expert"], found["calibration_policy"])
    # The optimal discriminator is right on both classes: 1/2 + 1/2 total variation
    accuracy = 0.5 + 0.25 * (p - q).abs().sum()
    torch.testing.assert_close(found["accuracy"], accuracy, atol=1e-12, rtol=0.0)


def test_hand_computed_estimates():
    found = discriminator_estimates(
        torch.tensor([math.log(3.0), -math.log(3.0)]), torch.tensor([-math.log(3.0)])
    )
    # D = 3/4 and 1/4 on expert responses, 1/4 on the policy's
    assert found["accuracy"].item() == pytest.approx((0.5 + 1.0) / 2)
    assert found["logit_expert"].item() == pytest.approx(0.0)
    assert found["logit_policy"].item() == pytest.approx(-math.log(3.0))
    assert found["calibration_expert"].item() == pytest.approx(0.5)
    assert found["calibration_policy"].item() == pytest.approx(0.25)
    assert found["forward_kl_estimate"].item() == pytest.approx(0.0)
    assert found["reverse_kl_estimate"].item() == pytest.approx(math.log(3.0))
    cross_entropies = -(math.log(0.75) + math.log(0.25)) / 2 - math.log(0.75)
    assert found["jensen_shannon_estimate"].item() == pytest.approx(
        math.log(2.0) - cross_entropies / 2
    )


def test_a_discriminator_without_an_opinion_is_half_right():
    found = discriminator_estimates(torch.zeros(3), torch.zeros(5))
    assert found["accuracy"].item() == found["auc"].item() == 0.5
    assert found["calibration_expert"].item() == found["calibration_policy"].item() == 0.5
    assert found["jensen_shannon_estimate"].item() == pytest.approx(0.0, abs=1e-7)


@given(*[st.lists(st.integers(-3, 3), min_size=1, max_size=9)] * 2, st.floats(-5, 5))
def test_the_area_is_the_share_of_pairs_in_order_whatever_the_offset(expert, policy, offset):
    pairs = [(e > p) + (e == p) / 2 for e in expert for p in policy]
    found = area_under_curve(torch.tensor(expert) + offset, torch.tensor(policy) + offset)
    assert found.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_estimates_of_nothing_are_an_error():
    with pytest.raises(ValueError, match="expert and policy responses, got 0 and 2"):
        discriminator_estimates(torch.zeros(0), torch.zeros(2))
