"""Which divergences reveal a reward, and what they say of it."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.divergences.lookup import DIVERGENCES, divergence
from alignment.preferences.implicit_reward import check_direct_divergence, implicit_rewards
from tests.alignment.divergences.records import GENUINE, RECORDS, f64, over

BETA = 0.7


def is_allowed(record):
    try:
        check_direct_divergence(record)
    except ValueError:
        return False
    return True


DIRECT = [record for record in RECORDS if is_allowed(record)]


def test_which_divergences_reveal_a_reward():
    assert {record.name for record in DIRECT} == {
        *("forward_kl", "reverse_kl", "jensen_shannon", "jeffreys", "alpha", "squared_hellinger"),
        *("pearson_chi2", "generalized_js", "skew_reverse_kl", "skew_forward_kl"),
    }
    for weight in (0.0, 0.3, 1.0, 1.5):
        assert is_allowed(divergence("alpha", alpha=weight))
    for weight in (0.0, 0.3, 1.0):
        assert is_allowed(divergence("generalized_js", beta=weight))
    for weight in (0.0, 0.3, 0.99):
        assert is_allowed(divergence("skew_reverse_kl", skew=weight))
    assert is_allowed(divergence("skew_forward_kl", skew=0.0))  # is forward KL
    for weight in (0.001, 0.7):
        assert not is_allowed(divergence("skew_forward_kl", skew=weight))
    for weight in (-1e-6, -1.5):
        assert not is_allowed(divergence("alpha", alpha=weight))


@over(GENUINE)
def test_an_allowed_divergence_brings_back_any_response_and_no_other_does(record):
    # Two responses, rewards 0 and 200, equal reference: all but forgotten, at e^-700, the worse one
    # should gain probability again if the divergence is to keep full support. d/dq of
    # q_bad R_bad + q_good R_good - D is R_bad + r(h_bad) - R_good - r(h_good).
    h_bad, h_good = f64(700.0 - math.log(2.0)), f64(-math.log(2.0))
    slope = record.reward(h_bad) - record.reward(h_good) - 200.0
    assert bool(slope > 0) == (record in DIRECT)


@pytest.mark.parametrize(
    ("generator", "allowed"),
    [
        ("relative_entropy", True),
        ("reversed_entropy", True),
        ("mean_of_both", True),
        ("square", True),
        ("roots", True),
        ("triangle", False),
        ("kinked", False),
        ("quartic_over_cubic", False),
    ],
)
def test_a_generator_of_the_users_own_is_judged_by_the_same_rule(generator, allowed):
    record = divergence(f"tests.alignment.divergences.own_generators:{generator}")
    assert is_allowed(record) == allowed


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "le_cam",
            r"le_cam cannot be .*its reward 4 D\^2.* is bounded.*may give responses probability 0",
        ),
        ("total_variation", r"total_variation cannot be .* is bounded"),
        ("neyman_chi2", r"its reward -2 e\^\(-h\) is bounded"),
        ("log_d", r"its reward log D"),
        ("fairl", "fairl cannot be .*it is not an f-divergence"),
        ("wasserstein", "wasserstein cannot be .*it is not an f-divergence"),
    ],
)
def test_a_refusal_names_the_divergence_the_reason_and_what_to_use(name, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        check_direct_divergence(divergence(name))
    offered = set(re.findall(r"\w+", str(caught.value).split("; use ")[1])) & set(DIVERGENCES)
    assert offered == {record.name for record in DIRECT} - {"skew_forward_kl"}


@pytest.mark.parametrize(
    ("name", "parameters", "formula"),
    [
        ("reverse_kl", {}, lambda ratio: ratio),
        ("forward_kl", {}, lambda ratio: -(-ratio).exp()),
        ("jensen_shannon", {}, lambda ratio: 0.5 * torch.nn.functional.logsigmoid(ratio)),
        ("alpha", {"alpha": 0.5}, lambda ratio: -2.0 * ((-0.5 * ratio).exp() - 1.0)),
        ("squared_hellinger", {}, lambda ratio: -(-0.5 * ratio).exp()),
        ("pearson_chi2", {}, lambda ratio: -(-2.0 * ratio).exp()),
        ("jeffreys", {}, lambda ratio: ratio - (-ratio).exp()),
    ],
)
def test_hand_written_rewards(name, parameters, formula):
    record = divergence(name, **parameters)
    ratios = f64(-1.5, -0.4, 0.0, 0.8, 4.0)
    found = implicit_rewards(ratios, record, beta=BETA)
    torch.testing.assert_close(found.values, BETA * formula(ratios), atol=1e-12, rtol=1e-12)
    assert not found.is_on_tangent.any()


@over(DIRECT)
def test_rewards_rise_everywhere_and_never_steeper_than_at_the_ends_of_the_safe_range(record):
    low, high = record.safe_logits
    ratios = torch.linspace(-40.0, 40.0, 801, dtype=torch.float64).requires_grad_()
    found = implicit_rewards(ratios, record, beta=BETA)
    (slopes,) = torch.autograd.grad(found.values.sum(), ratios)
    assert (slopes > 0).all()
    outside = (-ratios < low) | (-ratios > high)
    assert found.is_on_tangent.tolist() == outside.tolist()
    # The tangent touches: value and slope are those of the reward at the range's end
    end = f64(high).requires_grad_()
    (steepness,) = torch.autograd.grad(record.reward(end).sum(), end)
    far = ratios[-ratios > high + 1.0]
    expected = -BETA * (record.reward(end) + steepness * (-far - high))
    values = found.values[-ratios > high + 1.0]
    torch.testing.assert_close(values, expected, atol=1e-9, rtol=1e-9)
    below = -ratios < low
    end = f64(low).requires_grad_()
    (steepness,) = torch.autograd.grad(record.reward(end).sum(), end)
    torch.testing.assert_close(
        slopes[below], BETA * steepness.expand(int(below.sum())), atol=1e-12, rtol=1e-6
    )


@given(ratio=st.sampled_from([-1e4, 1e4, -100.0, 100.0]))
def test_reverse_kl_is_the_log_ratio_itself_however_far(ratio):
    given_ratio = torch.tensor([ratio], requires_grad=True)
    found = implicit_rewards(given_ratio, divergence("reverse_kl"), beta=0.25)
    found.values.sum().backward()
    assert found.values.item() == 0.25 * ratio
    assert given_ratio.grad.item() == 0.25


@over(DIRECT)
def test_the_slope_at_the_very_end_of_the_safe_range_is_counted_once(record):
    for end in record.safe_logits:
        ratios = f64(-end, -end - 1e-6, -end + 1e-6).requires_grad_()
        found = implicit_rewards(ratios, record, beta=BETA)
        (slopes,) = torch.autograd.grad(found.values.sum(), ratios)
        torch.testing.assert_close(slopes, slopes[:1].expand(3), atol=1e-12, rtol=1e-4)


def test_a_broken_log_ratio_is_not_hidden():
    found = implicit_rewards(f64(math.nan, 0.0), divergence("forward_kl"), beta=BETA)
    assert found.values.isnan().tolist() == [True, False]


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_not_positive_is_an_error(beta):
    with pytest.raises(ValueError, match=f"beta must be positive and finite; it is {beta}"):
        implicit_rewards(torch.zeros(1), divergence("reverse_kl"), beta=beta)
