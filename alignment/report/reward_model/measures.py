"""What the report of a reward model says, from the figures that its training wrote.

Everything is of held-out pairs: every two responses of a row of which one was preferred. Each row
counts the same, however many pairs it has, and all intervals are bootstraps over rows.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alignment.bootstrap import with_interval
from alignment.preferences.record import Comparisons, PreferenceLikelihood
from alignment.preferences.reward_model_loss import learned_likelihood

Figures = Mapping[str, Any]
"""What reward_model.json holds."""
Interval = dict[str, Any]
"""mean, low, high and num_rows of alignment.bootstrap.with_interval."""

NUM_BINS = 10
"""Of the reliability diagram, a tenth wide each."""
ORIENTATION_SEED = 0
"""Of which response of a pair is asked about."""
NUM_PERFECT = 200
"""Draws of answers from the predicted chances, to learn how far off chance alone is."""
NO_DOMAIN = "no domain"
TERCILES = ("they agree most", "in between", "they agree least")


class Pairs(NamedTuple):
    """Held-out pairs, the preferred response first."""

    row: NDArray[np.int64]
    """[pair] place of its row among the comparisons."""
    is_right: NDArray[np.float64]
    """[pair] 1 where the ensemble's score prefers the same response, 0.5 where it is equal."""
    chances: NDArray[np.float64]
    """[member, pair] of the preferred answer, given that one of the two is preferred."""
    tokens_longer: NDArray[np.int64]
    """[pair] length of the preferred response less that of the other."""
    weights: NDArray[np.float64]
    """[pair] 1 over the pairs of its row."""

    def by_row(
        self, values: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Average values of pairs over those of each row; nan where a row has none of the chosen.

        Args:
            values: [pair]
            chosen: [pair] which count; all if not given.

        Returns:
            [row]
        """
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
    """Mean chance that was predicted."""
    observed: float
    """Share of the pairs in which it came so."""
    num_pairs: int


class Calibration(NamedTuple):
    """How far predicted chances can be taken at their word."""

    bins: list[Bin]
    """Those that hold pairs, from chance 0 to 1."""
    error: float
    """Expected calibration error: mean distance of observed from predicted over the bins."""
    error_by_chance: float
    """What it would be on average if every chance were right, with as few pairs."""


def pairs_of(figures: Figures) -> Pairs:
    """Find the pairs of the held-out rows, and what the ensemble says of them.

    The chances of both answers, ties aside, are made to sum to 1: under Bradley-Terry and
    Plackett-Luce they do, with ties it is the chance of a win among wins, and classification and
    margin, whose chances do not, are read as Bradley-Terry.

    Returns:
        The pairs; there are none where all rows are ties.
    """
    places = [
        (number, i, j, len(each["ranks"]))
        for number, each in enumerate(figures["comparisons"])
        for i, j in combinations(range(len(each["ranks"])), 2)
        if each["ranks"][i] != each["ranks"][j]
    ]
    listed = figures["comparisons"]
    first, second = (
        np.asarray([[s[place[k]] for s in listed[place[0]]["scores"]] for place in places])
        for k in (1, 2)
    )
    gaps = (first - second).reshape(len(places), len(figures["members"]))
    row = np.asarray([place[0] for place in places], np.int64)
    lengths = [
        listed[n]["response_tokens"][i] - listed[n]["response_tokens"][j] for n, i, j, _ in places
    ]
    return Pairs(
        row=row,
        is_right=0.5 + 0.5 * np.sign(gaps.mean(1)) if places else np.zeros(0),
        chances=np.stack([_chances(figures, m, places) for m in range(len(figures["members"]))]),
        tokens_longer=np.asarray(lengths, np.int64),
        weights=1.0 / np.bincount(row)[row] if len(row) else np.zeros(0),
    )


def _chances(
    figures: Figures, member: int, places: Sequence[tuple[int, int, int, int]]
) -> NDArray[np.float64]:
    """Return a member's chance of each preferred answer, given that one is preferred."""
    log_tie = torch.tensor(figures["members"][member]["log_tie"], dtype=torch.float64)
    likelihood = learned_likelihood(figures["likelihood"], figures["parameters"], log_tie)

    def column(name: str) -> torch.Tensor:
        listed = figures["comparisons"]
        found = [[listed[n][name][member][k] for k in (i, j)] for n, i, j, _ in places]
        return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)

    scores = column("scores")
    scales = column("log_scales") if likelihood.needs == "log_scales" else None
    forward = _log_chance(likelihood, scores, scales)
    backward = _log_chance(likelihood, scores.flip(1), None if scales is None else scales.flip(1))
    chances: NDArray[np.float64] = (forward - backward).sigmoid().numpy()
    return chances


def _log_chance(
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


def calibration(pairs: Pairs) -> Calibration:
    """Compare predicted chances with what was observed, in bins of equal width.

    Of each pair one response is drawn, and its chance to be the preferred one is what is
    predicted; the ensemble's chance is the mean of its members'.

    Args:
        pairs: at least one.

    Returns:
        The bins, and how far off they are.

    References:
        Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, equation 3.
    """
    rng = np.random.default_rng(ORIENTATION_SEED)
    chances = pairs.chances.mean(0)
    is_first = rng.random(len(chances)) < 0.5
    predicted = np.where(is_first, chances, 1.0 - chances)
    bins, error = _bins(predicted, is_first.astype(np.float64), pairs.weights)
    draws = [
        _bins(predicted, (rng.random(len(predicted)) < predicted).astype(float), pairs.weights)[1]
        for _ in range(NUM_PERFECT)
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


def by_domain(figures: Figures, pairs: Pairs) -> dict[str, Interval]:
    """Accuracy by domain, those with most rows first; empty where there are not two."""
    right = pairs.by_row(pairs.is_right)
    domains = np.asarray(
        [each["domain"] or NO_DOMAIN for each in figures["comparisons"][: len(right)]]
    )
    if len(set(domains)) < 2:
        return {}
    found = {str(name): with_interval(right[domains == name]) for name in np.unique(domains)}
    return dict(sorted(found.items(), key=lambda item: -int(item[1]["num_rows"] or 0)))


def by_length(pairs: Pairs) -> dict[str, Interval]:
    """Accuracy where the preferred response is the longer one, the shorter, or neither."""
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


def beyond_length(figures: Figures, pairs: Pairs) -> Interval:
    """Accuracy less that of the length-only baseline, with the interval of the difference."""
    sign = 1.0 if figures["length_baseline"]["prefers"] == "longer" else -1.0
    of_length = 0.5 + 0.5 * sign * np.sign(pairs.tokens_longer)
    return with_interval(pairs.by_row(pairs.is_right - of_length))


def by_disagreement(pairs: Pairs) -> dict[str, Interval]:
    """Accuracy in three equal parts of the rows, by how far members' chances are apart.

    How far is the standard deviation over members of the chance of an answer, which does not depend
    on which of the two answers is asked about.

    Returns:
        TERCILES to accuracies; empty for one member, or fewer than three rows.
    """
    right = pairs.by_row(pairs.is_right)
    apart = pairs.by_row(pairs.chances.std(0))
    known = np.flatnonzero(np.isfinite(right))
    if len(pairs.chances) < 2 or len(known) < len(TERCILES):
        return {}
    in_order = known[np.argsort(apart[known], kind="stable")]
    parts = np.array_split(in_order, len(TERCILES))
    return {name: with_interval(right[part]) for name, part in zip(TERCILES, parts, strict=True)}
