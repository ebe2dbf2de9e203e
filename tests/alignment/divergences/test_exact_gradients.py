"""The expectation of reward times score is the gradient of the divergence, for all of them."""

import pytest
import torch
from hypothesis import given, settings

from alignment.divergences.lookup import divergence
from tests.alignment.divergences.records import GENUINE, RECORDS, f64, kl, log_grid, over
from tests.strategies import distributions, floats64

NUM = 6


def exact_gradient(value, logits):
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(logits.softmax(0)), logits)
    return gradient


def policy_gradient(rewards, logits):
    """E_q[reward * grad log q], with the reward held constant."""
    logits = logits.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    surrogate = (logprobs.exp().detach() * rewards * logprobs).sum()
    return torch.autograd.grad(surrogate, logits)[0]


def assert_equal(found, exact):
    assert (found - exact).abs().max() <= 1e-10 * max(1.0, float(exact.abs().max()))


@over(GENUINE)
@given(expert=distributions(NUM, 2.0), logits=floats64(NUM, -2.0, 2.0))
@settings(max_examples=8)
def test_reward_is_the_exact_gradient_from_expert_to_policy(record, expert, logits):
    rewards = record.reward(expert.log() - logits.log_softmax(0))
    exact = exact_gradient(lambda policy: -record.value(expert, policy), logits)
    assert_equal(policy_gradient(rewards, logits), exact)


@over(GENUINE)
@given(expert=distributions(NUM, 2.0), logits=floats64(NUM, -2.0, 2.0))
@settings(max_examples=8)
def test_minus_derivative_is_the_exact_gradient_from_policy_to_expert(record, expert, logits):
    h = expert.log() - logits.log_softmax(0)
    rewards = -record.generator.derivative((-h).exp())
    exact = exact_gradient(lambda policy: -record.value(policy, expert), logits)
    assert_equal(policy_gradient(rewards, logits), exact)


@over(GENUINE)
def test_the_expert_itself_is_where_the_gradient_vanishes(record):
    logits = f64(0.3, -1.2, 2.0, 0.0)
    expert = logits.softmax(0)
    assert exact_gradient(lambda policy: record.value(expert, policy), logits).abs().max() < 1e-15
    rewards = record.reward(expert.log() - logits.softmax(0).log())  # of logits that are exactly 0
    assert policy_gradient(rewards, logits).abs().max() < 1e-15


@over([record for record in RECORDS if record.name != "fairl"])
def test_reward_never_falls_as_the_logit_rises(record):
    rewards = record.reward(log_grid(*record.safe_logits, 5001))
    assert (rewards.diff() >= 0.0).all()
    assert rewards[-1] > rewards[0]


def test_the_reward_of_fairl_falls_above_minus_one_and_leads_away_from_the_expert():
    h = log_grid(-10.0, 2.0, 12001)  # a thousandth apart
    rewards = divergence("fairl").reward(h)
    assert h[rewards.argmax()].item() == pytest.approx(-1.0, abs=1e-12)
    assert (rewards[h < -1.0 - 1e-9].diff() > 0.0).all()
    assert (rewards[h > -1.0 + 1e-9].diff() < 0.0).all()
    expert = f64(0.5, 0.3, 0.15, 0.05)
    logits = expert.log() + f64(0.02, -0.03, 0.01, 0.05)
    step = policy_gradient(divergence("fairl").reward(expert.log() - logits.log_softmax(0)), logits)
    exact = exact_gradient(lambda policy: -kl(expert, policy), logits)
    assert torch.cosine_similarity(step, exact, dim=0).item() < -0.99
