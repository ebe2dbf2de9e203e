"""Rewards are finite and exact in float32 within the safe range, and everything gets into it."""

import math

import pytest
import torch

from alignment.divergences.lookup import divergence
from alignment.divergences.mixtures import log_mixture
from alignment.divergences.record import clip_logits
from tests.alignment.divergences.records import RECORDS, f64, log_grid, over


@pytest.mark.parametrize(
    ("name", "parameters", "low", "high"),
    [
        ("forward_kl", {}, -10.0, math.log(10.0)),
        ("reverse_kl", {}, -10.0, 10.0),
        ("jensen_shannon", {}, -10.0, 10.0),
        ("jeffreys", {}, -10.0, math.log(10.0)),
        ("squared_hellinger", {}, -10.0, 10.0),
        ("pearson_chi2", {}, -10.0, 2.0),
        ("neyman_chi2", {}, -3.0, 10.0),
        ("alpha", {"alpha": 0.0}, -10.0, 10.0),
        ("alpha", {"alpha": 0.1}, -10.0, 10.0),
        ("alpha", {"alpha": 1.0}, -10.0, math.log(10.0)),  # as forward KL
        ("alpha", {"alpha": 2.0}, -10.0, 0.5 * math.log(10.0)),
        ("alpha", {"alpha": -1.0}, -math.log(10.0), 10.0),
        ("generalized_js", {"beta": 0.0}, -10.0, math.log(10.0)),  # as forward KL
        ("skew_forward_kl", {"skew": 0.0}, -10.0, math.log(10.0)),  # as forward KL
        ("skew_forward_kl", {"skew": 0.05}, -10.0, -math.log(0.1 - 0.05 / 0.95)),  # reward 10
        ("skew_forward_kl", {"skew": 0.1}, -10.0, 10.0),  # its reward is below 9 anyway
        ("wasserstein", {}, -1000.0, 1000.0),
    ],
)
def test_logits_are_clipped_to_the_safe_range_and_counted(name, parameters, low, high):
    logits = f64(low - 1.0, low + 1e-9, 0.3, high - 1e-9, high + 1.0)
    clipped = clip_logits(logits, divergence(name, **parameters))
    expected = f64(low, low + 1e-9, 0.3, high - 1e-9, high)
    torch.testing.assert_close(clipped.logits, expected, atol=1e-12, rtol=0.0)
    assert clipped.was_clipped.tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.7, 1.0])
def test_the_reward_of_the_generalized_divergence_stops_at_nine(beta):
    record = divergence("generalized_js", beta=beta)
    assert record.reward(f64(record.safe_logits[1])).item() == pytest.approx(9.0, abs=1e-9)


@over(RECORDS)
def test_any_logit_has_a_finite_reward_in_float32(record):
    logits = torch.tensor([-math.inf, -1e30, -90.0, 0.0, 90.0, 1e30, math.inf])
    clipped = clip_logits(logits, record)
    assert clipped.was_clipped[[0, 1, 5, 6]].all()
    assert not clipped.was_clipped[3]
    rewards = record.reward(clipped.logits)
    assert rewards.isfinite().all()
    assert rewards[0] == rewards[1]
    assert rewards[-1] == rewards[-2]


def test_a_broken_discriminator_is_not_hidden():
    clipped = clip_logits(torch.tensor([math.nan, 0.0]), divergence("forward_kl"))
    assert clipped.logits.isnan().tolist() == [True, False]
    assert clipped.was_clipped.tolist() == [False, False]


@over(RECORDS)
def test_rewards_are_the_same_in_float32(record):
    logits = log_grid(*record.safe_logits, 101).float()
    exact = record.reward(logits.double())
    torch.testing.assert_close(record.reward(logits).double(), exact, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("weight", [0.0, 1e-12, 0.3, 0.5, 0.8, 1.0 - 1e-12, 1.0])
def test_log_of_a_mixture_loses_no_digits(weight):
    for logit in (-12.0, -1e-8, 0.0, 1e-8, 12.0):
        found = log_mixture(f64(logit), weight).item()
        # log(1 + w (e^h - 1)), of which the smaller of two equal forms is computed
        if weight < 0.5:
            exact = math.log1p(weight * math.expm1(logit))
        else:
            exact = logit + math.log1p((1.0 - weight) * math.expm1(-logit))
        assert found == pytest.approx(exact, rel=1e-14, abs=1e-300)
        direct = math.log(weight * math.exp(logit) + (1.0 - weight))
        assert found == pytest.approx(direct, rel=1e-9, abs=1e-15)
