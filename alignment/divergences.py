"""Divergences between expert and policy, each as one record.

Conventions of this module. With p the expert's and q the policy's probability of a response, every
divergence is D(p, q) = sum_y q(y) f(p(y) / q(y)) for a convex generator f with f(1) = 0. Names take
the expert's side: forward KL is KL(expert, policy), reverse KL is KL(policy, expert). A logit is
h = log(p / q): high for expert, and what an optimal discriminator emits.

The reward of a divergence is a function of the logit, and its policy gradient is exact:

    -grad D(p, q) = E_{y ~ q}[ r(h(y)) grad log q(y) ],    r = u f'(u) - f(u) at u = e^h,

up to a constant in r, which no baseline leaves in. It is not -f(u), the integrand: that forgets
that u depends on q. The scale of every reward here is 1, so rewards of different divergences can be
compared and mixed in nats.

To add a divergence, write one function that returns its record and list it in DIVERGENCES.

References:
    Nowozin et al. 2016 (f-GAN), arXiv:1606.00709; the reward: Ke et al. 2019, arXiv:1905.12888, and
    Go et al. 2023 (f-DPG), arXiv:2302.08215.
"""

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

MAX_LOGIT = 10.0
"""A discriminator that claims odds beyond e^10 = 22000 to 1 is saturated, not informative."""
MAX_FORWARD_KL_LOGIT = math.log(10.0)
"""One response may count as ten: the variance of e^h grows as the policy's chi-square distance."""
SUM_TOLERANCE = 1e-6
"""How far from 1 the sum of a distribution may lie."""


class Divergence(NamedTuple):
    """One f-divergence from expert p to policy q: its value, and the reward that minimizes it."""

    name: str
    formula: str
    """In plain text, with p the expert and q the policy."""
    behavior: str
    """What minimizing it does to a policy that cannot match the expert."""
    generator: Callable[[Tensor], Tensor]
    """f(u) at probability ratios u = p / q > 0."""
    derivative: Callable[[Tensor], Tensor]
    """f'(u) at u > 0."""
    at_zero: float
    """Limit of f(u) as u falls to 0: the price of policy mass that the expert never chooses."""
    slope_at_infinity: float
    """Limit of f(u) / u as u grows: the price of expert mass that the policy never chooses."""
    reward: Callable[[Tensor], Tensor]
    """r(h) of an expert-positive logit, in nats; constants are dropped."""
    safe_logits: tuple[float, float]
    """(low, high), to which clip_logits clips before the reward."""

    def value(
        self, expert: Float[Tensor, " outcome"], policy: Float[Tensor, " outcome"]
    ) -> Float[Tensor, ""]:
        """Compute the divergence of two discrete distributions exactly.

        Where the policy gives 0, an outcome costs slope_at_infinity times the expert's mass; where
        the expert gives 0, at_zero times the policy's mass. Either may be infinite. An outcome that
        both exclude costs nothing. Gradients are right where both are positive.

        Args:
            expert: probabilities that sum to 1; float64 for exact work.
            policy: probabilities of the same outcomes, in the same order.

        Returns:
            The divergence in nats, at least 0 up to rounding, possibly infinite.

        Raises:
            ValueError: if one of the two is no distribution.
        """
        _require_distribution("expert", expert)
        _require_distribution("policy", policy)
        is_shared = (expert > 0) & (policy > 0)
        p, q = expert[is_shared], policy[is_shared]
        value = (q * self.generator(p / q)).sum()
        for mass, price in (
            (policy[expert == 0].sum(), self.at_zero),
            (expert[policy == 0].sum(), self.slope_at_infinity),
        ):
            if mass > 0:  # 0 times an infinite price is 0, not NaN
                value = value + mass * price
        return value


class ClippedLogits(NamedTuple):
    """Logits within a divergence's safe range, and which ones had to be moved there."""

    logits: Float[Tensor, " trajectory"]
    was_clipped: Bool[Tensor, " trajectory"]


