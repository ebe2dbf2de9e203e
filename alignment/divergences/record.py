"""The record of a divergence: its value, and the reward whose maximization minimizes it.

Conventions of this package. With p the expert's and q the policy's probability of a response, every
f-divergence is D(p, q) = sum_y q(y) f(p(y) / q(y)) for a convex generator f with f(1) = 0. Names
follow the expert: forward KL is KL(expert, policy), reverse KL is KL(policy, expert). A logit is
h = log(p / q), high for expert: the output of an optimal discriminator.

The reward of a divergence is a function of the logit, and its policy gradient is exact:

    -grad D(p, q) = E_{y ~ q}[ r(h(y)) grad log q(y) ],    r = u f'(u) - f(u) at u = e^h,

up to a constant in r, which a baseline removes. It is not -f(u), the integrand, because u depends
on q. Conversely, a reward that never decreases in u is exact for the f-divergence with
f'' = r'(u) / u, so clipped logits still belong to a divergence. A decreasing one belongs to none.

References:
    Nowozin et al. 2016 (f-GAN), arXiv:1606.00709; the reward: Ke et al. 2019, arXiv:1905.12888, and
    Go et al. 2023 (f-DPG), arXiv:2302.08215.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOGIT = 10.0
"""Odds beyond e^10 = 22000 to 1 mean a saturated discriminator, not information."""
MAX_WEIGHT = 10.0
"""Largest weight of one response where rewards grow as a power of e^h, which bounds their variance:
that of e^h is the chi-square divergence from expert to policy."""
SUM_TOLERANCE = 1e-6
"""Tolerance for the sum of a distribution."""
CURVATURE_PROBES = (math.exp(-1.0), 1.0, math.e)
"""A generator with a trainable critic has f'' > 0 at one of these ratios."""


class Generator(NamedTuple):
    """The convex function f of an f-divergence; every function is elementwise."""

    f: Callable[[Tensor], Tensor]
    """f(u) at probability ratios u = p / q > 0; f(1) = 0."""
    derivative: Callable[[Tensor], Tensor]
    """f'(u) at u > 0."""
    second_derivative: Callable[[Tensor], Tensor]
    """f''(u) at u > 0; where f has a kink, that of its smooth parts."""
    at_zero: float
    """Limit of f(u) as u goes to 0: the cost of policy mass where the expert has none."""
    slope_at_infinity: float
    """Limit of f(u) / u as u grows: the cost of expert mass where the policy has none."""


class Divergence(NamedTuple):
    """One divergence from expert p to policy q: its value, and the reward that minimizes it."""

    name: str
    formula: str
    """Formula in plain text, with p the expert and q the policy, as in all formulas."""
    generator_formula: str
    """f(u) with u = p / q, up to a linear term c (u - 1), which changes no divergence."""
    reward_formula: str
    """r(h) with h = log(p / q)."""
    behavior: str
    """The effect of minimizing it on a policy that cannot match the expert."""
    choose_when: str
    avoid_when: str
    generator: Generator | None
    """None if the reward belongs to no f-divergence."""
    reward: Callable[[Tensor], Tensor]
    """r(h) of an expert-positive logit, in nats, up to a constant; finite in the safe range."""
    safe_logits: tuple[float, float]
    """(low, high): clip_logits clips to this range before the reward."""
    parameters: str = ""
    """The parameters and their ranges; empty if there are none."""
    caveat: str | None = None
    """A limitation that a user must know, and the alternative."""

    def value(
        self, expert: Float[Tensor, " outcome"], policy: Float[Tensor, " outcome"]
    ) -> Float[Tensor, ""]:
        """Compute the divergence of two discrete distributions exactly.

        An outcome of policy probability 0 costs slope_at_infinity times the expert's mass, one of
        expert probability 0 at_zero times the policy's mass. Either may be infinite. An outcome of
        probability 0 under both costs nothing. Gradients are right where both are positive.

        Args:
            expert: probabilities that sum to 1; float64 for exact work.
            policy: probabilities of the same outcomes, in the same order.

        Returns:
            The divergence in nats, at least 0 up to rounding, possibly infinite.

        Raises:
            ValueError: if either is not a distribution, or the record has no generator.
        """
        generator = self._known_generator("value")
        _require_distribution("expert", expert)
        _require_distribution("policy", policy)
        is_shared = (expert > 0) & (policy > 0)
        p, q = expert[is_shared], policy[is_shared]
        value = (q * generator.f(p / q)).sum()
        for mass, price in (
            (policy[expert == 0].sum(), generator.at_zero),
            (expert[policy == 0].sum(), generator.slope_at_infinity),
        ):
            if mass > 0:  # 0 times an infinite price is 0, not NaN
                value = value + mass * price
        return value

    def critic(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Compute the f-GAN critic T = f'(e^h), whose optimal logit is log(p / q).

        E_p[T] - E_q[f*(T)] is at most the divergence, and equal to it at h = log(p / q).

        Args:
            logits: h, within the safe range, where float32 is enough.

        Raises:
            ValueError: if there is no such critic, or its gradient is 0 everywhere.
        """
        return self._curved_generator().derivative(logits.exp())

    def critic_cost(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Compute f*(T(h)), the cost of the critic on the policy's samples.

        f*(f'(u)) = u f'(u) - f(u), so it is the reward with another constant.

        Returns:
            r(h) - r(0) + f'(1), differentiable by the logits.

        Raises:
            ValueError: as critic does.
        """
        at_one = self._curved_generator().derivative(logits.new_ones(()))
        return self.reward(logits) - self.reward(logits.new_zeros(())) + at_one

    def _known_generator(self, what: str) -> Generator:
        if self.generator is None:
            raise ValueError(
                f"{self.name} has no {what}, as it is not an f-divergence: {self.caveat}"
            )
        return self.generator

    def _curved_generator(self) -> Generator:
        generator = self._known_generator("variational critic")
        probes = torch.tensor(CURVATURE_PROBES, dtype=torch.float64)
        if not (generator.second_derivative(probes) > 0).any():
            raise ValueError(
                f"{self.name} has no variational critic that can be trained: f is piecewise "
                "linear, so f'(e^h) does not change with the logit; train the discriminator by "
                "cross_entropy instead"
            )
        return generator


class ClippedLogits(NamedTuple):
    """Logits clipped to a divergence's safe range, and which of them were outside."""

    logits: Float[Tensor, " logit"]
    was_clipped: Bool[Tensor, " logit"]


def clip_logits(logits: Float[Tensor, " logit"], record: Divergence) -> ClippedLogits:
    """Clip logits to the safe range of a divergence's reward.

    A reward that is constant outside a range still never decreases, so it is still the exact reward
    of a divergence. Clipping bounds its variance.

    Args:
        logits: expert-positive logits, staleness correction included. Infinite ones are clipped to
            the end of the range. NaN stays NaN and is not counted, so that the loss is not finite
            either.
        record: the divergence whose reward is computed next.

    Returns:
        The clipped logits and a mask of those that were outside.
    """
    low, high = record.safe_logits
    return ClippedLogits(logits.clamp(low, high), (logits < low) | (logits > high))


def _require_distribution(who: str, probabilities: Tensor) -> None:
    total = float(probabilities.detach().sum())
    if not abs(total - 1.0) <= SUM_TOLERANCE or bool((probabilities < 0).any()):
        raise ValueError(f"{who} must be probabilities that sum to 1; they sum to {total}")
