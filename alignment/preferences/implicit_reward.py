"""The reward of which a policy is the optimum already, so that no model of it has to be trained.

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
"""Logits between which the slope of a reward may not fall if the reward is to rise forever."""
SLOPE_TOLERANCE = 1e-6
"""How far rounding may let it fall, relative to itself."""


class ImplicitRewards(NamedTuple):
    """Rewards up to a constant for each prompt, and which were not taken from the formula."""

    values: Float[Tensor, "*shape"]
    """In units of reward, increasing in the log-ratio."""
    is_on_tangent: Bool[Tensor, "*shape"]
    """Log-ratio outside the divergence's safe range; log their share."""


def implicit_rewards(
    log_ratios: Float[Tensor, "*shape"], divergence: Divergence, *, beta: float
) -> ImplicitRewards:
    """Reward of each response, if the policy is the optimum: -beta r(-log_ratio).

    Where e^(-l) grows, so would the gradient. Beyond the safe range the reward goes on along its
    tangent. It is then never steeper than at the range's end and still rises everywhere, hence
    belongs to a divergence of its own, which keeps the policy's full support. A flat end would
    leave a response that got too unlikely without a gradient to come back by. The tangent of
    reverse_kl is reverse_kl.

    Args:
        log_ratios: l = log pi - log reference of whole responses in nats, with gradient.
        beta: weight of the divergence in the objective of which the policy is the optimum.

    Returns:
        The rewards, differentiable by the log-ratios.

    Raises:
        ValueError: if the divergence does not allow it, or beta is not positive and finite.
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
    """Refuse a weight of the divergence, in whichever objective, that is not positive and finite.

    Raises:
        ValueError: if it is not.
    """
    if not 0.0 < beta < math.inf:
        raise ValueError(
            f"beta must be positive and finite; it is {beta}, and without a weight on staying near "
            "the reference there is no best policy"
        )


def check_direct_divergence(divergence: Divergence) -> None:
    """Refuse a divergence that lets the policy give up a response, whatever its reward.

    If r(h) has a limit as h = log(reference / policy) grows, a reward that is lower than others by
    more than beta times that limit leaves the response with probability 0. The formula for the
    reward does not hold there, and no log-ratio implies such a reward. In terms of f-DPO, 0 must
    not be in the domain of its f'.

    r rises without limit if its slope, dr/dh = u^2 f''(u) with u = e^h, does not die out. That is
    judged at two large h, so a limit that is only approached beyond e^20 counts as none.

    Raises:
        ValueError: if its reward is bounded, or it is no f-divergence.
    """
    if divergence.generator is None:
        reason = "it is no f-divergence, so no optimal policy reveals its reward"
    else:
        near, far = _reward_slopes(divergence, SLOPE_PROBES)
        if far > 0.0 and far >= near * (1.0 - SLOPE_TOLERANCE):
            return
        reason = (
            f"its reward {divergence.reward_formula} is bounded for large h, so an optimal policy "
            "may give up responses, and their rewards cannot be told from its log-ratios"
        )
    raise ValueError(
        f"{divergence.name} cannot be the divergence of a direct objective: {reason}; take "
        "reverse_kl (DPO), forward_kl, jensen_shannon, jeffreys, squared_hellinger, pearson_chi2, "
        "generalized_js, skew_reverse_kl, or alpha from 0 up"
    )


def _reward_slopes(divergence: Divergence, logits: tuple[float, float]) -> tuple[float, float]:
    """Slope dr/dh = u^2 f''(u) of the reward at two logits."""
    assert divergence.generator is not None
    ratios = torch.tensor(logits, dtype=torch.float64).exp()
    first, second = (ratios.square() * divergence.generator.second_derivative(ratios)).tolist()
    return first, second
