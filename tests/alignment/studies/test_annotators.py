"""Shares of sampled labels equal exact probabilities, within five standard deviations."""

import itertools
import math

import pytest
import torch

from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons
from alignment.studies.annotators import (
    AnnotatorLabels,
    Annotators,
    domains_of,
    in_pairs,
    label_comparisons,
    without_ties,
)

NUM = 20_000


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def labels(annotators, truth, pairing="uniform", num=NUM):
    return label_comparisons(annotators, truth, pairing, num, torch.Generator().manual_seed(0))


def assert_share(is_true, probability):
    spread = math.sqrt(probability * (1.0 - probability) / len(is_true))
    assert is_true.double().mean().item() == pytest.approx(probability, abs=5.0 * spread)


def probability(name, truth, *, parameters=None, **observed):
    record = preference_likelihood(name, **(parameters or {}))
    return record.log_likelihood(Comparisons(truth[None], **observed)).exp().item()


@pytest.mark.parametrize(
    ("annotators", "name", "parameters", "observed"),
    [
        (Annotators(""), "bradley_terry", {}, {}),
        (Annotators("", noise="gaussian"), "thurstone", {"scale": 1.0}, {}),
        (
            Annotators("", noise="gaussian", noise_by_domain=(0.5, 3.0)),
            "learned_variance",
            {},
            {"log_scales": f64(0.5, 3.0).log()[None]},
        ),
    ],
)
def test_labels_follow_the_likelihood_of_their_noise(annotators, name, parameters, observed):
    truth = f64(0.7, -0.4)
    won = labels(annotators, truth).ranked[:, 0] == 0
    assert_share(won, probability(name, truth, parameters=parameters, **observed))


def test_ties_by_a_threshold_are_rao_kuppers():
    truth, threshold = f64(0.7, -0.4), {"threshold": math.exp(0.9)}
    result = labels(Annotators("", tie_threshold=0.9), truth)
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert_share(result.is_tie, probability("rao_kupper", truth, parameters=threshold, is_tie=yes))
    won = ~result.is_tie & (result.ranked[:, 0] == 0)
    assert_share(won, probability("rao_kupper", truth, parameters=threshold, is_tie=no))


def test_rankings_are_plackett_luces():
    truth = f64(0.7, -0.4, 0.2)
    ranked = labels(Annotators("", num_places=3), truth).ranked
    for order in itertools.permutations(range(3)):
        is_order = (ranked == torch.tensor(order)).all(1)
        assert_share(is_order, probability("plackett_luce", truth[list(order)]))


def test_flips_reverse_labels_independently_of_scores():
    exact = Annotators("", noise_by_domain=(0.0, 0.0), flipped=0.3, num_places=3)
    ranked = labels(exact, f64(2.0, 1.0, 3.0)).ranked
    is_flipped = (ranked == torch.tensor([1, 0, 2])).all(1)
    assert ((ranked == torch.tensor([2, 0, 1])).all(1) | is_flipped).all()
    assert_share(is_flipped, 0.3)


def test_the_strength_of_a_preference_is_the_perceived_difference():
    exact = Annotators("", noise_by_domain=(0.0, 0.0))
    for gap, strength in ((1.4, 0.0), (1.6, 0.5), (2.9, 0.5), (3.1, 1.0), (9.0, 1.0)):
        assert (labels(exact, f64(0.0, gap), num=5).strengths == strength).all()


def test_in_uniform_pairing_all_pairs_are_equally_likely():
    result = labels(Annotators(""), torch.linspace(-1.0, 1.0, 5).double()).ranked.sort(1).values
    for pair in itertools.combinations(range(5), 2):
        assert_share((result == torch.tensor(pair)).all(1), 0.1)


def test_in_skewed_pairing_similar_responses_are_compared():
    truth = f64(9.0, 0.0, 5.0, 4.0)  # ranks 3 0 2 1 count, gaps do not
    result = labels(Annotators(""), truth, "skewed").ranked
    places = truth.argsort().argsort()[result].sort(1).values
    # Given any first of four, nine times in ten opponents at distance d have weight e^(-d / 1.5)
    one, two, three = (math.exp(-distance / 1.5) for distance in (1, 2, 3))
    neighbors = 0.1 / 2 + 0.9 * (one / (one + two + three) + 2 * one / (2 * one + two)) / 2
    assert_share(places[:, 1] - places[:, 0] == 1, neighbors)
    farthest = 0.1 / 6 + 0.9 * three / (one + two + three) / 2
    assert_share(places[:, 1] - places[:, 0] == 3, farthest)


def test_domains_alternate():
    assert domains_of(5).tolist() == [0, 1, 0, 1, 0]


def test_a_ranking_is_split_into_all_its_pairs():
    ranked = torch.tensor([[4, 2, 7], [1, 0, 3]])
    result = in_pairs(AnnotatorLabels(ranked, torch.tensor([False, True]), f64(0.5, 1.0)))
    pairs = [[4, 2], [4, 7], [2, 7], [1, 0], [1, 3], [0, 3]]
    assert result.ranked.tolist() == pairs
    assert result.is_tie.tolist() == [False] * 3 + [True] * 3
    assert result.strengths.tolist() == [0.5] * 3 + [1.0] * 3


def test_ties_can_be_dropped():
    ranked = torch.tensor([[0, 1], [2, 3]])
    result = without_ties(AnnotatorLabels(ranked, torch.tensor([True, False]), f64(0.0, 1.0)))
    assert result.ranked.tolist() == [[2, 3]]
    assert result.strengths.tolist() == [1.0]
