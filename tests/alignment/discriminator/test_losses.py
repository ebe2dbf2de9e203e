import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.discriminator.losses import (
    cross_entropy_costs,
    group_levels,
    least_squares_costs,
    length_slope,
    pairwise_expansion,
    pairwise_loss,
    variational_costs,
    wasserstein_costs,
)
from alignment.divergences.lookup import divergence

few_examples = settings(max_examples=20, deadline=None)  # the first one starts autograd
probability = st.floats(0.05, 0.95)
COSTS = {
    "cross_entropy": cross_entropy_costs,
    "least_squares": least_squares_costs,
    "variational": lambda logits, is_expert, label_smoothing: variational_costs(
        logits, is_expert, divergence("jensen_shannon"), label_smoothing=label_smoothing
    ),
}
EXPERT, POLICY = torch.tensor([True]), torch.tensor([False])
every_loss = pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def distribution(first):
    return torch.tensor([first, 1.0 - first], dtype=torch.float64)


def expected(costs, logits, expert, policy):
    """E_expert[cost] + E_policy[cost] of a logit for each response."""
    everywhere = torch.ones(len(logits), dtype=torch.bool)
    return (expert * costs(logits, everywhere) + policy * costs(logits, ~everywhere)).sum()


def smoothed_optimum(u, smoothing):
    return (((1 - smoothing) * u + smoothing) / (smoothing * u + 1 - smoothing)).log()


def test_hand_computed_cross_entropy():
    # D = 3/4 on a demonstration and on a rollout; a label is wrong with probability 0.1.
    logit = number(math.log(3.0))
    expert = cross_entropy_costs(logit, EXPERT, label_smoothing=0.1)
    policy = cross_entropy_costs(logit, POLICY, label_smoothing=0.1)
    assert math.isclose(expert.item(), -0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4))
    assert math.isclose(policy.item(), -0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4))


def test_hand_computed_brier_score():
    logit = number(math.log(3.0))
    expert = least_squares_costs(logit, EXPERT, label_smoothing=0.0)
    policy = least_squares_costs(logit, POLICY, label_smoothing=0.2)
    assert math.isclose(expert.item(), (1 - 3 / 4) ** 2)
    assert math.isclose(policy.item(), 0.8 * (3 / 4) ** 2 + 0.2 * (1 / 4) ** 2)


def test_hand_computed_variational_bound():
    # Reverse KL: f(u) = -log u, T = f'(e^h) = -e^-h, f*(T) = -1 - log(-T) = h - 1.
    record, logit = divergence("reverse_kl"), number(math.log(3.0))
    expert = variational_costs(logit, EXPERT, record, label_smoothing=0.0)
    policy = variational_costs(logit, POLICY, record, label_smoothing=0.0)
    assert math.isclose(expert.item(), 1 / 3)
    assert math.isclose(policy.item(), math.log(3.0) - 1)


def test_hand_computed_critic():
    costs = wasserstein_costs(torch.tensor([2.0, 5.0]), torch.tensor([True, False]))
    assert costs.tolist() == [-2.0, 5.0]


def test_hand_computed_pairs():
    # Prompt 0: one demonstration against two rollouts, prompt 1 one against one.
    logits = torch.tensor([1.0, 3.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    is_expert = torch.tensor([False, False, True, False, True])
    loss = pairwise_loss(logits, is_expert, torch.tensor([0, 0, 0, 1, 1]))
    pairs = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(1.0))) / 2
    assert math.isclose(loss.item(), (pairs + math.log(2.0)) / 2)


@every_loss
@few_examples
@given(expert=probability, policy=probability, smoothing=st.sampled_from([0.0, 0.05, 0.3]))
def test_the_optimum_is_the_smoothed_log_ratio(costs, expert, policy, smoothing):
    p, q = distribution(expert), distribution(policy)
    best = smoothed_optimum(p / q, smoothing).requires_grad_()
    loss = expected(lambda h, e: costs(h, e, label_smoothing=smoothing), best, p, q)
    (slope,) = torch.autograd.grad(loss, best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    for step in (-0.1, 0.1):
        beside = best + torch.tensor([step, 0.0], dtype=torch.float64)
        worse = expected(lambda h, e: costs(h, e, label_smoothing=smoothing), beside, p, q)
        assert worse > loss


@pytest.mark.parametrize("smoothing", [0.05, 0.2])
@every_loss
def test_a_response_of_the_expert_alone_stops_at_the_smoothing_bound(costs, smoothing):
    # The policy never gives this response, so without smoothing its logit would grow for ever.
    logit = number(math.log((1 - smoothing) / smoothing)).requires_grad_()
    costs(logit, EXPERT, label_smoothing=smoothing).sum().backward()
    assert abs(logit.grad.item()) < 1e-12


@every_loss
def test_a_meaningless_smoothing_is_an_error(costs):
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        costs(torch.zeros(1), EXPERT, label_smoothing=0.5)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon", "pearson_chi2"])
def test_a_logit_beyond_the_safe_range_is_clipped_and_can_come_back(name):
    record = divergence(name)
    low, high = record.safe_logits

    def cost_and_slope(logit, label):
        logit = number(logit).requires_grad_()
        cost = variational_costs(logit, label, record, label_smoothing=0.0)
        (slope,) = torch.autograd.grad(cost.sum(), logit)
        return cost.item(), slope.item()

    for label in (EXPERT, POLICY):
        for end, beyond in ((low, low - 50.0), (high, high + 50.0)):
            assert cost_and_slope(beyond, label)[0] == cost_and_slope(end, label)[0]
    # Descent moves against the slope: inwards with the strength of the end, outwards not at all.
    assert cost_and_slope(low - 50.0, EXPERT)[1] == cost_and_slope(low, EXPERT)[1] < 0
    assert cost_and_slope(high + 50.0, POLICY)[1] == cost_and_slope(high, POLICY)[1] > 0
    assert cost_and_slope(low - 50.0, POLICY)[1] == 0.0
    assert cost_and_slope(high + 50.0, EXPERT)[1] == 0.0


@few_examples
@given(seed=st.integers(0, 2**16), cut=st.integers(0, 9))
def test_the_expansion_adds_up_to_the_pairwise_loss_in_any_parts(seed, cut):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, generator=rng, dtype=torch.float64).requires_grad_()
    is_expert = torch.tensor([False, True, False, False, True, False, False, False, True])
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    whole = pairwise_loss(logits, is_expert, groups)
    (gradient,) = torch.autograd.grad(whole, logits)
    value, slopes = pairwise_expansion(logits, is_expert, groups)
    parts = [value]
    for part in (slice(None, cut), slice(cut, None)):
        parts.append((slopes[part] * (logits[part] - logits[part].detach())).sum())
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), logits)[0], gradient)


def test_levels_are_log_means_of_each_group_even_of_large_logits():
    logits = torch.tensor([math.log(1.0), 900.0, math.log(3.0), 900.0], dtype=torch.float64)
    levels = group_levels(logits, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(levels, torch.tensor([math.log(2.0), 900.0], dtype=torch.float64))


def test_length_slope_is_that_of_the_line():
    lengths = torch.tensor([1, 3, 4, 8])
    # Lengths less their mean are (-3, -1, 0, 4), to which these residuals are orthogonal.
    residuals = torch.tensor([4.0, 0.0, -1.0, 3.0])
    slope = length_slope(0.25 * lengths + 2.0 + residuals, lengths)
    assert math.isclose(slope, 0.25)
    assert length_slope(torch.tensor([1.0, 2.0]), torch.tensor([5, 5])) == 0.0
