"""Metrics in the report of a reward model, from the file reward_model.json of its training.

All are over the pairs of the evaluation set: any two responses of a row of which one is preferred.
Each row has the same weight, however many pairs it has, and all intervals are bootstraps over rows.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alignment.intervals import with_interval
from alignment.preferences.likelihood_loss import learned_likelihood
from alignment.preferences.record import Comparisons, PreferenceLikelihood

Evaluation = Mapping[str, Any]
"""The contents of reward_model.json."""
Interval = dict[str, Any]
"""mean, low, high and num_rows, as alignment.intervals.with_interval returns them."""
NUM_BINS = 10
"""Number of bins of the reliability diagram, which have equal widths."""
ORIENTATION_SEED = 0
"""Seed of the draw of one response of each pair."""
NUM_SIMULATIONS = 200
"""Draws of labels from the predicted probabilities, for the calibration error of a true model."""
NO_DOMAIN = "no domain"
TERCILES = ("lowest disagreement", "medium disagreement", "highest disagreement")


class EvaluationPairs(NamedTuple):
    """Pairs of the evaluation set, the preferred response first."""

    row: NDArray[np.int64]
    """[pair] index of its row among the comparisons."""
    is_right: NDArray[np.float64]
    """[pair] 1 if the ensemble's score prefers the same response, 0.5 if both scores are equal."""
    probabilities: NDArray[np.float64]
    """[member, pair] of the preferred response, given that the pair is not a tie."""
    tokens_longer: NDArray[np.int64]
    """[pair] length of the preferred response minus that of the other."""
    weights: NDArray[np.float64]
    """[pair] 1 / (number of pairs of its row)."""

    def by_row(
        self, values: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Average [pair] values over the chosen pairs of each row; NaN for a row without any."""
        counts = np.ones(len(values)) if chosen is None else chosen.astype(np.float64)
        num_rows = int(self.row.max()) + 1 if len(self.row) else 0
        totals = np.bincount(self.row, counts, num_rows)
        sums = np.bincount(self.row, counts * values, num_rows)
        means = np.full(num_rows, np.nan)
        np.divide(sums, totals, out=means, where=totals > 0)
        return means


class Bin(NamedTuple):
    """One point of the reliability diagram."""

    predicted: float
    """Mean predicted probability."""
    observed: float
    """Share of the pairs in which the drawn response was the preferred one."""
    num_pairs: int


class Calibration(NamedTuple):
    """Agreement of predicted probabilities with observed fractions."""

    bins: list[Bin]
    """Bins that hold pairs, from probability 0 to 1."""
    error: float
    """Expected calibration error: mean of |observed - predicted| over the bins, by weight."""
    expected_error: float
    """Its mean if every predicted probability were true, with the same number of pairs."""


def evaluation_pairs(evaluation: Evaluation) -> EvaluationPairs:
    """Return the pairs of all rows with the ensemble's predictions; none if all rows are ties.

    The probabilities of both orders are normalized to sum to 1. Under Bradley-Terry and
    Plackett-Luce they do; a model with ties is conditioned on no tie; classification and margin,
    which are no distributions over the two orders, are read as Bradley-Terry.
    """
    places = [
        (number, i, j, len(each["ranks"]))
        for number, each in enumerate(evaluation["comparisons"])
        for i, j in combinations(range(len(each["ranks"])), 2)
        if each["ranks"][i] != each["ranks"][j]
    ]
    listed = evaluation["comparisons"]
    first, second = (
        np.asarray([[s[place[k]] for s in listed[place[0]]["scores"]] for place in places])
        for k in (1, 2)
    )
    gaps = (first - second).reshape(len(places), len(evaluation["members"]))
    row = np.asarray([place[0] for place in places], np.int64)
    lengths = [
        listed[n]["response_tokens"][i] - listed[n]["response_tokens"][j] for n, i, j, _ in places
    ]
    return EvaluationPairs(
        row=row,
        is_right=0.5 + 0.5 * np.sign(gaps.mean(1)) if places else np.zeros(0),
        probabilities=np.stack(
            [_probabilities(evaluation, m, places) for m in range(len(evaluation["members"]))]
        ),
        tokens_longer=np.asarray(lengths, np.int64),
        weights=1.0 / np.bincount(row)[row] if len(row) else np.zeros(0),
    )


def _probabilities(
    evaluation: Evaluation, member: int, places: Sequence[tuple[int, int, int, int]]
) -> NDArray[np.float64]:
    """Return a member's [pair] probability of the preferred response, given no tie."""
    log_tie = torch.tensor(evaluation["members"][member]["log_tie"], dtype=torch.float64)
    likelihood = learned_likelihood(evaluation["likelihood"], evaluation["parameters"], log_tie)

    def column(name: str) -> torch.Tensor:
        listed = evaluation["comparisons"]
        values = [[listed[n][name][member][k] for k in (i, j)] for n, i, j, _ in places]
        return torch.tensor(values, dtype=torch.float64).reshape(-1, 2)

    scores = column("scores")
    scales = column("log_scales") if likelihood.needs == "log_scales" else None
    forward = _log_probability(likelihood, scores, scales)
    backward = _log_probability(
        likelihood, scores.flip(1), None if scales is None else scales.flip(1)
    )
    probabilities: NDArray[np.float64] = (forward - backward).sigmoid().numpy()
    return probabilities


def _log_probability(
    likelihood: PreferenceLikelihood, scores: torch.Tensor, scales: torch.Tensor | None
) -> torch.Tensor:
    none = torch.zeros(len(scores), dtype=torch.float64)
    return likelihood.log_likelihood(
        Comparisons(
            scores,
            is_tie=none.bool() if "ties" in likelihood.takes else None,
            strengths=none,
            log_scales=scales,
        )
    )


def calibration(pairs: EvaluationPairs) -> Calibration:
    """Compare predicted probabilities with observed shares, in bins of equal width.

    One response is drawn from each pair. Predicted is the probability that it is the preferred one:
    the mean over the members of the ensemble.

    Args:
        pairs: at least one.

    References:
        Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, equation 3.
    """
    rng = np.random.default_rng(ORIENTATION_SEED)
    probabilities = pairs.probabilities.mean(0)
    is_first = rng.random(len(probabilities)) < 0.5
    predicted = np.where(is_first, probabilities, 1.0 - probabilities)
    bins, error = _bins(predicted, is_first.astype(np.float64), pairs.weights)
    draws = [
        _bins(predicted, (rng.random(len(predicted)) < predicted).astype(float), pairs.weights)[1]
        for _ in range(NUM_SIMULATIONS)
    ]
    return Calibration(bins, error, float(np.mean(draws)))


def _bins(
    predicted: NDArray[np.float64], observed: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[list[Bin], float]:
    which = np.minimum((predicted * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(which):
        inside = which == number
        share = weights[inside].sum()
        mean = float(weights[inside] @ predicted[inside] / share)
        seen = float(weights[inside] @ observed[inside] / share)
        bins.append(Bin(mean, seen, int(inside.sum())))
        error += share / weights.sum() * abs(mean - seen)
    return bins, float(error)


def accuracy_by_domain(evaluation: Evaluation, pairs: EvaluationPairs) -> dict[str, Interval]:
    """Accuracy by domain, in the order of their numbers of rows; empty for a single domain."""
    right = pairs.by_row(pairs.is_right)
    domains = np.asarray(
        [each["domain"] or NO_DOMAIN for each in evaluation["comparisons"][: len(right)]]
    )
    if len(set(domains)) < 2:
        return {}
    accuracies = {str(name): with_interval(right[domains == name]) for name in np.unique(domains)}
    return dict(sorted(accuracies.items(), key=lambda item: -int(item[1]["num_rows"] or 0)))


def accuracy_by_length(pairs: EvaluationPairs) -> dict[str, Interval]:
    """Accuracy where the preferred response is longer, shorter, or as long as the other."""
    groups = {
        "preferred is longer": pairs.tokens_longer > 0,
        "preferred is shorter": pairs.tokens_longer < 0,
        "equally long": pairs.tokens_longer == 0,
    }
    return {
        name: with_interval(pairs.by_row(pairs.is_right, chosen))
        for name, chosen in groups.items()
        if chosen.any()
    }


def accuracy_gain_over_length(evaluation: Evaluation, pairs: EvaluationPairs) -> Interval:
    """Accuracy minus that of the length baseline, with the interval of the difference."""
    sign = 1.0 if evaluation["length_baseline"]["prefers"] == "longer" else -1.0
    of_length = 0.5 + 0.5 * sign * np.sign(pairs.tokens_longer)
    return with_interval(pairs.by_row(pairs.is_right - of_length))


def accuracy_by_disagreement(pairs: EvaluationPairs) -> dict[str, Interval]:
    """Accuracy by tercile of the members' disagreement; empty for one member or under three rows.

    Disagreement is the standard deviation over members of the predicted probability, which is the
    same for both responses of a pair.
    """
    right = pairs.by_row(pairs.is_right)
    disagreement = pairs.by_row(pairs.probabilities.std(0))
    known = np.flatnonzero(np.isfinite(right))
    if len(pairs.probabilities) < 2 or len(known) < len(TERCILES):
        return {}
    in_order = known[np.argsort(disagreement[known], kind="stable")]
    parts = np.array_split(in_order, len(TERCILES))
    return {name: with_interval(right[part]) for name, part in zip(TERCILES, parts, strict=True)}
