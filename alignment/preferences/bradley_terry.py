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
        behavior="assumes the same noise on all responses",
        choose_when="annotators chose the better of two responses: the default",
        avoid_when="some domains or annotators are much noisier than others, or ties were allowed",
        takes=("pairs",),
        log_probabilities=lambda comparisons: logsigmoid(differences(comparisons)),
    )


def margin(margin_per_strength: float) -> PreferenceLikelihood:
    """Return the Bradley-Terry loss with a margin that grows with the strength of the preference.

    Args:
        margin_per_strength: margin in nats for a preference of strength 1; finite and at least 0,
            where the loss is bradley_terry.

    Raises:
        ValueError: if margin_per_strength is negative or not finite.

    References:
        Touvron et al. 2023 (Llama 2), arXiv:2307.09288, equation 2, with m = margin_per_strength
        times the strength.
    """
    if not 0.0 <= margin_per_strength < math.inf:
        raise ValueError(
            f"margin_per_strength must be finite and at least 0; it is {margin_per_strength}, and "
            "a negative margin would lower the loss of the strongest preferences"
        )

    def log_probabilities(comparisons: Comparisons) -> Tensor:
        assert comparisons.strengths is not None
        return logsigmoid(differences(comparisons) - margin_per_strength * comparisons.strengths)

    return PreferenceLikelihood(
        name="margin",
        formula="1 / (1 + e^(m - d)), m = margin_per_strength * strength",
        behavior="as bradley_terry, but strong preferences move scores further apart",
        choose_when="the data have strengths, and errors on strong preferences matter most",
        avoid_when="score differences must be log-odds, as for a KL-regularized policy",
        takes=("pairs",),
        log_probabilities=log_probabilities,
        needs="strengths",
        parameters="margin_per_strength: margin in nats at strength 1, at least 0",
        caveat=(
            "with a margin the probabilities of both labels sum to less than 1, so its scores are "
            "not calibrated log-odds; use bradley_terry for calibrated scores"
        ),
    )
