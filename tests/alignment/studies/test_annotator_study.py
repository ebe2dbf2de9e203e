import itertools

import pytest
import torch
from scipy.stats import kendalltau

from alignment.studies.annotator_plot import SERIES, draw_annotators
from alignment.studies.annotator_study import (
    ANNOTATOR_GROUPS,
    LIKELIHOODS,
    RIDGE,
    LikelihoodResult,
    MeanEstimate,
    best_of_regret,
    fit_likelihoods,
    fitted_scores,
    kendall_tau,
    likelihoods_for,
)
from alignment.studies.annotators import AnnotatorLabels

GROUPS = {each.name: each for each in ANNOTATOR_GROUPS}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def labels_of(*counts):
    """Labels from (better, worse, count); a fourth number counts ties."""
    ranked, is_tie = [], []
    for better, worse, times, *tied in counts:
        ranked += [(better, worse)] * (times + sum(tied))
        is_tie += [False] * times + [True] * sum(tied)
    return AnnotatorLabels(
        torch.tensor(ranked), torch.tensor(is_tie), torch.zeros(len(ranked)).double()
    )


def test_rank_correlation_counts_pairs_in_order():
    truth = f64(1.0, 2.0, 3.0)
    assert kendall_tau(f64(0.1, 0.2, 0.9), truth) == 1.0
    assert kendall_tau(f64(3.0, 2.0, 1.0), truth) == -1.0
    assert kendall_tau(f64(2.0, 1.0, 3.0), truth) == pytest.approx(1 / 3)
    scores, truth = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).double()
    assert kendall_tau(scores, truth) == pytest.approx(kendalltau(scores, truth).statistic)


def test_regret_is_the_mean_over_all_subsets():
    scores, truth = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)).double()
    losses = []
    for subset in map(list, itertools.combinations(range(7), 3)):
        losses.append(truth[subset].max() - truth[subset][scores[subset].argmax()])
    assert best_of_regret(scores, truth, 3) == pytest.approx(float(sum(losses)) / len(losses))
    assert best_of_regret(3.0 * truth - 1.0, truth, 3) == 0.0
    assert best_of_regret(scores, truth, 1) == pytest.approx(0.0, abs=1e-12)


def test_the_fit_of_a_pair_is_its_log_odds_up_to_the_ridge():
    scores = fitted_scores("bradley_terry", labels_of((0, 1, 300), (1, 0, 100)), 3)
    gap = scores[0] - scores[1]
    assert gap.item() == pytest.approx(torch.tensor(0.75).logit().item(), abs=1e-3)
    # Where the slope of the likelihood is that of the penalty on gap / 2 and -gap / 2
    assert 300 - 400 * gap.sigmoid().item() == pytest.approx(RIDGE * gap.item() / 2, abs=1e-6)
    assert scores[2] == 0.0  # has no comparisons


def test_the_classifier_fits_shares_of_wins():
    scores = fitted_scores("classification", labels_of((0, 1, 300), (1, 0, 100), (1, 2, 50)), 3)
    shares = f64(300 / 400, 150 / 450)
    torch.testing.assert_close(scores[:2].sigmoid(), shares, atol=1e-3, rtol=0.0)
    assert scores[2] < -3.0


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_ties_are_used_by_likelihoods_with_ties_and_dropped_by_the_others(name):
    # 0 beats 1, and 1 ties with 2, which has no other labels
    given = labels_of((0, 1, 30), (1, 0, 10), (1, 2, 0, 40))
    scores = fitted_scores(name, given, 3)
    assert scores[2].item() == pytest.approx(scores[1].item(), abs=0.05)
    assert scores[0] - scores[1] > 0.5
    assert fitted_scores("bradley_terry", given, 3)[2] == 0.0


def test_rankings_are_fitted_as_rankings_or_as_pairs():
    ranked = torch.tensor([[0, 1, 2]] * 20 + [[2, 1, 0]] * 10)
    given = AnnotatorLabels(ranked, torch.zeros(30, dtype=torch.bool), torch.zeros(30).double())
    whole = fitted_scores("plackett_luce", given, 3)
    pairs = fitted_scores("bradley_terry", given, 3)
    assert whole.argsort(descending=True).tolist() == [0, 1, 2]
    torch.testing.assert_close(pairs, -pairs.flip(0), atol=1e-6, rtol=0.0)
    assert (whole + whole.flip(0)).abs().max() > 0.01  # first choices count for more


