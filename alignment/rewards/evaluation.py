"""Evaluates an ensemble of reward models on held-out labels."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alignment.data.tokenized import TokenizedComparisons
from alignment.intervals import mean_of_finite, with_interval
from alignment.mdp.ranked_responses import RankedResponses
from alignment.preferences.labelled_pairs import pairs_of_responses, untied_accuracies
from alignment.preferences.likelihood_loss import log_likelihoods
from alignment.preferences.record import PreferenceLikelihood

METRICS = "reward_model.json"
"""File of the run directory: metrics of the members on held-out comparisons."""
FEATURES = "features.safetensors"
"""Optional file of the run directory: the inputs of the head of member 0."""


class HeldOutComparisons(NamedTuple):
    """The comparisons of the evaluation set."""

    rows: list[int]
    """[comparison] its row number in the data."""
    domains: list[str | None]
    """[comparison]"""
    ranked: RankedResponses


class MemberLogits(NamedTuple):
    """The outputs of one member of the ensemble for the held-out responses."""

    scores: list[float]
    """[response]"""
    log_scales: list[float] | None
    """[response] log-scale of its noise, if the likelihood has one."""
    log_tie: float
    """Tie parameter of the member's likelihood; see learned_likelihood."""

    @property
    def outputs(self) -> NDArray[np.float32]:
        """[response, output]: score, and log-scale if there is one."""
        columns = [self.scores] if self.log_scales is None else [self.scores, self.log_scales]
        return np.asarray(columns, np.float32).T


def held_out_metrics(
    held_out: HeldOutComparisons,
    members: Sequence[MemberLogits],
    likelihoods: Sequence[PreferenceLikelihood],
) -> dict[str, Any]:
    """Measure an ensemble, whose scores and probabilities are the means of its members'.

    Args:
        likelihoods: [member] each with its own probability of ties.

    Returns:
        Metrics for JSON. accuracy: fraction of pairs in the annotators' order, equal scores half,
        averaged over comparisons. log_likelihood: of a label in nats, averaged over comparisons and
        before that over the pairs of each. Both as mean, low and high, a 95 % bootstrap interval
        over comparisons, and num_rows, the number of comparisons with a value. members: the means
        of both for each member, and its log_tie. comparisons: row, domain, ranks, response_tokens
        and scores [member][response] of each, and log_scales where there are any.
    """
    pairs = pairs_of_responses(held_out.ranked)
    outputs = [torch.from_numpy(member.outputs).double() for member in members]
    of_members = [
        log_likelihoods(each, pairs, likelihood)
        for each, likelihood in zip(outputs, likelihoods, strict=True)
    ]
    values = torch.stack([each.values for each in of_members]).logsumexp(0)
    of_ensemble = of_members[0]._replace(values=values - math.log(len(members)))
    scores = torch.stack([each[:, 0] for each in outputs])
    return {
        "accuracy": with_interval(_accuracies(scores.mean(0), held_out.ranked)),
        "log_likelihood": with_interval(of_ensemble.means().detach().numpy()),
        "members": [
            {
                "accuracy": mean_of_finite(_accuracies(own_scores, held_out.ranked)),
                "log_likelihood": mean_of_finite(own.means().detach().numpy()),
                "log_tie": member.log_tie,
            }
            for own_scores, own, member in zip(scores, of_members, members, strict=True)
        ],
        "comparisons": _comparisons(held_out, members),
    }


def _comparisons(
    held_out: HeldOutComparisons, members: Sequence[MemberLogits]
) -> list[dict[str, Any]]:
    """Return a record of each comparison for JSON."""
    listed = []
    ranked = held_out.ranked
    lengths = ranked.trajectories.response_lengths
    for number, (row, domain) in enumerate(zip(held_out.rows, held_out.domains, strict=True)):
        own = np.flatnonzero(ranked.trajectories.prompt_ids == number)
        one: dict[str, Any] = {
            "row": row,
            "domain": domain,
            "ranks": ranked.ranks[own].tolist(),
            "response_tokens": lengths[own].tolist(),
            "scores": [[member.scores[i] for i in own] for member in members],
        }
        scales = [[each.log_scales[i] for i in own] for each in members if each.log_scales]
        listed.append(one | ({"log_scales": scales} if scales else {}))
    return listed


def preferred_length(train: RankedResponses) -> Literal["longer", "shorter"]:
    """Return which of two responses is preferred more often; each comparison counts the same.

    Returns:
        "longer" also where both are preferred equally often.
    """
    accuracy = mean_of_finite(_accuracies(_lengths(train), train))
    return "longer" if accuracy is None or accuracy >= 0.5 else "shorter"


def length_baseline(
    prefers: Literal["longer", "shorter"], held_out: HeldOutComparisons
) -> dict[str, Any]:
    """Measure the accuracy of a score that is the length alone, as a model is measured.

    Args:
        prefers: preferred_length of the training rows.

    Returns:
        prefers, and mean, low, high and num_rows of the accuracy.
    """
    sign = 1.0 if prefers == "longer" else -1.0
    accuracies = _accuracies(sign * _lengths(held_out.ranked), held_out.ranked)
    return {"prefers": prefers, **with_interval(accuracies)}


def held_out_comparisons(data: TokenizedComparisons) -> HeldOutComparisons:
    """Return the comparisons of the evaluation set."""
    rows = data.held_out_rows
    return HeldOutComparisons(
        rows.tolist(), [data.rows[row].domain for row in rows], data.select(rows)
    )


def _lengths(ranked: RankedResponses) -> Float[Tensor, " response"]:
    return torch.from_numpy(ranked.trajectories.response_lengths).double()


def _accuracies(scores: Float[Tensor, " response"], ranked: RankedResponses) -> NDArray[np.float64]:
    """[comparison] fraction of its untied pairs in order; nan if all are ties."""
    accuracies: NDArray[np.float64] = untied_accuracies(scores, pairs_of_responses(ranked)).numpy()
    return accuracies
