import math
from typing import get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from actors import config
from alignment.divergences import DIVERGENCES, clip_logits, divergence
from tests.strategies import distributions

every_divergence = pytest.mark.parametrize("name", list(DIVERGENCES))


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


PAIR_A = f64(0.9, 0.1), f64(0.1, 0.9)
PAIR_B = f64(0.6, 0.3, 0.1), f64(0.2, 0.3, 0.5)
LOGITS = f64(-2.0, -0.5, 0.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("name", "pair", "value"),
    [
        # A: 0.9 log 9 + 0.1 log(1/9) = 0.8 log 9 = 1.757780, and the mirror image for the reverse.
        ("forward_kl", PAIR_A, 1.757780),
        ("reverse_kl", PAIR_A, 1.757780),
        # A: the mixture is (1/2, 1/2), so JS = log 2 - entropy(0.9, 0.1) = 0.693147 - 0.325083
        ("jensen_shannon", PAIR_A, 0.368064),
        # B: 0.6 log 3 + 0.3 log 1 + 0.1 log(1/5), then 0.2 log(1/3) + 0.5 log 5
        ("forward_kl", PAIR_B, 0.498224),
        ("reverse_kl", PAIR_B, 0.584996),
        ("jensen_shannon", PAIR_B, 0.125101),
    ],
)
def test_golden_values(name, pair, value):
    assert divergence(name).value(*pair).item() == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        ("forward_kl", [0.135335, 0.606531, 1.0, 1.648721, 7.389056]),
        ("reverse_kl", [-2.0, -0.5, 0.0, 0.5, 2.0]),
        # half of softplus
        ("jensen_shannon", [0.063464, 0.2370385, 0.3465735, 0.4870385, 1.063464]),
    ],
)
def test_golden_rewards(name, rewards):
    torch.testing.assert_close(divergence(name).reward(LOGITS), f64(*rewards), atol=5e-7, rtol=0.0)


