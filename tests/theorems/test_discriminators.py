"""Theorem 4: what discriminators find at their optimum, and what follows from it.

Whatever the loss, the best logit is h = log(p / q) up to a known map; f-GAN's bound is then the
divergence itself.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from alignment.discriminator.losses import (
    cross_entropy_costs,
    group_levels,
    least_squares_costs,
    variational_costs,
)
from alignment.discriminator.metrics import discriminator_estimates
from alignment.divergences.lookup import DIVERGENCES, divergence
from tests.theorems.tabular import EXACT, gradient, kl, minimum, random_logits

PARAMETERS = {
    "alpha": [{"alpha": value} for value in (-1.0, 0.5, 2.0)],
    "generalized_js": [{"beta": value} for value in (0.1, 0.9)],
    "skew_forward_kl": [{"skew": 0.1}],
    "skew_reverse_kl": [{"skew": 0.1}],
}
NO_VARIATIONAL_CRITIC = {"fairl", "wasserstein", "total_variation"}
RECORDS = [
    divergence(name, **parameters)
    for name in DIVERGENCES
    for parameters in PARAMETERS.get(name, [{}])
]
every_f_divergence = pytest.mark.parametrize(
    "record", [r for r in RECORDS if r.name not in NO_VARIATIONAL_CRITIC], ids=lambda r: r.name
)
seeds = st.integers(0, 2**16)
few_examples = settings(max_examples=10, deadline=None)


def random_pair(seed):
    """An expert and a policy over five responses, with log-ratios within every safe range."""
    return random_logits(seed, 2, 5, scale=0.3).softmax(-1).unbind()


def everywhere(logits, is_expert):
    return torch.full((len(logits),), is_expert)


def expected(costs, logits, p, q):
    return (p * costs(logits, everywhere(logits, True))).sum() + (
        q * costs(logits, everywhere(logits, False))
    ).sum()


@every_f_divergence
@few_examples
@given(seed=seeds)
def test_the_variational_bound_is_the_divergence_at_the_log_ratio_and_less_elsewhere(record, seed):
    p, q = random_pair(seed)
    h = (p / q).log()

    def loss(logits):
        return expected(
            lambda x, e: variational_costs(x, e, record, label_smoothing=0.0), logits, p, q
        )

    slope = gradient(loss, h)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)
    torch.testing.assert_close(-loss(h), record.value(p, q), atol=1e-9, rtol=0)
    for step in 0.05 * random_logits(seed + 1, 5, 5):
        assert loss(h + step) > loss(h)


@few_examples
@given(seed=seeds)
@pytest.mark.parametrize("costs", [cross_entropy_costs, least_squares_costs])
def test_proper_scores_have_their_minimum_at_the_log_ratio(costs, seed):
    p, q = random_pair(seed)

    def loss(logits):
        return expected(lambda x, e: costs(x, e, label_smoothing=0.0), logits, p, q)

    found = minimum(loss, torch.zeros_like(p))
    torch.testing.assert_close(found, (p / q).log(), atol=1e-8, rtol=0)


@few_examples
@given(seed=seeds, ratio=st.sampled_from([1.0, 1 / 8, 3.0]))
def test_one_mean_over_both_classes_would_add_the_log_class_ratio(seed, ratio):
    p, q = random_pair(seed)
    offset = (p / q).log() + math.log(ratio)

    def loss(logits):
        costs = expected(
            lambda x, e: cross_entropy_costs(x, e, label_smoothing=0.0), logits, ratio * p, q
        )
        return costs / (1 + ratio)

    slope = gradient(loss, offset)
    torch.testing.assert_close(slope, torch.zeros_like(slope), **EXACT)


@few_examples
@given(seed=seeds, offset=st.sampled_from([math.log(1 / 8), 1.7]))
def test_an_offset_left_in_would_make_the_reward_another_divergences(seed, offset):
    # softplus(h + c) is, up to a factor, the reward of JS_beta with beta = sigmoid(c).
    beta = 1 / (1 + math.exp(-offset))
    p, q = random_pair(seed)
    h = (p / q).log()
    right = divergence("generalized_js", beta=beta).reward(h)
    difference = softplus(h + offset) - beta * right
    torch.testing.assert_close(difference, difference[0].expand(5), **EXACT)


@few_examples
@given(seed=seeds, smoothing=st.sampled_from([0.05, 0.1, 0.3]))
def test_two_sided_label_smoothing_bends_the_optimum_below_its_bound(seed, smoothing):
    p, q = random_pair(seed)
    u = p / q
    best = (((1 - smoothing) * u + smoothing) / (smoothing * u + 1 - smoothing)).log()
    for costs in (cross_entropy_costs, least_squares_costs):
        slope = gradient(
            lambda x, c=costs: expected(lambda y, e: c(y, e, label_smoothing=smoothing), x, p, q),
            best,
        )
        torch.testing.assert_close(slope, torch.zeros_like(slope), **EXACT)
    assert bool((best.abs() < math.log((1 - smoothing) / smoothing)).all())


@few_examples
@given(seed=seeds)
def test_pairwise_comparison_finds_the_log_ratio_up_to_a_constant_that_the_policy_tells(seed):
    p, q = random_pair(seed)
    h = (p / q).log()

    def loss(logits):
        return (p[:, None] * q * softplus(logits - logits[:, None])).sum()

    slope = gradient(loss, h + 1.7)
    torch.testing.assert_close(slope, torch.zeros_like(slope), **EXACT)
    found = minimum(loss, torch.full_like(p, 0.4))
    level = torch.logsumexp(found + q.log(), 0)
    torch.testing.assert_close(found - level, h, atol=1e-7, rtol=0)


def test_the_level_of_a_group_with_the_policys_frequencies_is_that_constant():
    counts = torch.tensor([1, 4, 3, 2])
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    h = (10 * p / counts).log()
    group = torch.repeat_interleave(h + 1.7, counts)
    (level,) = group_levels(group, torch.zeros(10, dtype=torch.int64))
    torch.testing.assert_close(level.item(), 1.7, **EXACT)


@few_examples
@given(seed=seeds)
def test_identities_of_the_optimal_discriminator(seed):
    p, q = random_pair(seed)
    h = (p / q).log()
    mean = (p + q) / 2
    jensen_shannon = (kl(p, mean) + kl(q, mean)) / 2
    loss = expected(lambda x, e: cross_entropy_costs(x, e, label_smoothing=0.0), h, p, q)
    believed = torch.sigmoid(h)
    for one, other in (
        (loss, 2 * math.log(2) - 2 * jensen_shannon),
        ((q * h.exp()).sum(), torch.ones_like(loss)),
        ((p * (-h).exp()).sum(), torch.ones_like(loss)),
        (-(q * h).sum(), kl(q, p)),
        ((p * h).sum(), kl(p, q)),
        ((p * (1 - believed)).sum(), (q * believed).sum()),
        ((q * (2 * h).exp()).sum(), 1 + divergence("pearson_chi2").value(p, q)),
    ):
        torch.testing.assert_close(one, torch.as_tensor(other), **EXACT)


def test_estimates_of_a_batch_with_exact_frequencies_are_the_divergences():
    expert, policy = torch.tensor([2, 3, 5]), torch.tensor([6, 3, 1])
    p, q = expert / 10.0, policy / 10.0
    h = (p / q).log()
    figures = discriminator_estimates(h.repeat_interleave(expert), h.repeat_interleave(policy))
    mean = (p + q) / 2
    jensen_shannon = (kl(p, mean) + kl(q, mean)) / 2
    torch.testing.assert_close(figures["forward_kl_estimate"], kl(p, q))
    torch.testing.assert_close(figures["reverse_kl_estimate"], kl(q, p))
    torch.testing.assert_close(figures["jensen_shannon_estimate"], jensen_shannon)
    torch.testing.assert_close(figures["calibration_expert"], figures["calibration_policy"])


@few_examples
@given(seed=seeds)
def test_replayed_rollouts_turn_the_reverse_kl_into_one_with_a_bonus_for_novelty(seed):
    # Against the mixture m of new and old rollouts h = log(p / m), so the reward h descends
    # KL(q, p) - KL(q, m), m held constant.
    expert, policy, old = random_logits(seed, 3, 5)
    p, mixture = expert.softmax(-1), (policy.softmax(-1) + old.softmax(-1)) / 2
    reward = (p / mixture).log()

    def gain(logits):
        return (logits.softmax(-1) * reward).sum()

    def claimed(logits):
        q = logits.softmax(-1)
        return kl(q, mixture) - kl(q, p)

    torch.testing.assert_close(gradient(gain, policy), gradient(claimed, policy), **EXACT)
