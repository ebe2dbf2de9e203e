"""A generator's parts fit together: derivatives, limits, critic."""

import math

import pytest
import torch

from alignment.divergences.lookup import divergence
from tests.alignment.divergences.records import CURVED, GENUINE, RECORDS, f64, log_grid, over

RATIOS = log_grid(-4.0, 4.0, 42).exp()  # 1, where total variation has its kink, is left out
FINE = log_grid(-9.0, 9.0, 60_001).exp()
EXPERT, POLICY = f64(0.5, 0.3, 0.15, 0.05), f64(0.1, 0.2, 0.3, 0.4)


def slope_of(function, points):
    points = points.clone().requires_grad_()
    values = function(points)
    return torch.autograd.grad(values.sum(), points)[0]


def assert_close(found, exact, tolerance=1e-10):
    torch.testing.assert_close(found, exact, atol=tolerance, rtol=tolerance)


@over(GENUINE)
def test_derivatives_are_those_of_the_generator(record):
    f = record.generator
    assert f.f(f64(1.0)).item() == 0.0
    assert_close(f.derivative(RATIOS), slope_of(f.f, RATIOS), 1e-9)
    assert_close(f.second_derivative(RATIOS), slope_of(f.derivative, RATIOS), 1e-9)
    assert (f.second_derivative(RATIOS) > 0.0).all() or record.name == "total_variation"
    assert (f.derivative(RATIOS).diff() >= 0.0).all()


@over(GENUINE)
def test_reward_is_u_times_derivative_minus_generator(record):
    f = record.generator
    exact = RATIOS * f.derivative(RATIOS) - f.f(RATIOS)
    found = record.reward(RATIOS.log())
    assert_close(found - found[0], exact - exact[0], 1e-9)


@over(GENUINE)
def test_prices_of_zero_probability_are_the_limits_of_the_generator(record):
    f = record.generator
    small, large = f64(1e-60), f64(1e60)
    for limit, seen in (
        (f.at_zero, f.f(small).item()),
        (f.slope_at_infinity, (f.f(large) / large).item()),
    ):
        if math.isinf(limit):
            assert seen > 100.0
        else:
            assert seen == pytest.approx(limit, rel=1e-9, abs=1e-12)


@over(CURVED)
def test_critic_attains_the_divergence_at_the_optimal_logit_and_nowhere_else(record):
    def bound(h):
        return (EXPERT * record.critic(h)).sum() - (POLICY * record.critic_cost(h)).sum()

    optimal = (EXPERT / POLICY).log()
    value = record.value(EXPERT, POLICY)
    assert_close(bound(optimal), value)
    assert slope_of(bound, optimal).abs().max() < 1e-12
    for shift in (f64(0.1, 0.0, 0.0, 0.0), f64(-0.3, 0.2, 0.0, 1.0)):
        assert bound(optimal + shift) < value
        assert bound(optimal - shift) < value


@over(CURVED)
def test_critic_cost_is_the_conjugate_of_the_generator_at_the_critic(record):
    logits = RATIOS.log()
    critic, cost = record.critic(logits), record.critic_cost(logits)
    searched = (FINE * critic[:, None] - record.generator.f(FINE)).max(1).values
    # No ratio does better, and on a grid this fine some ratio does almost as well.
    assert (searched <= cost + 1e-9 * (1.0 + cost.abs())).all()
    torch.testing.assert_close(searched, cost, atol=1e-6, rtol=1e-6)


@over(CURVED)
def test_critic_and_its_gradient_are_the_same_in_float32(record):
    h = log_grid(*record.safe_logits, 101)
    for function in (record.critic, record.critic_cost):
        torch.testing.assert_close(function(h.float()).double(), function(h), atol=1e-5, rtol=1e-5)
        found, exact = slope_of(function, h.float()).double(), slope_of(function, h)
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)


def test_a_divergence_without_a_trainable_critic_says_so():
    h = f64(0.0)
    with pytest.raises(ValueError, match=r"total_variation has no variational critic .* piecewise"):
        divergence("total_variation").critic(h)
    for name in ("fairl", "wasserstein"):
        with pytest.raises(
            ValueError, match=f"{name} has no variational critic, as it is not an f-div"
        ):
            divergence(name).critic_cost(h)
        with pytest.raises(ValueError, match=f"{name} has no value, as it is not an f-div.*; use "):
            divergence(name).value(EXPERT, POLICY)


def test_only_these_have_no_generator():
    assert {each.name for each in RECORDS if not each.generator} == {"fairl", "wasserstein"}
