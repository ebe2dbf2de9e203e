"""Theorem 9: the gradient that each estimator of KL(policy, reference) has in each place.

Responses here are single tokens, so that a state's divergence is the response's.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.credit.reference_kl import k1_penalty, k2_loss, k3_loss
from tests.strategies import floats64
from tests.theorems.tabular import EXACT, gradient, kl, random_logits

SIZE = 5
ONE_TOKEN_EACH = torch.arange(SIZE)
logits = floats64(SIZE, -1.5, 1.5)
pairs = st.tuples(logits, logits)
every_pair = given(pair=pairs)
every_seed = pytest.mark.parametrize("seed", range(3))


def k1_values(policy_logprobs, reference_logprobs):
    """With gradient, which k1_penalty never has."""
    return policy_logprobs - reference_logprobs


def values_of(loss):
    """Turn a loss over a microbatch into the value of each outcome."""

    def values(policy_logprobs, reference_logprobs):
        rows = zip(policy_logprobs.split(1), reference_logprobs.split(1), strict=True)
        return torch.stack([loss(policy, other, num_sequences=1) for policy, other in rows])

    return values


k2_values, k3_values = values_of(k2_loss), values_of(k3_loss)


def reverse(reference):
    return lambda logits: kl(logits.softmax(0), reference.softmax(0))


def forward(reference):
    return lambda logits: kl(reference.softmax(0), logits.softmax(0))


def as_loss(values, policy, reference):
    """Expected gradient of the value of a sampled outcome."""
    chance = policy.softmax(0)
    other = reference.log_softmax(0)
    return gradient(lambda logits: (chance * values(logits.log_softmax(0), other)).sum(), policy)


def as_reward(values, policy, reference):
    """Expected score-function gradient with the value as a constant cost."""
    costs = values(policy.log_softmax(0), reference.log_softmax(0))
    chance = policy.softmax(0)
    return gradient(lambda logits: (chance * costs * logits.log_softmax(0)).sum(), policy)


def as_weighted_loss(values, policy, reference):
    """Expected gradient of importance ratio times value, through both."""
    chance, other = policy.softmax(0), reference.log_softmax(0)

    def loss(logits):
        ratios = (logits.log_softmax(0) - policy.log_softmax(0)).exp()
        return (chance * ratios * values(logits.log_softmax(0), other)).sum()

    return gradient(loss, policy)


@every_pair
def test_k1_and_k3_are_unbiased_values_and_k2_is_not(pair):
    policy, reference = pair
    q, other = policy.softmax(0), reference.log_softmax(0)
    exact = kl(q, reference.softmax(0))
    for values in (k1_values, k3_values):
        torch.testing.assert_close((q * values(q.log(), other)).sum(), exact, **EXACT)
    penalty = k1_penalty(q.log(), other, ONE_TOKEN_EACH, SIZE)
    torch.testing.assert_close(penalty, k1_values(q.log(), other), **EXACT)
    # E[k2] = 1/2 E[(log q/reference)^2]
    second_moment = (q * (q.log() - other).square()).sum()
    torch.testing.assert_close((q * k2_values(q.log(), other)).sum(), second_moment / 2, **EXACT)


@every_pair
def test_as_a_reward_only_k1_is_exact(pair):
    policy, reference = pair
    exact = gradient(reverse(reference), policy)
    torch.testing.assert_close(as_reward(k1_values, *pair), exact, **EXACT)
    difference = exact - gradient(forward(reference), policy)
    torch.testing.assert_close(as_reward(k3_values, *pair), difference, **EXACT)


@every_pair
def test_as_a_loss_k1_is_nothing_k2_is_reverse_and_k3_is_forward(pair):
    policy, reference = pair
    zero = torch.zeros_like(policy)
    torch.testing.assert_close(as_loss(k1_values, *pair), zero, **EXACT)
    exact = gradient(reverse(reference), policy)
    torch.testing.assert_close(as_loss(k2_values, *pair), exact, **EXACT)
    other_way = gradient(forward(reference), policy)
    torch.testing.assert_close(as_loss(k3_values, *pair), other_way, **EXACT)


@every_pair
def test_as_a_loss_with_a_differentiated_ratio_k1_and_k3_are_exact(pair):
    policy, reference = pair
    exact = gradient(reverse(reference), policy)
    for values in (k1_values, k3_values):
        torch.testing.assert_close(as_weighted_loss(values, *pair), exact, **EXACT)


@every_seed
def test_k2_is_wrong_in_the_other_two_places_and_forward_is_not_reverse(seed):
    policy, reference = random_logits(seed, 2, SIZE).unbind()
    exact = gradient(reverse(reference), policy)
    for wrong in (
        as_reward(k2_values, policy, reference),
        as_weighted_loss(k2_values, policy, reference),
        as_reward(k3_values, policy, reference),
        as_loss(k3_values, policy, reference),
    ):
        assert (wrong - exact).norm() > 0.05 * exact.norm()


@given(reference=logits, bonus=st.floats(0.0, 2.0))
def test_an_entropy_bonus_flattens_what_reverse_kl_aims_at(reference, bonus):
    # KL(q, reference) - bonus * entropy is smallest at reference^(1 / (1 + bonus)): no gradient
    def loss(logits):
        q = logits.softmax(0)
        return reverse(reference)(logits) + bonus * (q * q.log()).sum()

    slope = gradient(loss, reference / (1.0 + bonus))
    torch.testing.assert_close(slope, torch.zeros(SIZE, dtype=torch.float64), **EXACT)