def clip_logits(logits: Float[Tensor, " trajectory"], divergence: Divergence) -> ClippedLogits:
    """Clip logits to the safe range of a divergence's reward.

    A reward that is flat outside a range is still increasing, so it is still the exact reward of
    some divergence; what clipping buys is a bounded variance.

    Args:
        logits: expert-positive logits, staleness correction included.
        divergence: whose reward comes next.

    Returns:
        The clipped logits and a mask of those that were outside; log its mean.
    """
    low, high = divergence.safe_logits
    return ClippedLogits(logits.clamp(low, high), (logits < low) | (logits > high))


def forward_kl() -> Divergence:
    """Return KL(expert, policy), the divergence that supervised fine-tuning minimizes."""
    return Divergence(
        name="forward_kl",
        formula="sum p log(p / q)",
        behavior="covers every mode of the expert, at the price of mass between the modes",
        generator=lambda u: u * u.log(),
        derivative=lambda u: u.log() + 1.0,
        at_zero=0.0,
        slope_at_infinity=math.inf,
        reward=torch.exp,
        safe_logits=(-MAX_LOGIT, MAX_FORWARD_KL_LOGIT),
    )


def reverse_kl() -> Divergence:
    """Return KL(policy, expert), whose reward is the logit itself (AIRL, arXiv:1710.11248)."""
    return Divergence(
        name="reverse_kl",
        formula="sum q log(q / p)",
        behavior="seeks modes: says only what the expert might say, and may leave modes out",
        generator=lambda u: -u.log(),
        derivative=lambda u: -1.0 / u,
        at_zero=math.inf,
        slope_at_infinity=0.0,
        reward=torch.clone,
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def jensen_shannon() -> Divergence:
    """Return the Jensen-Shannon divergence with weights 1/2, between 0 and log 2.

    GAIL's reward -log(1 - D) = softplus(h) belongs to twice this divergence (arXiv:1606.03476);
    hence the factor 1/2.
    """
    return Divergence(
        name="jensen_shannon",
        formula="1/2 sum p log(p / m) + 1/2 sum q log(q / m), m = (p + q) / 2",
        behavior="between the two KLs where modes overlap, close to reverse KL where they do not",
        # q f(p/q) = 1/2 [p log(2p / (p + q)) + q log(2q / (p + q))]
        generator=lambda u: 0.5 * (u * (2.0 * u / (u + 1.0)).log() + (2.0 / (u + 1.0)).log()),
        derivative=lambda u: 0.5 * (2.0 * u / (u + 1.0)).log(),
        at_zero=0.5 * math.log(2.0),
        slope_at_infinity=0.5 * math.log(2.0),
        reward=lambda h: 0.5 * softplus(h),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


DIVERGENCES: Mapping[str, Callable[..., Divergence]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}
"""Name to the function that returns the record; its arguments are the divergence's parameters."""


def divergence(name: str, **parameters: float) -> Divergence:
    """Look up a divergence by name.

    Args:
        name: a key of DIVERGENCES.
        parameters: what the divergence's own function takes; none of today's takes any.

    Returns:
        The record.

    Raises:
        ValueError: if there is no such divergence, or it has no such parameter.
    """
    names = ", ".join(DIVERGENCES)
    if name not in DIVERGENCES:
        close = get_close_matches(name, DIVERGENCES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown divergence {name!r}; {hint}choose one of {names}")
    make = DIVERGENCES[name]
    unknown = parameters.keys() - signature(make).parameters.keys()
    if unknown:
        accepted = ", ".join(signature(make).parameters) or "none"
        raise ValueError(f"{name} has no parameter {sorted(unknown)}; it accepts: {accepted}")
    return make(**parameters)


def _require_distribution(who: str, probabilities: Tensor) -> None:
    total = float(probabilities.detach().sum())
    if not abs(total - 1.0) <= SUM_TOLERANCE or bool((probabilities < 0).any()):
        raise ValueError(f"{who} must be probabilities that sum to 1; they sum to {total}")
