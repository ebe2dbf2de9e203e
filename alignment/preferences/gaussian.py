"""Gaussian noise on each response's score: the same for all, or learned for each."""

import math

import torch
from torch import Tensor

from alignment.preferences.record import Comparisons, PreferenceLikelihood, differences


def thurstone(scale: float) -> PreferenceLikelihood:
    """Return case V of Thurstone 1927: each response is seen with the same Gaussian noise.

    Args:
        scale: standard deviation of the noise on one response, in units of scores; above 0. A
            model whose scores are free learns the same order at any scale, in other units.

    Returns:
        The record.

    Raises:
        ValueError: if scale is not positive and finite.
    """
    if not 0.0 < scale < math.inf:
        raise ValueError(
            f"scale must be positive and finite; it is {scale}, and without noise no answer "
            "against the scores would have any probability"
        )
    return PreferenceLikelihood(
        name="thurstone",
        formula="Phi(d / (sqrt 2 scale)), Phi the normal distribution function",
        behavior="as bradley_terry, but an answer against a large difference costs its square",
        choose_when="noise comes from many small causes, and answers are clean",
        avoid_when="some answers are plain mistakes: they pull hardest, with a force that grows",
        takes=("pairs",),
        log_probabilities=lambda comparisons: _log_normal_cdf(
            differences(comparisons) / (math.sqrt(2.0) * scale)
        ),
        parameters="scale: standard deviation of one response's noise, above 0",
    )


def learned_variance() -> PreferenceLikelihood:
    """Return the heteroscedastic model: each response has a noise of its own, learned too.

    The noise is e^(log scale). Only ratios of scores and noise can be seen, so whoever fits both
    must fix the unit: let the log-scales have mean 0, or penalize their squares.
    """
    return PreferenceLikelihood(
        name="learned_variance",
        formula="Phi(d / sqrt(s_i^2 + s_j^2)), s the noise of each",
        behavior="answers on responses that are hard to judge count for less",
        choose_when="domains or annotators differ in noise, so that one score scale misorders them",
        avoid_when="pairs are few: scales need more of them than scores, and cost a second output",
        takes=("pairs",),
        log_probabilities=_heteroscedastic,
        needs="log_scales",
    )


def _heteroscedastic(comparisons: Comparisons) -> Tensor:
    assert comparisons.log_scales is not None
    log_noise = 0.5 * (2.0 * comparisons.log_scales).logsumexp(1)
    return _log_normal_cdf(differences(comparisons) * (-log_noise).exp())


def _log_normal_cdf(x: Tensor) -> Tensor:
    """Return log Phi(x), in float64: torch's float32 gradient is 4 % off at x = -1000 already."""
    exact: Tensor = torch.special.log_ndtr(x.double())
    return exact.to(x.dtype)
