"""Gaussian noise on each response's score: the same for all, or learned for each."""

import math

import torch
from torch import Tensor

from alignment.preferences.record import Comparisons, PreferenceLikelihood, differences


def thurstone(scale: float) -> PreferenceLikelihood:
    """Return case V of Thurstone 1927: every score has the same Gaussian noise.

    Args:
        scale: standard deviation of the noise on one response, in units of scores; above 0. It
            sets the unit of learned scores and does not change their order.

    Raises:
        ValueError: if scale is not positive and finite.
    """
    if not 0.0 < scale < math.inf:
        raise ValueError(
            f"scale must be positive and finite; it is {scale}, and without noise a label "
            "against the scores would have probability 0"
        )
    return PreferenceLikelihood(
        name="thurstone",
        formula="Phi(d / (sqrt 2 scale)), Phi the normal distribution function",
        behavior=(
            "as bradley_terry, but the cost of a wrong order grows with the squared difference"
        ),
        choose_when="noise has many small causes, and few labels are plain mistakes",
        avoid_when="some labels are plain mistakes: they have the largest gradients",
        takes=("pairs",),
        log_probabilities=lambda comparisons: _log_normal_cdf(
            differences(comparisons) / (math.sqrt(2.0) * scale)
        ),
        parameters="scale: standard deviation of one response's noise, above 0",
    )


def learned_variance() -> PreferenceLikelihood:
    """Return the heteroscedastic model: the noise of each response is learned with its score.

    The noise is e^(log scale). Labels determine only the ratio of scores and noise, so a fit must
    fix the unit: by log-scales of mean 0, or by a penalty on their squares.
    """
    return PreferenceLikelihood(
        name="learned_variance",
        formula="Phi(d / sqrt(s_i^2 + s_j^2)), s the noise of each",
        behavior="labels of responses with much noise have less weight",
        choose_when="domains or annotators differ in noise",
        avoid_when="there are few pairs: the noise needs more of them, and a second output",
        takes=("pairs",),
        log_probabilities=_heteroscedastic,
        needs="log_scales",
    )


def _heteroscedastic(comparisons: Comparisons) -> Tensor:
    assert comparisons.log_scales is not None
    log_noise = 0.5 * (2.0 * comparisons.log_scales).logsumexp(1)
    return _log_normal_cdf(differences(comparisons) * (-log_noise).exp())


def _log_normal_cdf(x: Tensor) -> Tensor:
    """Return log Phi(x), in float64: torch's float32 gradient is 4 % off at x = -1000."""
    exact: Tensor = torch.special.log_ndtr(x.double())
    return exact.to(x.dtype)
