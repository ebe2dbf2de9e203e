"""Rewards that are often mistaken for the reward of another divergence; each has a caveat."""

import math

import torch
from torch.nn.functional import logsigmoid

from alignment.divergences.record import MAX_LOGIT, MAX_WEIGHT, Divergence, Generator

MAX_CRITIC = 1000.0
"""Only differences of a critic matter, so its level is free. Larger values lose float32 digits."""


def log_d() -> Divergence:
    """Return KL(policy, expert) - 2 JS, which the reward log D of many GAIL codes minimizes.

    References:
        The generator loss that Goodfellow et al. 2014 propose in place of their own,
        arXiv:1406.2661; what it minimizes: Arjovsky & Bottou 2017, arXiv:1701.04862, theorem 2.5.
    """

    def f(u: torch.Tensor) -> torch.Tensor:
        return (u + 1.0) * ((u + 1.0) / (2.0 * u)).log()

    def derivative(u: torch.Tensor) -> torch.Tensor:
        return -1.0 / u - (2.0 * u / (u + 1.0)).log()

    return Divergence(
        name="log_d",
        formula="sum q log(q / p) - sum p log(p / m) - sum q log(q / m), m = (p + q) / 2",
        generator_formula="(u + 1) log((u + 1) / (2 u))",
        reward_formula="log D = -log(1 + e^(-h))",
        behavior="seeks modes as reverse_kl does, with a reward that is at most 0",
        choose_when="you reproduce results of a GAIL implementation with the reward log D",
        avoid_when="you want the Jensen-Shannon divergence",
        generator=Generator(
            f=f,
            derivative=derivative,
            second_derivative=lambda u: 1.0 / (u.square() * (1.0 + u)),
            at_zero=math.inf,
            slope_at_infinity=-math.log(2.0),
        ),
        reward=logsigmoid,
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
        caveat=(
            "the reward log D minimizes KL(policy, expert) - 2 JS, not the Jensen-Shannon "
            "divergence; use jensen_shannon for that"
        ),
    )


def fairl() -> Divergence:
    """Return FAIRL's reward -h e^h, published as forward KL, which belongs to no divergence.

    It is -f(u), the integrand of forward KL, where the gradient asks for u f'(u) - f(u). It falls
    for every h above -1, so near the expert it leads away from it.

    References:
        Ghasemipour et al. 2019, arXiv:1911.02256.
    """
    return Divergence(
        name="fairl",
        formula="none",
        generator_formula="none: f'' = -(1 + log u) / u is negative for u > 1 / e",
        reward_formula="-h e^h",
        behavior="unstable: the policy moves away from the expert where h > -1",
        choose_when="you study the published reward itself",
        avoid_when="you want to align a policy",
        generator=None,
        reward=lambda h: -h * h.exp(),
        safe_logits=(-MAX_LOGIT, math.log(MAX_WEIGHT)),
        caveat=(
            "its reward -h e^h falls for h > -1, so it minimizes no divergence near the expert and "
            "drives the policy away from it; use forward_kl or skew_forward_kl"
        ),
    )


def wasserstein() -> Divergence:
    """Return the reward of a critic that estimates a Wasserstein distance, which is the critic.

    References:
        Arjovsky et al. 2017, arXiv:1701.07875; gradient penalty: Gulrajani et al. 2017,
        arXiv:1704.00028.
    """
    return Divergence(
        name="wasserstein",
        formula="sup over 1-Lipschitz T of sum (p - q) T",
        generator_formula="none: it is no f-divergence",
        reward_formula="T, the critic itself",
        behavior="depends on distances between embeddings, not on probability ratios alone",
        choose_when="expert and policy hardly overlap, so a classifier separates them perfectly",
        avoid_when=(
            "you need a reward in nats: the scale of the critic depends on the gradient penalty"
        ),
        generator=None,
        reward=torch.clone,
        safe_logits=(-MAX_CRITIC, MAX_CRITIC),
        caveat=(
            "it needs a critic with a gradient penalty, whose output is not a log-ratio, so its "
            "value and calibration are not those of a divergence; use reverse_kl for nats"
        ),
    )
