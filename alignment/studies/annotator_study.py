"""Which preference likelihood recovers the true order of responses, from which annotators?

Scores are free parameters, one a response, found by L-BFGS on all answers at once with a weak
ridge penalty, the same for every likelihood. A likelihood that knows no ties is fitted without
them, one that knows no rankings to all pairs of each ranking.
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
    Annotators,
    Judgments,
    Pairing,
    domains_of,
    in_pairs,
    judge,
    without_ties,
)
from alignment.studies.lbfgs import minimum

NUM_RESPONSES = 40
NUM_PAIRS = 2000
"""A hundred comparisons a response; rankings are as many as have this number of pairs."""
SCORE_SPREAD = 2.0
"""Standard deviation of the true scores, where the noise on each has one of 1 to 1.3."""
BEST_OF = 8
RIDGE = 0.05
"""Penalty on squared scores: gives a response that always won a finite score."""
SEEDS = range(6)
PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "margin": {"margin_per_strength": 1.0},
    "thurstone": {"scale": 1.0},
}
"""Of the likelihoods that have any which are not fitted."""
QUIET, LOUD = 0.5, 4.0
"""Noise on responses of either domain where it differs: what is easy and what is hard to judge."""

LIKELIHOODS: tuple[str, ...] = (
    "bradley_terry",
    "margin",
    "thurstone",
    "learned_variance",
    "classification",
)
"""Fitted to all; the others equal bradley_terry where there are no ties and no rankings."""
TIE_LIKELIHOODS = ("rao_kupper", "davidson")
RANKING_LIKELIHOODS = ("plackett_luce",)
PAIRINGS: tuple[Pairing, ...] = ("uniform", "skewed")
CROWDS = (
    Annotators("logistic"),
    Annotators("logistic, 20% flips", flipped=0.2),
    Annotators("logistic, 40% flips", flipped=0.4),
    Annotators("probit", noise="gaussian"),
    Annotators("noise by domain", noise="gaussian", noise_by_domain=(QUIET, LOUD)),
    Annotators("with ties", tie_threshold=1.0),
    Annotators("rankings of four", num_places=4),
)


class Figure(NamedTuple):
    """One number, over the seeds."""

    mean: float
    standard_error: float


class Outcome(NamedTuple):
    """How well one likelihood recovered the order from one crowd's answers."""

    annotators: str
    pairing: Pairing
    likelihood: str
    rank_correlation: Figure
    """Kendall's tau of learned and true scores: 1 is the true order."""
    regret: Figure
    """Of the best of 8 random responses by the learned scores, in true score."""


def study(
    annotators: Annotators, pairing: Pairing, likelihoods: Sequence[str], seeds: Sequence[int]
) -> list[Outcome]:
    """Fit several likelihoods to the same answers, afresh for each seed.

    Args:
        likelihoods: names, of those in likelihoods_for(annotators).
        seeds: two or more; each draws true scores and answers of its own.

    Returns:
        An outcome for each likelihood.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        truth = SCORE_SPREAD * torch.randn(NUM_RESPONSES, generator=generator, dtype=torch.float64)
        num_comparisons = NUM_PAIRS // math.comb(annotators.num_places, 2)
        judgments = judge(annotators, truth, pairing, num_comparisons, generator)
        for name in likelihoods:
            scores = fitted_scores(name, judgments, NUM_RESPONSES)
            figures = (kendall_tau(scores, truth), best_of_regret(scores, truth, BEST_OF))
            found.setdefault(name, []).append(figures)
    return [
        Outcome(annotators.name, pairing, name, *map(_over_seeds, zip(*figures, strict=True)))
        for name, figures in found.items()
    ]


def likelihoods_for(annotators: Annotators) -> tuple[str, ...]:
    """Return the names of what can be learned from these annotators."""
    names = LIKELIHOODS
    if annotators.tie_threshold > 0.0:
        names += TIE_LIKELIHOODS
    if annotators.num_places > 2:
        names += RANKING_LIKELIHOODS
    return names


def fitted_scores(
    name: str, judgments: Judgments, num_responses: int
) -> Float[Tensor, " response"]:
    """Find the scores of largest likelihood, and with them noise by domain or the share of ties.

    Args:
        num_responses: how many there are; one that met nobody has score 0.

    Returns:
        A score for each response.
    """
    likelihood = partial(learned_likelihood, name, PARAMETERS.get(name, {}))
    takes = likelihood(torch.zeros(())).takes
    if "rankings" not in takes:
        judgments = in_pairs(judgments)
    if "ties" not in takes:
        judgments = without_ties(judgments)
    is_tie = judgments.is_tie if "ties" in takes else None
    domains = domains_of(num_responses)[judgments.ranked]

    def loss(parameters: Tensor) -> Tensor:
        scores, log_scales, tie = torch.split(parameters, [num_responses, NUM_DOMAINS, 1])
        comparisons = Comparisons(
            scores[judgments.ranked],
            is_tie=is_tie,
            strengths=judgments.strengths,
            log_scales=(log_scales - log_scales.mean())[domains],
        )
        log_likelihood = likelihood(tie[0]).log_likelihood(comparisons).sum()
        return 0.5 * RIDGE * scores.square().sum() - log_likelihood

    start = torch.zeros(num_responses + NUM_DOMAINS + 1, dtype=torch.float64)
    return minimum(loss, start)[:num_responses]


def kendall_tau(scores: Float[Tensor, " response"], truth: Float[Tensor, " response"]) -> float:
    """Share of pairs in the same order minus share in the other order; truth without equals."""
    first, second = torch.triu_indices(len(truth), len(truth), offset=1)
    agrees = (scores[first] - scores[second]).sign() * (truth[first] - truth[second]).sign()
    return float(agrees.mean())


def best_of_regret(
    scores: Float[Tensor, " response"], truth: Float[Tensor, " response"], num_samples: int
) -> float:
    """Compute what is lost by picking the best of several by learned scores: exact, of all subsets.

    Args:
        scores: learned, by which the pick is made.
        truth: by which it is judged.
        num_samples: N, responses in a subset.

    Returns:
        Mean true score of the truly best minus that of the picked response, over all subsets.
    """
    chances = best_of_chances(len(truth))[num_samples - 1]
    return float(chances @ (truth.sort().values - truth[scores.argsort()]))


def _over_seeds(figures: Sequence[float]) -> Figure:
    values = torch.tensor(figures, dtype=torch.float64)
    return Figure(float(values.mean()), float(values.std() / math.sqrt(len(values))))
