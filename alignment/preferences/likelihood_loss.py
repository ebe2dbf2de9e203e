"""Negative log-likelihood of preference labels, given one score for each response.

Scores come from a reward model, from a discriminator's logits or from a policy's implicit reward. A
likelihood of rankings takes each comparison whole; any other takes every two of its responses, and
each comparison counts the same, however many pairs it has (Ouyang et al. 2022, arXiv:2203.02155,
equation 1). Parameters of a likelihood can be trained in addition to the scores: one number for the
probability of ties, or a second output of the model for the noise of each response.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import sequence_lengths
from alignment.preferences.labelled_pairs import LabelledPairs, rankings_of_groups
from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons, PreferenceLikelihood

LOG_SCALE_PENALTY = 0.01
"""Weight of the mean squared log-scale under learned_variance. The labels leave the unit of scores
open and the penalty fixes it; it costs less than a domain twice as noisy as another gains."""


class LogLikelihoods(NamedTuple):
    """One value for each label: a whole comparison, or every two of its responses."""

    values: Float[Tensor, " label"]
    """Natural logs, at most 0."""
    comparisons: Int[Tensor, " label"]
    """The comparison of each label, ascending; each comparison has at least one."""
    weights: Float[Tensor, " label"]
    """1 over the labels of the comparison."""

    def total(self) -> Float[Tensor, ""]:
        """Sum, over comparisons, the mean of their labels."""
        return (self.weights * self.values).sum()

    def means(self) -> Float[Tensor, " comparison"]:
        """Average over the labels of each comparison."""
        means = self.values.new_zeros(int(self.comparisons[-1]) + 1)
        return means.index_add(0, self.comparisons, self.weights.to(means) * self.values)


def log_likelihoods(
    outputs: Float[Tensor, "response output"],
    pairs: LabelledPairs,
    likelihood: PreferenceLikelihood,
    *,
    label_smoothing: float = 0.0,
) -> LogLikelihoods:
    """Compute the log-likelihood of each label.

    Args:
        outputs: a score, and the log-scale of its noise where the likelihood needs log_scales.
        label_smoothing: probability that a pair was labelled the wrong way round, below 1/2.

    Returns:
        One value for each comparison if the likelihood takes rankings, else one for each pair.

    Raises:
        ValueError: if there are ties and the likelihood gives them no probability, or
            label_smoothing is out of range or not defined for it.
    """
    _require_smoothing(label_smoothing, likelihood)
    if "ties" not in likelihood.takes and pairs.is_tie.any():
        raise ValueError(
            f"the labels hold {int(pairs.is_tie.sum())} ties, to which {likelihood.name} gives no "
            "probability; choose rao_kupper or davidson, or leave the ties out"
        )
    scores = outputs[:, 0]
    if "rankings" in likelihood.takes:
        values = likelihood.log_likelihood(rankings_of_groups(scores, pairs.group_index))
        comparisons = torch.arange(len(values), device=values.device)
        return LogLikelihoods(values, comparisons, torch.ones_like(values))
    given = Comparisons(
        pairs.of(scores),
        is_tie=pairs.is_tie if "ties" in likelihood.takes else None,
        strengths=pairs.strengths,
        log_scales=pairs.of(outputs[:, 1]) if outputs.shape[1] == 2 else None,
    )
    values = likelihood.log_likelihood(given)
    if label_smoothing:
        values = values.lerp(likelihood.log_likelihood(given.reversed()), label_smoothing)
    return LogLikelihoods(values, pairs.comparisons, pairs.weights)


def likelihood_loss(
    outputs: Float[Tensor, "response output"],
    pairs: LabelledPairs,
    likelihood: PreferenceLikelihood,
    *,
    num_comparisons: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the labels, averaged over the comparisons of an optimizer step.

    Args:
        outputs: as log_likelihoods takes them; they receive the gradient. The squares of log-scales
            are penalized.
        num_comparisons: comparisons in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, in nats; the terms add up.
    """
    loss = -log_likelihoods(outputs, pairs, likelihood, label_smoothing=label_smoothing).total()
    if outputs.shape[1] == 2:
        squares = outputs[:, 1].square() / sequence_lengths(pairs.group_index)
        loss = loss + LOG_SCALE_PENALTY * squares.sum()
    return loss / num_comparisons


def learned_likelihood(
    name: str, parameters: Mapping[str, float], log_tie: Float[Tensor, ""]
) -> PreferenceLikelihood:
    """Look up a likelihood whose tie parameter, if it has one, is trained.

    Args:
        parameters: its parameters; those of rao_kupper and davidson follow from log_tie.
        log_tie: any real number, differentiable: the log of rao_kupper's threshold less 1, or of
            davidson's tie_weight. Other likelihoods ignore it.
    """
    match name:
        case "rao_kupper":
            return preference_likelihood(name, threshold=1.0 + log_tie.exp())
        case "davidson":
            return preference_likelihood(name, tie_weight=log_tie.exp())
        case _:
            return preference_likelihood(name, **parameters)


def initial_log_tie(tie_fraction: float) -> float:
    """Return the log_tie of largest likelihood while all scores are equal.

    At equal scores the probability of a tie is (threshold - 1) / (threshold + 1) under rao_kupper
    and tie_weight / (tie_weight + 2) under davidson, so both have the same initial value.

    Args:
        tie_fraction: fraction of the pairs that are ties, above 0 and below 1.
    """
    return math.log(2.0 * tie_fraction / (1.0 - tie_fraction))


def num_outputs(likelihood: PreferenceLikelihood) -> int:
    """Return the number of outputs of a model: a score, and a log-scale if it is needed."""
    return 2 if likelihood.needs == "log_scales" else 1


def _require_smoothing(label_smoothing: float, likelihood: PreferenceLikelihood) -> None:
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5); it is {label_smoothing}")
    if label_smoothing and "rankings" in likelihood.takes:
        raise ValueError(
            f"label_smoothing is {label_smoothing}, but a ranking has no single opposite; make it "
            f"0, or choose bradley_terry instead of {likelihood.name}, which splits rankings into "
            "pairs"
        )
