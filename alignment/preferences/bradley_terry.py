"""Logistic noise: the Bradley-Terry model, and its loss with a margin."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.preferences.record import Comparisons, PreferenceLikelihood, differences


def bradley_terry() -> PreferenceLikelihood:
    """Return the model of Bradley & Terry 1952: the score difference is the log-odds."""
    return PreferenceLikelihood(
        name="bradley_terry",
        formula="1 / (1 + e^(-d))",
        behavior="one noise for all responses; differences mean the same at every prompt",
        choose_when="annotators had to pick the better of two: the default",
        avoid_when="some domains or annotators are much noisier than others, or ties were allowed",
        takes=("pairs",),
        log_probabilities=lambda comparisons: logsigmoid(differences(comparisons)),
    )


def margin(margin_per_strength: float) -> PreferenceLikelihood:
    """Return the Bradley-Terry loss that asks for a larger difference the stronger a preference.

    Args:
        margin_per_strength: difference of scores, in nats, that a preference of strength 1 must
            exceed before it counts as won; finite and at least 0, which is bradley_terry.

    Returns:
        The record.

    Raises:
        ValueError: if margin_per_strength is negative or not finite.

    References:
        Touvron et al. 2023 (Llama 2), arXiv:2307.09288, equation 2, with m = margin_per_strength
        times the strength.
    """
    if not 0.0 <= margin_per_strength < math.inf:
        raise ValueError(
            f"margin_per_strength must be finite and at least 0; it is {margin_per_strength}, and "
            "below 0 the loss would forgive the strongest preferences first"
        )

    def log_probabilities(comparisons: Comparisons) -> Tensor:
        assert comparisons.strengths is not None
        return logsigmoid(differences(comparisons) - margin_per_strength * comparisons.strengths)

    return PreferenceLikelihood(
        name="margin",
        formula="1 / (1 + e^(m - d)), m = margin_per_strength * strength",
        behavior="as bradley_terry, and strong preferences pull scores further apart",
        choose_when="annotators also said how much better, and big errors must not happen",
        avoid_when="score differences must stay log-odds, as for a KL-regularized policy",
        takes=("pairs",),
        log_probabilities=log_probabilities,
        needs="strengths",
        parameters="margin_per_strength: nats asked for at strength 1, at least 0",
        caveat=(
            "with a margin the chances of both answers sum to less than 1, so its scores are no "
            "calibrated log-odds; take bradley_terry if they must be"
        ),
    )
