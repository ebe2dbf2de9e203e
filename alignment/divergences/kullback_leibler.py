"""The Kullback-Leibler divergences in both directions, and their sum."""

import math

import torch
from torch import Tensor

from alignment.divergences.record import MAX_LOGIT, MAX_WEIGHT, Divergence, Generator


def forward_kl() -> Divergence:
    """Return KL(expert, policy), the divergence that supervised fine-tuning minimizes."""
    return Divergence(
        name="forward_kl",
        formula="sum p log(p / q)",
        generator_formula="u log u",
        reward_formula="e^h",
        behavior="covers every mode of the expert and puts mass between the modes",
        choose_when="all modes of the expert must be covered, and SFT alone does not cover them",
        avoid_when="demonstrations suffice: SFT minimizes it without a discriminator",
        generator=Generator(
            f=lambda u: u * u.log(),
            derivative=lambda u: u.log() + 1.0,
            second_derivative=lambda u: 1.0 / u,
            at_zero=0.0,
            slope_at_infinity=math.inf,
        ),
        reward=torch.exp,
        safe_logits=(-MAX_LOGIT, math.log(MAX_WEIGHT)),
    )


def reverse_kl() -> Divergence:
    """Return KL(policy, expert), whose reward is the logit itself (AIRL, arXiv:1710.11248)."""
    return Divergence(
        name="reverse_kl",
        formula="sum q log(q / p)",
        generator_formula="-log u",
        reward_formula="h",
        behavior="seeks modes: avoids responses that the expert would not give, and may drop modes",
        choose_when="quality matters more than variety, or the policy starts far from the expert",
        avoid_when="variety matters and the policy is too small to match the expert",
        generator=Generator(
            f=lambda u: -u.log(),
            derivative=lambda u: -1.0 / u,
            second_derivative=lambda u: u**-2.0,
            at_zero=math.inf,
            slope_at_infinity=0.0,
        ),
        reward=torch.clone,
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def jeffreys() -> Divergence:
    """Return the sum of both KL divergences, which is symmetric and may be infinite."""

    def f(u: Tensor) -> Tensor:
        return (u - 1.0) * u.log()

    def derivative(u: Tensor) -> Tensor:
        return u.log() + 1.0 - 1.0 / u

    return Divergence(
        name="jeffreys",
        formula="sum (p - q) log(p / q)",
        generator_formula="(u - 1) log u",
        reward_formula="h + e^h",
        behavior="penalizes both missing modes and mass between the modes",
        choose_when="modes must be covered, and the policy starts far from the expert",
        avoid_when="the discriminator is inaccurate: e^h in the reward amplifies its errors",
        generator=Generator(
            f=f,
            derivative=derivative,
            second_derivative=lambda u: 1.0 / u + u**-2.0,
            at_zero=math.inf,
            slope_at_infinity=math.inf,
        ),
        reward=lambda h: h + h.exp(),
        safe_logits=(-MAX_LOGIT, math.log(MAX_WEIGHT)),
    )
