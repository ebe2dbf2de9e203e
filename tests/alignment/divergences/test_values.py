"""Values of discrete distributions, and rewards, to the digits of tables made independently."""

import math

import pytest
import torch
from hypothesis import assume, given, settings

from alignment.divergences.lookup import divergence
from tests.alignment.divergences.records import GENUINE, f64, kl, over
from tests.strategies import distributions

A = f64(0.9, 0.1), f64(0.1, 0.9)
B = f64(0.6, 0.3, 0.1), f64(0.2, 0.3, 0.5)
GOLDEN = [  # name, parameters, on A, on B, what the table's figure is of ours
    ("forward_kl", {}, 1.757780, 0.498224, 1.0),
    ("reverse_kl", {}, 1.757780, 0.584996, 1.0),
    ("jensen_shannon", {}, 0.368064, 0.125101, 1.0),
    ("total_variation", {}, 0.8, 0.4, 1.0),
    ("squared_hellinger", {}, 0.4, 0.129983, 0.5),  # 1 - sum sqrt(p q)
    ("pearson_chi2", {}, 7.111111, 1.120000, 1.0),
    ("neyman_chi2", {}, 7.111111, 1.866667, 1.0),
    ("alpha", {"alpha": 0.3}, 1.624420, 0.540025, 1.0),
    ("skew_forward_kl", {"skew": 0.1}, 1.238081, 0.397169, 1.0),
    ("skew_reverse_kl", {"skew": 0.1}, 1.238081, 0.430559, 1.0),
]
LOGITS = f64(-2.0, -0.5, 0.0, 0.5, 2.0)


@pytest.mark.parametrize(("name", "parameters", "on_a", "on_b", "factor"), GOLDEN)
def test_golden_values(name, parameters, on_a, on_b, factor):
    record = divergence(name, **parameters)
    assert factor * record.value(*A).item() == pytest.approx(on_a, abs=5e-7)
    assert factor * record.value(*B).item() == pytest.approx(on_b, abs=5e-7)


@pytest.mark.parametrize(
    ("beta", "of_gkd", "normalized"),
    [(0.1, 0.146311, 1.625678), (0.25, 0.285781, 1.524165), (0.5, 0.368064, 1.472256)],
)
def test_golden_values_of_the_generalized_jensen_shannon_divergence(beta, of_gkd, normalized):
    value = divergence("generalized_js", beta=beta).value(*A).item()
    divisor = beta * (1.0 - beta)
    assert divisor * value == pytest.approx(of_gkd, abs=5e-7)
    assert value == pytest.approx(normalized, abs=6e-7 / divisor)  # divided after rounding


@pytest.mark.parametrize(("beta", "value"), [(0.1, 1.116773), (0.25, 0.624700), (0.5, 0.368064)])
def test_golden_values_with_the_weights_of_the_mixture_swapped(beta, value):
    # beta KL(p, m) + (1 - beta) KL(q, m) with m = (1 - beta) p + beta q
    forward = divergence("skew_forward_kl", skew=1.0 - beta).value(*A).item()
    reverse = divergence("skew_reverse_kl", skew=beta).value(*A).item()
    assert beta * forward + (1.0 - beta) * reverse == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize(
    ("name", "factor", "constant", "rewards"),
    [
        ("jensen_shannon", 2.0, 0.0, [0.126928, 0.474077, 0.693147, 0.974077, 2.126928]),
        ("log_d", 1.0, 0.0, [-2.126928, -0.974077, -0.693147, -0.474077, -0.126928]),
        ("forward_kl", 1.0, 0.0, [0.135335, 0.606531, 1.0, 1.648721, 7.389056]),
        ("reverse_kl", 1.0, 0.0, [-2.0, -0.5, 0.0, 0.5, 2.0]),
        ("fairl", 1.0, 0.0, [0.270671, 0.303265, 0.0, -0.824361, -14.778112]),
        ("neyman_chi2", 1.0, 2.0, [-12.778112, -1.297443, 0.0, 0.786939, 1.729329]),
        ("squared_hellinger", 1.0, 0.0, [0.367879, 0.778801, 1.0, 1.284025, 2.718282]),
    ],
)
def test_golden_rewards(name, factor, constant, rewards):
    found = factor * divergence(name).reward(LOGITS) + constant
    torch.testing.assert_close(found, f64(*rewards), atol=5.1e-7, rtol=0.0)


