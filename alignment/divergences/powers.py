"""Divergences whose generator is a power of the ratio: the alpha family and three members."""

import math

import torch
from torch import Tensor

from alignment.divergences.record import MAX_LOGIT, MAX_WEIGHT, Divergence, Generator

MAX_PEARSON_LOGIT = 2.0
"""The reward e^(2 h) has the heaviest tail of all; at this logit it is e^4 = 55."""
MIN_NEYMAN_LOGIT = -3.0
"""The reward -2 e^(-h) is very low for responses unlike the expert's; here it is -2 e^3 = -40."""


def alpha(alpha: float) -> Divergence:
    """Return Amari's alpha-divergence, which runs from reverse KL (0) to forward KL (1).

    Halfway, at 1/2, it is twice the squared Hellinger distance; at 2 half the Pearson and at -1
    half the Neyman chi-square divergence. Its sides change places under alpha -> 1 - alpha.

    Returns:
        The record, continuous in alpha; its generator has f'(1) = 0 and f''(1) = 1.

    Raises:
        ValueError: if alpha is not finite.

    References:
        Amari 1985, with alpha = (1 - alpha_Amari) / 2 and p, q as here; the rewards are the Box-Cox
        transform of e^h.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number; got {alpha}")
    # (u^a - a u + a - 1) / (a (a - 1)) = u f' - r, with r and f' the transforms in a and a - 1
    is_steep = not 0.0 <= alpha <= 1.0
    return Divergence(
        name="alpha",
        formula="sum (p^alpha q^(1 - alpha) - alpha p - (1 - alpha) q) / (alpha (alpha - 1))",
        generator_formula="(u^alpha - alpha u + alpha - 1) / (alpha (alpha - 1))",
        reward_formula="(e^(alpha h) - 1) / alpha",
        behavior="from seeking modes to covering modes as alpha grows",
        choose_when="you want a family: 0 is reverse_kl, 1/2 twice squared_hellinger, 1 forward_kl",
        avoid_when="alpha is below 0 or above 1: rewards of single responses become very large",
        generator=Generator(
            f=lambda u: u * _box_cox(u.log(), alpha - 1.0) - _box_cox(u.log(), alpha),
            derivative=lambda u: _box_cox(u.log(), alpha - 1.0),
            second_derivative=lambda u: u ** (alpha - 2.0),
            at_zero=1.0 / alpha if alpha > 0.0 else math.inf,
            slope_at_infinity=1.0 / (1.0 - alpha) if alpha < 1.0 else math.inf,
        ),
        reward=lambda h: _box_cox(h, alpha),
        safe_logits=_alpha_safe_logits(alpha),
        parameters="alpha: any real number, continuous at 0 and 1; usually in [0, 1]",
        caveat=(
            f"alpha = {alpha:g} is outside [0, 1], where the reward of a single response can "
            "dominate all others; use an alpha from 0 (reverse_kl) to 1 (forward_kl)"
            if is_steep
            else None
        ),
    )


def squared_hellinger() -> Divergence:
    """Return the squared Hellinger distance without a factor 1/2, between 0 and 2."""
    return Divergence(
        name="squared_hellinger",
        formula="sum (sqrt p - sqrt q)^2",
        generator_formula="(sqrt u - 1)^2",
        reward_formula="e^(h / 2)",
        behavior="as jensen_shannon: seeks modes that are far apart",
        choose_when="you want a bounded, symmetric divergence with an unbounded reward",
        avoid_when="the policy starts far from the expert: the reward is flat at low h",
        generator=Generator(
            f=lambda u: (u.sqrt() - 1.0).square(),
            derivative=lambda u: 1.0 - u.rsqrt(),
            second_derivative=lambda u: 0.5 * u**-1.5,
            at_zero=1.0,
            slope_at_infinity=1.0,
        ),
        reward=lambda h: (0.5 * h).exp(),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def pearson_chi2() -> Divergence:
    """Return the chi-square divergence from expert to policy, relative to the policy."""
    return Divergence(
        name="pearson_chi2",
        formula="sum (p - q)^2 / q",
        generator_formula="(u - 1)^2",
        reward_formula="e^(2 h)",
        behavior="covers modes, even more than forward_kl",
        choose_when="you want to minimize the variance of the importance weights p / q",
        avoid_when="a discriminator is learned: a few responses dominate every step",
        generator=Generator(
            f=lambda u: (u - 1.0).square(),
            derivative=lambda u: 2.0 * (u - 1.0),
            second_derivative=lambda u: torch.full_like(u, 2.0),
            at_zero=1.0,
            slope_at_infinity=math.inf,
        ),
        reward=lambda h: (2.0 * h).exp(),
        safe_logits=(-MAX_LOGIT, MAX_PEARSON_LOGIT),
        caveat=(
            "its reward e^(2 h) has the heaviest tail of all, so a few responses dominate a step; "
            "use forward_kl or skew_forward_kl to cover the expert's modes"
        ),
    )


def neyman_chi2() -> Divergence:
    """Return the chi-square divergence from policy to expert, relative to the expert."""
    return Divergence(
        name="neyman_chi2",
        formula="sum (p - q)^2 / p",
        generator_formula="(1 - u)^2 / u",
        reward_formula="-2 e^(-h)",
        behavior="seeks modes, even more than reverse_kl",
        choose_when="responses that the expert would never give must be avoided above all",
        avoid_when="the policy starts far from the expert: its worst responses dominate every step",
        generator=Generator(
            f=lambda u: (1.0 - u).square() / u,
            derivative=lambda u: 1.0 - u**-2.0,
            second_derivative=lambda u: 2.0 * u**-3.0,
            at_zero=math.inf,
            slope_at_infinity=1.0,
        ),
        reward=lambda h: -2.0 * (-h).exp(),
        safe_logits=(MIN_NEYMAN_LOGIT, MAX_LOGIT),
        caveat=(
            "its reward -2 e^(-h) is very low for responses of a policy far from the expert; "
            "use reverse_kl to seek the expert's modes"
        ),
    )


def _box_cox(logits: Tensor, weight: float) -> Tensor:
    """Return the Box-Cox transform (u^w - 1) / w at u = e^h, and its limit h at w = 0."""
    return torch.expm1(weight * logits) / weight if weight else logits.clone()


def _alpha_safe_logits(alpha: float) -> tuple[float, float]:
    """Let e^(alpha h) be at most MAX_WEIGHT on the side where it grows."""
    limit = min(MAX_LOGIT, math.log(MAX_WEIGHT) / abs(alpha)) if alpha else MAX_LOGIT
    return (-limit, MAX_LOGIT) if alpha < 0.0 else (-MAX_LOGIT, limit)
