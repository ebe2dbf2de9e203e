"""The implicit reward of a policy: the reward for which the policy is optimal.

A policy that maximizes E[reward] - beta D(reference, policy) has, at every response,

    reward = -beta r(log(reference / policy)) + constant,

where r is the reward of the divergence: policy gradients of D and of the expected reward cancel.
The divergence runs from the reference, in the expert's place, to the policy, and keeps its name:

    reverse_kl        KL(policy, reference)    beta l, with l = log(policy / reference)
    forward_kl        KL(reference, policy)    -beta e^(-l)
    jensen_shannon    symmetric                1/2 beta log sigmoid(l)
    alpha             alpha                    -beta (e^(-alpha l) - 1) / alpha

References:
    Rafailov et al. 2023 (DPO), arXiv:2305.18290; other divergences: Wang et al. 2023 (f-DPO),
    arXiv:2309.16240, with the same names and alpha.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alignment.divergences.record import MAX_LOGIT, Divergence

SLOPE_PROBES = (MAX_LOGIT, 2.0 * MAX_LOGIT)
"""Two logits; the slope of an unbounded reward does not decrease between them."""
SLOPE_TOLERANCE = 1e-6
"""Relative tolerance for the decrease."""


class ImplicitRewards(NamedTuple):
    """Rewards up to a constant for each prompt, and where the tangent replaces the formula."""

    values: Float[Tensor, "*shape"]
    """Rewards, which increase with the log-ratio."""
    is_on_tangent: Bool[Tensor, "*shape"]
    """The log-ratio is outside the divergence's safe range."""


def implicit_rewards(
    log_ratios: Float[Tensor, "*shape"], divergence: Divergence, *, beta: float
) -> ImplicitRewards:
    """Compute the reward of each response for which the policy is optimal: -beta r(-log_ratio).

    Outside the safe range the reward continues along its tangent, which bounds its slope. It still
    increases everywhere, so it is the implicit reward of another divergence with full support. A
    constant continuation would leave a response that became too unlikely without a gradient. The
    tangent of reverse_kl is reverse_kl.

    Args:
        log_ratios: l = log pi - log reference of whole responses in nats, with gradient.
        beta: weight of the divergence in the objective that the policy maximizes.

    Raises:
        ValueError: if check_direct_divergence refuses the divergence, or beta is not positive and
            finite.
    """
    check_direct_divergence(divergence)
    require_beta(beta)
    low, high = divergence.safe_logits
    slope_at_low, slope_at_high = _reward_slopes(divergence, (low, high))
    logits = -log_ratios
    above, below = torch.relu(logits - high), torch.relu(low - logits)
    rewards = divergence.reward(logits.clamp(low, high))
    rewards = rewards + slope_at_high * above - slope_at_low * below
    return ImplicitRewards(-beta * rewards, (logits < low) | (logits > high))


def require_beta(beta: float) -> None:
    """Raise ValueError if the weight of the divergence is not positive and finite."""
    if not 0.0 < beta < math.inf:
        raise ValueError(
            f"beta must be positive and finite; it is {beta}, and without a penalty on the "
            "distance from the reference there is no optimal policy"
        )


def check_direct_divergence(divergence: Divergence) -> None:
    """Refuse a divergence under which an optimal policy can give a response probability 0.

    That happens if r(h) has a limit as h = log(reference / policy) grows, and a reward is lower
    than others by more than beta times this limit. No log-ratio implies such a reward. In terms of
    f-DPO, 0 must not be in the domain of f'.

    r is unbounded if its slope, dr/dh = u^2 f''(u) with u = e^h, does not go to 0. The check
    compares the slope at two large h.

    Raises:
        ValueError: if its reward is bounded, or it is not an f-divergence.
    """
    if divergence.generator is None:
        reason = "it is not an f-divergence, so an optimal policy does not determine its reward"
    else:
        near, far = _reward_slopes(divergence, SLOPE_PROBES)
        if far > 0.0 and far >= near * (1.0 - SLOPE_TOLERANCE):
            return
        reason = (
            f"its reward {divergence.reward_formula} is bounded for large h, so an optimal policy "
            "may give responses probability 0, and log-ratios do not determine their rewards"
        )
    raise ValueError(
        f"{divergence.name} cannot be the divergence of a direct objective: {reason}; use "
        "reverse_kl (DPO), forward_kl, jensen_shannon, jeffreys, squared_hellinger, pearson_chi2, "
        "generalized_js, skew_reverse_kl, or alpha from 0 up"
    )


def _reward_slopes(divergence: Divergence, logits: tuple[float, float]) -> tuple[float, float]:
    """Slope dr/dh = u^2 f''(u) of the reward at two logits."""
    assert divergence.generator is not None
    ratios = torch.tensor(logits, dtype=torch.float64).exp()
    first, second = (ratios.square() * divergence.generator.second_derivative(ratios)).tolist()
    return first, second