def test_noise_by_domain_is_learned_along_with_the_scores():
    # Labels of the odd responses, in the second domain, are nearly random
    given = labels_of((0, 2, 90), (2, 0, 10), (1, 3, 52), (3, 1, 48), (0, 3, 60), (3, 0, 40))
    learned, fixed = (fitted_scores(name, given, 4) for name in ("learned_variance", "thurstone"))
    odd, even = (lambda s: s[1] - s[3]), (lambda s: s[0] - s[2])
    assert odd(learned) / even(learned) > 2.0 * odd(fixed) / even(fixed)


def test_each_group_is_fitted_by_the_likelihoods_of_its_labels():
    assert likelihoods_for(GROUPS["logistic"]) == LIKELIHOODS
    assert likelihoods_for(GROUPS["with ties"]) == (*LIKELIHOODS, "rao_kupper", "davidson")
    assert likelihoods_for(GROUPS["rankings of four"]) == (*LIKELIHOODS, "plackett_luce")


def results_of(name, pairing, *likelihoods, seeds=(0, 1)):
    results = fit_likelihoods(GROUPS[name], pairing, likelihoods, seeds)
    assert [each.likelihood for each in results] == list(likelihoods)
    return results


@pytest.mark.parametrize("name", ["logistic", "probit"])
def test_with_skewed_pairing_only_the_classifier_loses_the_order(name):
    models = ("bradley_terry", "thurstone", "classification")
    *uniform, uniform_classifier = results_of(name, "uniform", *models)
    *skewed, classifier = results_of(name, "skewed", *models)
    for before, after in zip(uniform, skewed, strict=True):
        assert after.rank_correlation.mean > classifier.rank_correlation.mean + 0.4
        assert after.regret.mean < classifier.regret.mean / 10.0
        assert after.rank_correlation.mean > before.rank_correlation.mean - 0.05
        gap = before.rank_correlation.mean - uniform_classifier.rank_correlation.mean
        assert abs(gap) < 0.05


def test_a_learned_variance_helps_where_noise_differs_by_domain():
    names = ("learned_variance", "bradley_terry", "thurstone", "classification")
    learned, *others = results_of("noise by domain", "uniform", *names)
    for other in others:
        assert learned.rank_correlation.mean > other.rank_correlation.mean
        assert learned.regret.mean < other.regret.mean


def test_likelihoods_with_ties_gain_from_ties():
    names = ("bradley_terry", "rao_kupper", "davidson")
    without, *others = results_of("with ties", "uniform", *names, seeds=range(3))
    for other in others:
        assert other.rank_correlation.mean > without.rank_correlation.mean


def test_flipped_labels_cost_order_and_regret():
    names = ("logistic", "logistic, 20% flips", "logistic, 40% flips")
    results = [results_of(name, "uniform", "bradley_terry")[0] for name in names]
    correlations = [each.rank_correlation.mean for each in results]
    assert correlations == sorted(correlations, reverse=True)
    assert [each.regret.mean for each in results] == sorted(each.regret.mean for each in results)


def test_results_are_means_over_seeds_with_their_standard_error():
    one, other = (
        results_of("logistic", "uniform", "bradley_terry", seeds=(seed, seed))[0].rank_correlation
        for seed in (0, 1)
    )
    assert one.standard_error == other.standard_error == 0.0
    both = results_of("logistic", "uniform", "bradley_terry", seeds=(0, 1))[0].rank_correlation
    assert both.mean == pytest.approx((one.mean + other.mean) / 2.0)
    assert both.standard_error == pytest.approx(abs(one.mean - other.mean) / 2.0)


def test_the_plot_has_a_row_for_each_group_and_pairing_and_a_mark_for_each_likelihood():
    results = [
        LikelihoodResult(
            group, pairing, name, MeanEstimate(correlation, 0.01), MeanEstimate(1.0, 0.1)
        )
        for pairing, correlation in (("uniform", 0.9), ("skewed", 0.3))
        for group in ("one", "two")
        for name in ("bradley_terry", "classification")
    ]
    left, right = draw_annotators(results).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["one", "two"] * 2
    for axes, values in ((left, [0.9, 0.9, 0.3, 0.3]), (right, [1.0] * 4)):
        marks = {line.get_marker(): list(line.get_xdata()) for line in axes.lines}
        for name in ("bradley_terry", "classification"):
            assert marks[SERIES[name][0]] == values
    headings = [text.get_text() for text in left.texts]
    assert [heading.partition(":")[0] for heading in headings] == [
        "uniform pairing",
        "skewed pairing",
    ]
