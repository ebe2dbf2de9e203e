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
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from alignment.batching import PackedBatch
from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons, PreferenceLikelihood

LOG_SCALE_PENALTY = 0.01
"""Of learned_variance: weight of the mean squared log-scale. It fixes the unit of scores, which the
answers leave open, and is small beside what a domain twice as noisy as another gains."""


class ComparedResponses(NamedTuple):
    """What annotators said of responses, which are counted from 0.

    Of two rows, a pair and a tie, places is [[0, 1], [2, 3]] and is_tie [False, True].
    """

    places: Int[Tensor, "comparison place"]
    """Which response stands in each place, the preferred first; places not filled hold any."""
    is_tie: Bool[Tensor, " comparison"]
    strengths: Float[Tensor, " comparison"]
    """How much better the preferred response was said to be."""
    num_ranked: Int[Tensor, " comparison"]
    """Places that are filled."""
    weights: Float[Tensor, " comparison"]
    """1 over the comparisons of its row."""
    response_weights: Float[Tensor, " response"]
    """1 over the responses of its row."""

    def of(self, batch: PackedBatch) -> "ComparedResponses":
        """Return the answers on a microbatch, its responses counted in the order of the batch.

        Args:
            batch: packed from all the responses; its rows are whole.

        Returns:
            Those comparisons whose row is in it.
        """
        place_in_batch = torch.full((len(self.response_weights),), -1)
        place_in_batch[batch.trajectory_indices] = torch.arange(batch.num_sequences)
        chosen = place_in_batch[self.places[:, 0]] >= 0
        is_filled = torch.arange(self.places.shape[1]) < self.num_ranked[chosen, None]
        return ComparedResponses(
            places=place_in_batch[self.places[chosen]].where(is_filled, torch.tensor(0)),
            is_tie=self.is_tie[chosen],
            strengths=self.strengths[chosen],
            num_ranked=self.num_ranked[chosen],
            weights=self.weights[chosen],
            response_weights=self.response_weights[batch.trajectory_indices],
        )

    def to(self, device: torch.device) -> "ComparedResponses":
        """Return the same answers on this device."""
        return ComparedResponses(*(column.to(device) for column in self))


def learned_likelihood(
    name: str, parameters: Mapping[str, float], log_tie: Float[Tensor, ""]
) -> PreferenceLikelihood:
    """Look up a likelihood whose share of ties is free to be learned.

    Args:
        name: a key of PREFERENCE_LIKELIHOODS.
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


def compared_responses(
    ranks: NDArray[np.float32],
    row_sizes: Sequence[int],
    strengths: Sequence[float],
    likelihood: PreferenceLikelihood,
) -> ComparedResponses:
    """Turn ranks into what a likelihood compares.

    Args:
        ranks: [response] of row after row, in each the best first: 0 for it, equal for a tie.
        row_sizes: responses in each row, at least 2.
        strengths: of each row, and so of all its pairs.
        likelihood: takes rankings, or ties, or neither.

    Returns:
        A comparison a row for a likelihood of rankings, else one for every two of its responses.

    Raises:
        ValueError: if there are ties and the likelihood gives them no probability.

    References:
        Ouyang et al. 2022, arXiv:2203.02155, equation 1: the mean over the pairs of a row.
    """
    num_ties = count_ties(ranks, row_sizes)
    if num_ties and "ties" not in likelihood.takes:
        raise ValueError(
            f"{num_ties} ties among the answers, to which {likelihood.name} gives no probability; "
            "take rao_kupper or davidson, or leave the ties out"
        )
    whole = "rankings" in likelihood.takes
    places: list[tuple[int, ...]] = []
    weights: list[float] = []
    of_rows: list[float] = []
    for (first, size), strength in zip(_rows(row_sizes), strengths, strict=True):
        responses = range(first, first + size)
        of_row = [tuple(responses)] if whole else list(combinations(responses, 2))
        places += of_row
        weights += [1.0 / len(of_row)] * len(of_row)
        of_rows += [strength] * len(of_row)
    num_ranked = [len(each) for each in places]
    width = max(num_ranked, default=2)
    # what is not filled repeats the first place, and is not looked at
    padded = torch.tensor([(*each, *[each[0]] * (width - len(each))) for each in places])
    padded = padded.reshape(-1, width).long()
    ranked = torch.from_numpy(ranks)[padded]
    return ComparedResponses(
        places=padded,
        is_tie=ranked[:, 0] == ranked[:, 1],
        strengths=torch.tensor(of_rows).float(),
        num_ranked=torch.tensor(num_ranked).long(),
        weights=torch.tensor(weights).float(),
        response_weights=torch.tensor([1.0 / size for size in row_sizes for _ in range(size)]),
    )


def count_ties(ranks: NDArray[np.float32], row_sizes: Sequence[int]) -> int:
    """Return how many pairs of responses of one row have equal ranks."""
    return sum(
        bool(ranks[i] == ranks[j])
        for first, size in _rows(row_sizes)
        for i, j in combinations(range(first, first + size), 2)
    )


def log_likelihoods(
    outputs: Float[Tensor, "response output"],
    compared: ComparedResponses,
    likelihood: PreferenceLikelihood,
) -> Float[Tensor, " comparison"]:
    """Compute the log-likelihood of each answer.

    Args:
        outputs: scores, and log-scales where the likelihood needs them.
        compared: what was said of these responses.
        likelihood: whose num_outputs the outputs have.

    Returns:
        Natural logs, at most 0.
    """
    placed = outputs[compared.places]
    is_ranking = "rankings" in likelihood.takes
    return likelihood.log_likelihood(
        Comparisons(
            placed[..., 0],
            is_tie=compared.is_tie if "ties" in likelihood.takes else None,
            strengths=compared.strengths,
            log_scales=placed[..., 1] if outputs.shape[1] == 2 else None,
            num_ranked=compared.num_ranked if is_ranking else None,
        )
    )


def preference_loss(
    outputs: Float[Tensor, "response output"],
    compared: ComparedResponses,
    likelihood: PreferenceLikelihood,
    *,
    num_rows: int,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the answers, a mean over the rows of an optimizer step.

    Args:
        outputs: scores, and log-scales where the likelihood needs them, whose squares are
            penalized.
        compared: what was said of these responses.
        likelihood: the model of the annotators.
        num_rows: of the whole step, over all microbatches and ranks.

    Returns:
        This microbatch's share of the loss, in nats; the shares add up.
    """
    costs = -(compared.weights * log_likelihoods(outputs, compared, likelihood)).sum()
    if outputs.shape[1] == 2:
        costs = (
            costs + LOG_SCALE_PENALTY * (compared.response_weights * outputs[:, 1].square()).sum()
        )
    return costs / num_rows


def rows_in_order(
    scores: NDArray[np.float32], ranks: NDArray[np.float32], row_sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Say of each row how much of its order the scores have.

    Args:
        scores: [response].
        ranks: [response], 0 for the best, equal for a tie.
        row_sizes: responses in each row.

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
