"""Study of which preference likelihoods recover the true order of responses from annotators.

Scores are free parameters, one per response, fitted to all labels by L-BFGS with a weak ridge
penalty, the same for every likelihood. A likelihood without ties is fitted to the other labels, one
without rankings to all pairs of each ranking.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.preferences.likelihood_loss import learned_likelihood
from alignment.preferences.record import Comparisons
from alignment.rewards.best_of_n import best_of_chances
from alignment.studies.annotators import (
    NUM_DOMAINS,
    AnnotatorLabels,
    Annotators,
    Pairing,
    domains_of,
    in_pairs,
    label_comparisons,
    without_ties,
)
from alignment.studies.lbfgs import minimize_lbfgs

NUM_RESPONSES = 40
NUM_PAIRS = 2000
"""A hundred comparisons per response; the number of rankings is that with as many pairs."""
SCORE_SPREAD = 2.0
"""Standard deviation of the true scores; that of the noise is 1 to 1.3."""
BEST_OF = 8
RIDGE = 0.05
"""Penalty on squared scores, which keeps the score of a response that always wins finite."""
SEEDS = range(6)
PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "margin": {"margin_per_strength": 1.0},
    "thurstone": {"scale": 1.0},
}
"""Parameters that are not fitted."""
QUIET, LOUD = 0.5, 4.0
"""Scales of the noise in the two domains, where it differs."""
LIKELIHOODS: tuple[str, ...] = (
    "bradley_terry",
    "margin",
    "thurstone",
    "learned_variance",
    "classification",
)
"""Fitted to all annotators; the others equal bradley_terry without ties and rankings."""
TIE_LIKELIHOODS = ("rao_kupper", "davidson")
RANKING_LIKELIHOODS = ("plackett_luce",)
PAIRINGS: tuple[Pairing, ...] = ("uniform", "skewed")
ANNOTATOR_GROUPS = (
    Annotators("logistic"),
    Annotators("logistic, 20% flips", flipped=0.2),
    Annotators("logistic, 40% flips", flipped=0.4),
    Annotators("probit", noise="gaussian"),
    Annotators("noise by domain", noise="gaussian", noise_by_domain=(QUIET, LOUD)),
    Annotators("with ties", tie_threshold=1.0),
    Annotators("rankings of four", num_places=4),
)


class MeanEstimate(NamedTuple):
    """A mean over the seeds."""

    mean: float
    standard_error: float


class LikelihoodResult(NamedTuple):
    """Quality of the order that a likelihood recovers from the labels of annotators."""

    annotators: str
    pairing: Pairing
    likelihood: str
    rank_correlation: MeanEstimate
    """Kendall's tau of fitted and true scores; 1 for the true order."""
    regret: MeanEstimate
    """Loss of true score when the best of 8 random responses is selected by the fitted scores."""


def fit_likelihoods(
    annotators: Annotators, pairing: Pairing, likelihoods: Sequence[str], seeds: Sequence[int]
) -> list[LikelihoodResult]:
    """Fit several likelihoods to the same labels.

    Args:
        seeds: two or more; each draws its own true scores and labels.
    """
    metrics: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        truth = SCORE_SPREAD * torch.randn(NUM_RESPONSES, generator=generator, dtype=torch.float64)
        num_comparisons = NUM_PAIRS // math.comb(annotators.num_places, 2)
        labels = label_comparisons(annotators, truth, pairing, num_comparisons, generator)
        for name in likelihoods:
            scores = fitted_scores(name, labels, NUM_RESPONSES)
            values = (kendall_tau(scores, truth), best_of_regret(scores, truth, BEST_OF))
            metrics.setdefault(name, []).append(values)
    return [
        LikelihoodResult(
            annotators.name, pairing, name, *map(_over_seeds, zip(*values, strict=True))
        )
        for name, values in metrics.items()
    ]


def likelihoods_for(annotators: Annotators) -> tuple[str, ...]:
    """Return the names of the likelihoods that apply to the labels of these annotators."""
    names = LIKELIHOODS
    if annotators.tie_threshold > 0.0:
        names += TIE_LIKELIHOODS
    if annotators.num_places > 2:
        names += RANKING_LIKELIHOODS
    return names


def fitted_scores(
    name: str, labels: AnnotatorLabels, num_responses: int
) -> Float[Tensor, " response"]:
    """Return the scores of largest likelihood, fitted together with noise by domain or ties.

    Args:
        num_responses: a response without comparisons has score 0.
    """
    likelihood = partial(learned_likelihood, name, PARAMETERS.get(name, {}))
    takes = likelihood(torch.zeros(())).takes
    if "rankings" not in takes:
        labels = in_pairs(labels)
    if "ties" not in takes:
        labels = without_ties(labels)
    is_tie = labels.is_tie if "ties" in takes else None
    domains = domains_of(num_responses)[labels.ranked]

    def loss(parameters: Tensor) -> Tensor:
        scores, log_scales, tie = torch.split(parameters, [num_responses, NUM_DOMAINS, 1])
        comparisons = Comparisons(
            scores[labels.ranked],
            is_tie=is_tie,
            strengths=labels.strengths,
            log_scales=(log_scales - log_scales.mean())[domains],
        )
        log_likelihood = likelihood(tie[0]).log_likelihood(comparisons).sum()
        return 0.5 * RIDGE * scores.square().sum() - log_likelihood

    start = torch.zeros(num_responses + NUM_DOMAINS + 1, dtype=torch.float64)
    return minimize_lbfgs(loss, start)[:num_responses]


def kendall_tau(scores: Float[Tensor, " response"], truth: Float[Tensor, " response"]) -> float:
    """Share of pairs in the same order minus share in the opposite order; truth has no equals."""
    first, second = torch.triu_indices(len(truth), len(truth), offset=1)
    agrees = (scores[first] - scores[second]).sign() * (truth[first] - truth[second]).sign()
    return float(agrees.mean())


def best_of_regret(
    scores: Float[Tensor, " response"], truth: Float[Tensor, " response"], num_samples: int
) -> float:
    """Compute the regret of selecting the best of num_samples responses by fitted scores.

    Exact: the true score of the best response minus that of the selected one, averaged over all
    subsets of num_samples responses.
    """
    probabilities = best_of_chances(len(truth))[num_samples - 1]
    return float(probabilities @ (truth.sort().values - truth[scores.argsort()]))


def _over_seeds(values_by_seed: Sequence[float]) -> MeanEstimate:
    values = torch.tensor(values_by_seed, dtype=torch.float64)
    return MeanEstimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))