@given(expert=distributions(5), policy=distributions(5))
def test_values_are_the_textbook_sums(expert, policy):
    middle = (expert + policy) / 2

    def kl(a, b):
        return (a * (a / b).log()).sum()

    def value(name):
        return divergence(name).value(expert, policy)

    close = {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(value("forward_kl"), kl(expert, policy), **close)
    torch.testing.assert_close(value("reverse_kl"), kl(policy, expert), **close)
    jensen_shannon = 0.5 * kl(expert, middle) + 0.5 * kl(policy, middle)
    torch.testing.assert_close(value("jensen_shannon"), jensen_shannon, **close)


@every_divergence
@given(expert=distributions(4), policy=distributions(4))
def test_zero_only_for_equal_distributions(name, expert, policy):
    record = divergence(name)
    assert abs(record.value(expert, expert).item()) < 1e-15
    assume((expert - policy).abs().max() > 1e-3)
    assert record.value(expert, policy).item() > 1e-8


@pytest.mark.parametrize(
    ("name", "unreachable", "unwanted"),
    [
        # p = (1/2, 1/2, 0): what the policy cannot say, then what only the policy says
        ("forward_kl", math.inf, math.log(2.0)),
        ("reverse_kl", math.log(2.0), math.inf),
        # Mixture (3/4, 1/4): 1/2 [1/2 log(2/3) + 1/2 log 2] + 1/2 log(4/3), and it is symmetric
        ("jensen_shannon", 0.75 * math.log(4 / 3), 0.75 * math.log(4 / 3)),
    ],
)
def test_zero_probabilities(name, unreachable, unwanted):
    wide, narrow = f64(0.5, 0.5, 0.0), f64(1.0, 0.0, 0.0)
    record = divergence(name)
    assert record.value(wide, narrow).item() == pytest.approx(unreachable, abs=1e-15)
    assert record.value(narrow, wide).item() == pytest.approx(unwanted, abs=1e-15)
    assert record.value(narrow, narrow).item() == 0.0


@every_divergence
def test_prices_of_zero_probability_are_the_limits_of_the_generator(name):
    record = divergence(name)
    small, large = f64(1e-12), f64(1e12)
    for limit, seen in (
        (record.at_zero, record.generator(small)),
        (record.slope_at_infinity, record.generator(large) / large),
    ):
        if math.isinf(limit):
            assert seen.item() > 20.0
        else:
            assert seen.item() == pytest.approx(limit, abs=1e-10)


@every_divergence
@given(logit=st.floats(-8.0, 8.0))
def test_derivative_and_reward_follow_from_the_generator(name, logit):
    record = divergence(name)
    ratio = f64(math.exp(logit)).requires_grad_()
    value = record.generator(ratio).sum()
    (derivative,) = torch.autograd.grad(value, ratio)
    torch.testing.assert_close(record.derivative(ratio), derivative)
    # r = u f' - f up to the constant that makes r equal at h = 0
    exact = ratio * derivative - value
    constant = record.derivative(f64(1.0)) - record.generator(f64(1.0))
    reward = record.reward(f64(logit)) - record.reward(f64(0.0))
    torch.testing.assert_close(reward, exact - constant, atol=1e-10, rtol=1e-10)


@every_divergence
@given(policy=distributions(6), expert=distributions(6))
def test_reward_is_the_exact_gradient_of_the_divergence(name, expert, policy):
    logits = policy.log().requires_grad_()
    record = divergence(name)
    (exact,) = torch.autograd.grad(-record.value(expert, logits.softmax(0)), logits)
    reward = record.reward(expert.log() - policy.log())
    (sampled,) = torch.autograd.grad((policy * reward * logits.log_softmax(0)).sum(), logits)
    torch.testing.assert_close(sampled, exact, atol=1e-10, rtol=1e-10)


@every_divergence
def test_generator_is_convex_and_reward_increases(name):
    record = divergence(name)
    assert record.generator(f64(1.0)).item() == 0.0
    ratios = torch.linspace(0.01, 20.0, 500, dtype=torch.float64)
    assert (record.derivative(ratios).diff() > 0).all()
    low, high = record.safe_logits
    assert (record.reward(torch.linspace(low, high, 500, dtype=torch.float64)).diff() > 0).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("forward_kl", -10.0, math.log(10.0)),
        ("reverse_kl", -10.0, 10.0),
        ("jensen_shannon", -10.0, 10.0),
    ],
)
def test_logits_are_clipped_to_the_safe_range_and_counted(name, low, high):
    logits = f64(-11.0, low, 0.3, high, 11.0)
    clipped = clip_logits(logits, divergence(name))
    assert clipped.logits.tolist() == [low, low, 0.3, high, high]
    assert clipped.was_clipped.tolist() == [True, False, False, False, True]


def test_unknown_name_is_an_error_that_names_the_choices():
    with pytest.raises(
        ValueError,
        match=r"unknown divergence 'reverse-kl'; did you mean reverse_kl\? choose one of "
        r"forward_kl, reverse_kl, jensen_shannon",
    ):
        divergence("reverse-kl")
    with pytest.raises(ValueError, match=r"unknown divergence 'total'; choose one of forward_kl"):
        divergence("total")


def test_unknown_parameter_is_an_error():
    with pytest.raises(ValueError, match=r"forward_kl has no parameter \['alpha'\].*none"):
        divergence("forward_kl", alpha=0.5)


@pytest.mark.parametrize("wrong", [f64(0.5, 0.6), f64(1.5, -0.5), f64(math.nan, 0.5)])
def test_what_is_no_distribution_is_an_error(wrong):
    fine = f64(0.5, 0.5)
    with pytest.raises(ValueError, match="policy must be probabilities that sum to 1"):
        divergence("forward_kl").value(fine, wrong)
    with pytest.raises(ValueError, match="expert must be probabilities that sum to 1"):
        divergence("forward_kl").value(wrong, fine)


def test_every_divergence_of_the_configuration_exists_under_its_own_name():
    assert set(get_args(config.Divergence)) == set(DIVERGENCES)
    assert [divergence(name).name for name in DIVERGENCES] == list(DIVERGENCES)
