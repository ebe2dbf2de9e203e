"""Theorem 13: models of preference, what scores they recover, and what a reward then optimizes."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from torch.nn.functional import logsigmoid

from alignment.divergences.lookup import divergence
from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons
from tests.strategies import distributions, floats64
from tests.theorems.tabular import (
    EXACT,
    expected_behavior_cloning,
    gradient,
    minimum,
    random_logits,
)

every_seed = pytest.mark.parametrize("seed", range(3))
NUM_ITEMS = 8
BETA = 0.8


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def chances(scores, name, *, is_tie=False, **parameters):
    """Chance that the row's item beats the column's, or that the two tie."""
    record = preference_likelihood(name, **parameters)
    pairs = torch.cartesian_prod(scores, scores)
    ties = torch.full((len(pairs),), is_tie) if "ties" in record.takes else None
    answers = Comparisons(pairs, is_tie=ties)
    return record.log_likelihood(answers).exp().reshape(len(scores), len(scores))


def bradley_terry(scores):
    return chances(scores, "bradley_terry")


def win_and_tie(scores, name, **parameters):
    return tuple(chances(scores, name, is_tie=tie, **parameters) for tie in (False, True))


def rao_kupper(scores, threshold):
    return win_and_tie(scores, "rao_kupper", threshold=threshold)


def davidson(scores, tie_weight):
    return win_and_tie(scores, "davidson", tie_weight=tie_weight)


def plackett_luce(scores, ranking):
    """Chance of a ranking, best first."""
    ranked = Comparisons(scores[list(ranking)][None])
    return preference_likelihood("plackett_luce").log_likelihood(ranked).exp().squeeze(0)


@given(scores=floats64(4))
def test_outcomes_of_a_comparison_sum_to_one(scores):
    wins = bradley_terry(scores)
    torch.testing.assert_close(wins + wins.T, torch.ones_like(wins), **EXACT)
    for win, tie in (rao_kupper(scores, 1.6), davidson(scores, 0.8)):
        torch.testing.assert_close(win + win.T + tie, torch.ones_like(win), **EXACT)


@given(scores=floats64(4))
def test_without_ties_both_models_are_bradley_terry(scores):
    for win, tie in (rao_kupper(scores, 1.0), davidson(scores, 0.0)):
        torch.testing.assert_close(win, bradley_terry(scores), **EXACT)
        assert not tie.any()


@given(scores=floats64(4))
def test_ties_shift_the_logit_in_one_model_and_keep_the_odds_in_the_other(scores):
    gaps = scores[:, None] - scores[None, :]
    win, _ = rao_kupper(scores, 1.6)
    torch.testing.assert_close(win.logit(), gaps - math.log(1.6), **EXACT)
    win, tie = davidson(scores, 0.8)
    torch.testing.assert_close((win / win.T).log(), gaps, **EXACT)
    torch.testing.assert_close(tie, 0.8 * (win * win.T).sqrt(), **EXACT)


@given(scores=floats64(4))
def test_rankings_sum_to_one_and_order_each_pair_as_bradley_terry(scores):
    rankings = list(itertools.permutations(range(4)))
    chances = torch.stack([plackett_luce(scores, ranking) for ranking in rankings])
    torch.testing.assert_close(chances.sum().item(), 1.0, **EXACT)
    first_before_second = torch.tensor([r.index(0) < r.index(1) for r in rankings])
    wins = chances[first_before_second].sum()
    torch.testing.assert_close(wins, bradley_terry(scores)[0, 1], **EXACT)


@given(winner=floats64(20, -6.0, 6.0), loser=floats64(20, -6.0, 6.0))
def test_classification_loss_bounds_the_bradley_terry_loss(winner, loser):
    pairs = Comparisons(torch.stack([winner, loser], dim=1))
    classification, of_pairs = (
        -preference_likelihood(name).log_likelihood(pairs)
        for name in ("classification", "bradley_terry")
    )
    assert (of_pairs <= classification + 1e-12).all()


def classifier_scores(wins, pairings):
    """Logit of each item's share of wins: what a classifier of chosen and rejected learns."""
    return ((wins * pairings).sum(1) / pairings.sum(1)).logit()


def fitted(name, wins, pairings):
    """Scores of largest likelihood, given how often each pair met and the share of wins."""
    record, start = preference_likelihood(name), wins.new_zeros(len(wins))

    def loss(scores):
        answers = Comparisons(torch.cartesian_prod(scores, scores))
        return -((pairings * wins).flatten() * record.log_likelihood(answers)).sum()

    return minimum(loss, start)


def bradley_terry_scores(wins, pairings):
    return fitted("bradley_terry", wins, pairings)


@every_seed
@pytest.mark.parametrize("noise", ["logistic", "probit"])
def test_when_all_meet_all_both_recover_the_order_under_either_noise(seed, noise):
    scores = random_logits(seed, NUM_ITEMS)
    gaps = scores[:, None] - scores[None, :]
    wins = torch.sigmoid(2.0 * gaps) if noise == "logistic" else torch.special.ndtr(gaps)
    everyone = 1.0 - torch.eye(NUM_ITEMS, dtype=torch.float64)
    for found in (classifier_scores(wins, everyone), bradley_terry_scores(wins, everyone)):
        assert found.argsort().tolist() == scores.argsort().tolist()