@given(p=distributions(5), q=distributions(5))
@settings(max_examples=10)
def test_values_are_the_textbook_sums(p, q):
    middle = (p + q) / 2.0
    skewed = 0.2 * p + 0.8 * q
    jensen_shannon = 0.5 * kl(p, middle) + 0.5 * kl(q, middle)
    textbook = {
        ("forward_kl",): kl(p, q),
        ("reverse_kl",): kl(q, p),
        ("jensen_shannon",): jensen_shannon,
        ("jeffreys",): kl(p, q) + kl(q, p),
        ("alpha", "alpha", 1.7): ((p**1.7 * q**-0.7).sum() - 1.0) / (1.7 * 0.7),
        ("squared_hellinger",): (p.sqrt() - q.sqrt()).square().sum(),
        ("pearson_chi2",): ((p - q).square() / q).sum(),
        ("neyman_chi2",): ((p - q).square() / p).sum(),
        ("total_variation",): 0.5 * (p - q).abs().sum(),
        ("generalized_js", "beta", 0.2): (0.2 * kl(p, skewed) + 0.8 * kl(q, skewed)) / 0.16,
        ("skew_forward_kl", "skew", 0.2): kl(p, skewed),
        ("skew_reverse_kl", "skew", 0.8): kl(q, skewed),
        ("le_cam",): ((p - q).square() / (p + q)).sum(),
        ("log_d",): kl(q, p) - 2.0 * jensen_shannon,
    }
    for (name, *parameter), exact in textbook.items():
        record = divergence(name, **dict([parameter] if parameter else []))
        torch.testing.assert_close(record.value(p, q), exact, atol=1e-12, rtol=1e-12)


@over(GENUINE)
@given(expert=distributions(4), policy=distributions(4))
@settings(max_examples=8)
def test_zero_only_for_equal_distributions(record, expert, policy):
    assert abs(record.value(expert, expert).item()) < 1e-15
    assume((expert - policy).abs().max() > 1e-3)
    assert record.value(expert, policy).item() > 1e-8


LOG_2, LOG_3 = math.log(2.0), math.log(3.0)


@pytest.mark.parametrize(
    ("name", "unreachable", "unwanted"),
    [
        # wide (1/2, 1/2, 0) to narrow (1, 0, 0): what the policy cannot say; then the other way
        ("forward_kl", math.inf, LOG_2),
        ("reverse_kl", LOG_2, math.inf),
        # Mixture (3/4, 1/4): 1/2 [1/2 log(2/3) + 1/2 log 2] + 1/2 log(4/3), and it is symmetric
        ("jensen_shannon", 0.75 * math.log(4 / 3), 0.75 * math.log(4 / 3)),
        ("jeffreys", math.inf, math.inf),
        ("squared_hellinger", 2.0 - math.sqrt(2.0), 2.0 - math.sqrt(2.0)),
        ("pearson_chi2", math.inf, 1.0),  # wide is the policy: (1/2)^2 / (1/2) twice
        ("neyman_chi2", 1.0, math.inf),
        ("total_variation", 0.5, 0.5),
        ("le_cam", 1 / 6 + 1 / 2, 1 / 6 + 1 / 2),  # (1/2)^2 / (3/2) + (1/2)^2 / (1/2)
        # minus 2 JS = 2 log 2 - 3/2 log 3 from the first
        ("log_d", LOG_2 - 1.5 * math.log(4 / 3), math.inf),
    ],
)
def test_zero_probabilities(name, unreachable, unwanted):
    wide, narrow = f64(0.5, 0.5, 0.0), f64(1.0, 0.0, 0.0)
    record = divergence(name)
    assert record.value(wide, narrow).item() == pytest.approx(unreachable, abs=1e-15)
    assert record.value(narrow, wide).item() == pytest.approx(unwanted, abs=1e-15)
    assert record.value(narrow, narrow).item() == 0.0


@over(GENUINE)
def test_zero_probabilities_are_the_limit_of_small_ones(record):
    wide = f64(0.5, 0.5)
    narrow, almost = f64(1.0, 0.0), f64(1.0 - 1e-15, 1e-15)
    for exact, close in (
        (record.value(wide, narrow), record.value(wide, almost)),
        (record.value(narrow, wide), record.value(almost, wide)),
    ):
        assert close.isfinite()
        if exact.isfinite():
            assert close.item() == pytest.approx(exact.item(), abs=1e-4)
        else:
            assert close > 10.0


@pytest.mark.parametrize("wrong", [f64(0.5, 0.6), f64(1.5, -0.5), f64(math.nan, 0.5)])
def test_what_is_no_distribution_is_an_error(wrong):
    fine = f64(0.5, 0.5)
    with pytest.raises(ValueError, match="policy must be probabilities that sum to 1"):
        divergence("forward_kl").value(fine, wrong)
    with pytest.raises(ValueError, match="expert must be probabilities that sum to 1"):
        divergence("forward_kl").value(wrong, fine)
