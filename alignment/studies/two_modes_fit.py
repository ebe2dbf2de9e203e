"""Policies of the two-mode study fitted by a divergence, from several random starts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.divergences.lookup import divergence
from alignment.studies.lbfgs import minimize_lbfgs
from alignment.studies.two_modes import (
    NUM_TOKENS,
    PolicyMetrics,
    States,
    TwoModeProblem,
    policy_metrics,
    response_divergence,
    token_divergence,
)

SEEDS = range(6)
"""Seeds of the random starts; each mode attracts some of them."""
ADAM_STEPS = 1500
ADAM_LEARNING_RATE = 0.2
MAX_FINAL_GRADIENT = 1e-6
"""Norm of the update at which Adam stops: three digits no longer change."""


class Restart(NamedTuple):
    """The result of one random start."""

    value: float
    """Value of the objective, in nats."""
    metrics: PolicyMetrics

    @property
    def is_on_first_mode(self) -> bool:
        """Whether most of the policy's mass is on the first mode."""
        return self.metrics.first_mode > 0.5


class DivergenceFit(NamedTuple):
    """The policies that a divergence leads to."""

    divergence: str
    """Name of the divergence."""
    states: States | None
    """None for a divergence of whole responses."""
    restarts: tuple[Restart, ...]
    """Restarts by ascending value."""

    @property
    def best(self) -> PolicyMetrics:
        """Metrics of the restart with the lowest value."""
        return self.restarts[0].metrics

    @property
    def on_other_mode(self) -> tuple[Restart, ...]:
        """The restarts that ended on another mode than the best one."""
        best = self.restarts[0].is_on_first_mode
        return tuple(each for each in self.restarts if each.is_on_first_mode != best)


def fit_policy(
    problem: TwoModeProblem, name: str, states: States | None = None, seeds: Sequence[int] = SEEDS
) -> DivergenceFit:
    """Fit the policy by a divergence from random starts.

    With the policy's own states and no gradient through sampling, the update is not the gradient of
    any function. Its fixed points are no minima, so Adam follows it instead of a line search.

    Args:
        states: whose states next tokens are compared in; None compares whole responses.
        seeds: one for each start, with standard normal logits.
    """
    record = divergence(name)
    minimize = _follow_update if states == "policy" else minimize_lbfgs

    def loss(logits: Tensor) -> Tensor:
        if states is None:
            return response_divergence(problem, record, logits)
        return token_divergence(problem, record, states, logits)

    restarts = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(1 + NUM_TOKENS, NUM_TOKENS, generator=generator, dtype=torch.float64)
        logits = minimize(loss, start)
        restarts.append(Restart(float(loss(logits)), policy_metrics(problem, logits)))
    return DivergenceFit(name, states, tuple(sorted(restarts, key=lambda each: each.value)))


def _follow_update(surrogate: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Follow the gradient of a surrogate loss by Adam until it vanishes."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=ADAM_LEARNING_RATE)
    for _ in range(ADAM_STEPS):
        (gradient,) = torch.autograd.grad(surrogate(logits), logits)
        if gradient.norm() < MAX_FINAL_GRADIENT:
            break
        logits.grad = gradient
        optimizer.step()
    return logits.detach()