def test_when_equals_meet_equals_only_bradley_terry_keeps_the_order():
    scores = torch.tensor([2.0, 1.5, 0.0, -2.0], dtype=torch.float64)
    pairings = torch.tensor(  # the two best and the two worst meet often, and one bridge
        [[0, 5, 0, 0], [5, 0, 1, 0], [0, 1, 0, 5], [0, 0, 5, 0]], dtype=torch.float64
    )
    wins = bradley_terry(scores)
    found = bradley_terry_scores(wins, pairings)
    torch.testing.assert_close(found - found.mean(), scores - scores.mean(), atol=1e-6, rtol=0.0)
    classified = classifier_scores(wins, pairings)
    torch.testing.assert_close(fitted("classification", wins, pairings), classified)
    assert classified.argsort().tolist() != scores.argsort().tolist()


def test_where_noise_differs_only_a_model_that_knows_it_keeps_the_order():
    # The best response is hard to judge, so it wins less often than the clear second
    scores, noise = f64(1.5, 1.0, 0.0, -1.0), f64(4.0, 0.5, 0.5, 0.5)
    pairs, log_scales = (torch.cartesian_prod(each, each) for each in (scores, noise.log()))
    record = preference_likelihood("learned_variance")
    answers = Comparisons(pairs, log_scales=log_scales)
    wins = record.log_likelihood(answers).exp().reshape(4, 4)
    everyone = 1.0 - torch.eye(4, dtype=torch.float64)
    misled = bradley_terry_scores(wins, everyone)
    assert misled.argsort(descending=True).tolist() == [1, 0, 2, 3]

    def loss(found):
        given = answers._replace(scores=torch.cartesian_prod(found, found))
        return -((everyone * wins).flatten() * record.log_likelihood(given)).sum()

    found = minimum(loss, torch.zeros_like(scores))
    torch.testing.assert_close(found - found.mean(), scores - scores.mean(), atol=1e-6, rtol=0.0)


every_penalty = pytest.mark.parametrize(
    "record",
    [
        *(divergence(name) for name in ("forward_kl", "reverse_kl", "jensen_shannon", "jeffreys")),
        *(divergence("alpha", alpha=0.5), divergence("squared_hellinger")),
    ],
    ids=lambda record: record.name,
)


@every_penalty
@given(policy=distributions(6, 1.5), reference=distributions(6, 1.5))
def test_optimal_policy_under_a_penalty_reveals_its_reward(record, policy, reference):
    # The penalty is D(policy, reference): the policy is the first argument here
    rewards = BETA * record.generator.derivative(policy / reference)

    def objective(logits):
        q = logits.softmax(-1)
        return (q * rewards).sum() - BETA * record.value(q, reference)

    # It is concave in q, so where its gradient is zero it is largest
    assert gradient(objective, policy.log()).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("record", "implied_reward"),
    [
        (divergence("forward_kl"), lambda log_ratio: log_ratio),
        (divergence("reverse_kl"), lambda log_ratio: -(-log_ratio).exp()),
        (divergence("jensen_shannon"), lambda log_ratio: 0.5 * logsigmoid(log_ratio)),
        (divergence("alpha", alpha=0.5), lambda log_ratio: -2.0 * (-0.5 * log_ratio).exp()),
    ],
    ids=["DPO", "reverse", "Jensen-Shannon", "alpha 1/2"],
)
def test_implied_rewards_of_direct_preference_optimization(record, implied_reward):
    log_ratios = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    found = record.generator.derivative(log_ratios.exp())
    exact = implied_reward(log_ratios)
    torch.testing.assert_close(found - found[0], exact - exact[0], **EXACT)


@given(rewards=floats64(6), reference=distributions(6), expert=distributions(6))
def test_maximum_likelihood_of_a_reward_raises_the_expert_and_lowers_its_own_policy(
    rewards, reference, expert
):
    def log_likelihood(rewards):
        logprobs = (reference.log() + rewards / BETA).log_softmax(-1)
        return -expected_behavior_cloning(expert, logprobs, torch.arange(6)).loss

    policy = (reference.log() + rewards / BETA).softmax(-1)
    exact = (expert - policy) / BETA
    torch.testing.assert_close(gradient(log_likelihood, rewards), exact, **EXACT)


def best_of(num_samples, policy):
    """Distribution of the best of several samples; outcomes are listed from worst to best."""
    below = torch.cat([policy.new_zeros(1), policy.cumsum(0)])
    return (below**num_samples).diff()


def test_best_of_three_by_enumeration():
    policy = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    expected = torch.zeros_like(policy)
    for draws in itertools.product(range(3), repeat=3):
        expected[max(draws)] += policy[list(draws)].prod()
    torch.testing.assert_close(best_of(3, policy), expected, **EXACT)


@every_seed
@pytest.mark.parametrize("num_samples", [2, 4, 16])
def test_best_of_several_stays_within_its_bound_and_comes_close(seed, num_samples):
    policy = random_logits(seed, 1000, scale=0.3).softmax(-1)
    best = best_of(num_samples, policy)
    distance = divergence("forward_kl").value(best / best.sum(), policy).item()
    bound = math.log(num_samples) - (num_samples - 1) / num_samples
    assert bound - 0.02 < distance <= bound + 1e-9
