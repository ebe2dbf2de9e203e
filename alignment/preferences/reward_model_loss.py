"""The loss of a reward model: annotators' answers on rows of responses, and scores of these.

A row is a prompt with two responses or more and their ranks. A likelihood that takes rankings sees
a row whole; any other sees every two of its responses, and each row counts the same, however many
pairs it has. What a likelihood needs beside the scores is learned with them: one number for the
share of ties, or a second output of the model for each response's noise.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from alignment.mdp.packing import PackedBatch
from alignment.mdp.segments import sequence_lengths
from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.ranked_groups import pairs_in_groups, rankings_of_groups
from alignment.preferences.record import Comparisons, PreferenceLikelihood

LOG_SCALE_PENALTY = 0.01
"""Of learned_variance: weight of the mean squared log-scale. It fixes the unit of scores, which the
answers leave open, and is small beside what a domain twice as noisy as another gains."""


class Answers(NamedTuple):
    """What annotators said of responses, those of a row beside one another and best first.

    Of two rows, a pair and a tie, ranks are [0, 1, 0, 0] and group_index is [0, 0, 1, 1].
    """

    ranks: Float[Tensor, " response"]
    """0 for the best of its row, equal for a tie."""
    group_index: Int[Tensor, " response"]
    """Its row, counted from 0, ascending."""
    strengths: Float[Tensor, " response"]
    """Of its row, and so of all pairs in it: how much better the preferred one was said to be."""

    def of(self, batch: PackedBatch) -> "Answers":
        """Return the answers on a microbatch of these responses, on its device; rows are whole."""
        indices, device = batch.trajectory_indices.cpu(), batch.group_index.device
        ranks, strengths = self.ranks[indices].to(device), self.strengths[indices].to(device)
        return Answers(ranks, batch.group_index, strengths)


class LogLikelihoods(NamedTuple):
    """Of each answer that a likelihood sees: a whole row, or every two of its responses."""

    values: Float[Tensor, " answer"]
    """Natural logs, at most 0."""
    rows: Int[Tensor, " answer"]
    """To which it belongs, ascending; each row has one at least."""
    weights: Float[Tensor, " answer"]
    """1 over the answers of its row."""

    def row_means(self) -> Float[Tensor, " row"]:
        """Average over the answers of each row."""
        means = self.values.new_zeros(int(self.rows[-1]) + 1)
        return means.index_add(0, self.rows, self.weights.to(means) * self.values)


def learned_likelihood(
    name: str, parameters: Mapping[str, float], log_tie: Float[Tensor, ""]
) -> PreferenceLikelihood:
    """Look up a likelihood whose share of ties is free to be learned.

    Args:
        parameters: what the likelihood takes; rao_kupper's and davidson's is learned instead.
        log_tie: any real number, differentiable: the log of rao_kupper's threshold less 1, or of
            davidson's tie_weight. The others do not look at it.

    Returns:
        The record.
    """
    match name:
        case "rao_kupper":
            return preference_likelihood(name, threshold=1.0 + log_tie.exp())
        case "davidson":
            return preference_likelihood(name, tie_weight=log_tie.exp())
        case _:
            return preference_likelihood(name, **parameters)


def first_log_tie(tie_share: float) -> float:
    """Return the log_tie of largest likelihood while all scores are equal.

    At equal scores rao_kupper calls (threshold - 1) / (threshold + 1) of all pairs a tie, and
    davidson tie_weight / (tie_weight + 2), so both begin with the same number.

    Args:
        tie_share: share of the pairs that are ties, above 0 and below 1.

    Returns:
        Where to begin.
    """
    return math.log(2.0 * tie_share / (1.0 - tie_share))


def num_outputs(likelihood: PreferenceLikelihood) -> int:
    """Return how many numbers a model must give for a response: a score, and maybe its noise."""
    return 2 if likelihood.needs == "log_scales" else 1


def answers_on_rows(
    ranks: NDArray[np.float32], row_sizes: Sequence[int], strengths: Sequence[float]
) -> Answers:
    """Lay out what annotators said row after row.

    Args:
        ranks: [response] in each row the best first: 0 for it, equal for a tie.
        row_sizes: responses in each row, at least 2.

    Returns:
        The answers, rows numbered from 0.
    """
    rows = torch.arange(len(row_sizes)).repeat_interleave(torch.tensor(row_sizes).long())
    return Answers(torch.from_numpy(ranks), rows, torch.tensor(strengths).float()[rows])


def count_ties(ranks: NDArray[np.float32], row_sizes: Sequence[int]) -> int:
    """Return how many pairs of responses of one row have equal ranks."""
    return sum(
        bool(ranks[i] == ranks[j])
        for first, size in _rows(row_sizes)
        for i, j in combinations(range(first, first + size), 2)
    )


def log_likelihoods(
    outputs: Float[Tensor, "response output"], answers: Answers, likelihood: PreferenceLikelihood
) -> LogLikelihoods:
    """Compute the log-likelihood of each answer.

    Args:
        outputs: scores, and log-scales where the likelihood needs them.
        answers: what was said of these responses.
        likelihood: whose num_outputs the outputs have.

    Returns:
        One a row for a likelihood of rankings, else one for every two of its responses.

    Raises:
        ValueError: if there are ties and the likelihood gives them no probability.

    References:
        Ouyang et al. 2022, arXiv:2203.02155, equation 1: the mean over the pairs of a row.
    """
    scores, rows = outputs[:, 0], answers.group_index
    pairs = pairs_in_groups(answers.ranks, rows, ties=True)
    if "ties" not in likelihood.takes and pairs.is_tie.any():
        raise ValueError(
            f"{int(pairs.is_tie.sum())} ties among the answers, to which {likelihood.name} gives "
            "no probability; take rao_kupper or davidson, or leave the ties out"
        )
    if "rankings" in likelihood.takes:
        values = likelihood.log_likelihood(rankings_of_groups(scores, rows))
        row_of_each = torch.arange(len(values), device=rows.device)
        return LogLikelihoods(values, row_of_each, torch.ones_like(values))
    compared = Comparisons(
        pairs.of(scores),
        is_tie=pairs.is_tie if "ties" in likelihood.takes else None,
        strengths=answers.strengths[pairs.better],
        log_scales=pairs.of(outputs[:, 1]) if outputs.shape[1] == 2 else None,
    )
    return LogLikelihoods(likelihood.log_likelihood(compared), rows[pairs.better], pairs.weights)


def preference_loss(
    outputs: Float[Tensor, "response output"],
    answers: Answers,
    likelihood: PreferenceLikelihood,
    *,
    num_rows: int,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the answers, a mean over the rows of an optimizer step.

    Args:
        outputs: scores, and log-scales where the likelihood needs them, whose squares are
            penalized.
        answers: what was said of these responses.
        likelihood: the model of the annotators.
        num_rows: of the whole step, over all microbatches and ranks.

    Returns:
        This microbatch's share of the loss, in nats; the shares add up.
    """
    costs = -log_likelihoods(outputs, answers, likelihood).row_means().sum()
    if outputs.shape[1] == 2:
        squares = outputs[:, 1].square() / sequence_lengths(answers.group_index)
        costs = costs + LOG_SCALE_PENALTY * squares.sum()
    return costs / num_rows


def rows_in_order(
    scores: NDArray[np.float32], ranks: NDArray[np.float32], row_sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Say of each row how much of its order the scores have.

    Args:
        scores: [response].
        ranks: [response], 0 for the best, equal for a tie.

    Returns:
        [row] share of its pairs of different ranks whose better one has the higher score, an equal
        score being half right; nan for a row that is all ties.
    """
    shares = []
    for first, size in _rows(row_sizes):
        right = [
            0.5 + 0.5 * np.sign(scores[i] - scores[j]) * np.sign(ranks[j] - ranks[i])
            for i, j in combinations(range(first, first + size), 2)
            if ranks[i] != ranks[j]
        ]
        shares.append(np.mean(right) if right else np.nan)
    return np.asarray(shares, np.float64)


def _rows(row_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return where each row begins, and its size."""
    ends = np.cumsum(row_sizes).tolist()
    return [(int(end) - int(size), int(size)) for end, size in zip(ends, row_sizes, strict=True)]
