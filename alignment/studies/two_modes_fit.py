"""Where divergences lead the policy of the two-mode study, from several random starts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.divergences.lookup import divergence
from alignment.studies.lbfgs import MAX_FINAL_GRADIENT, minimum
from alignment.studies.two_modes import (
    NUM_TOKENS,
    Outcome,
    States,
    TwoModes,
    measure,
    response_divergence,
    token_divergence,
)

SEEDS = range(6)
"""Of the random starts: enough for each mode to attract some."""


ADAM_STEPS = 1500


ADAM_LEARNING_RATE = 0.2


class Ending(NamedTuple):
    """Where one restart ended."""

    value: float
    """Of what was minimized, in nats."""
    outcome: Outcome

    @property
    def is_on_first_mode(self) -> bool:
        """Whether most of the policy's mass is on the first mode."""
        return self.outcome.first_mode > 0.5


class Fit(NamedTuple):
    """What a divergence makes of the policy."""

    divergence: str
    """Name of its record."""
    states: States | None
    """None if whole responses were compared."""
    endings: tuple[Ending, ...]
    """Of every restart, the lowest value first."""

    @property
    def best(self) -> Outcome:
        """Where the restart with the lowest value ended."""
        return self.endings[0].outcome

    @property
    def elsewhere(self) -> tuple[Ending, ...]:
        """The restarts that locked on the other mode than the best one."""
        here = self.endings[0].is_on_first_mode
        return tuple(ending for ending in self.endings if ending.is_on_first_mode != here)


def fit(
    problem: TwoModes, name: str, states: States | None = None, seeds: Sequence[int] = SEEDS
) -> Fit:
    """Follow a divergence to where it comes to rest, from random starts.

    With the policy's own states and no gradient through sampling, the update is the gradient of
    nothing: it comes to rest where it vanishes, which is no minimum, so a line search would not do.

    Args:
        states: whose prefixes the next tokens are compared at; None compares whole responses.
        seeds: one for each start of standard normal logits; a mode is locked on by chance.

    Returns:
        Where the restarts ended.
    """
    record = divergence(name)
    descend = _followed if states == "policy" else minimum

    def loss(logits: Tensor) -> Tensor:
        if states is None:
            return response_divergence(problem, record, logits)
        return token_divergence(problem, record, states, logits)

    endings = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(1 + NUM_TOKENS, NUM_TOKENS, generator=generator, dtype=torch.float64)
        logits = descend(loss, start)
        endings.append(Ending(float(loss(logits)), measure(problem, logits)))
    return Fit(name, states, tuple(sorted(endings, key=lambda ending: ending.value)))


def _followed(update: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Follow the gradient of a stand-in for an update until the update vanishes, by Adam."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=ADAM_LEARNING_RATE)
    for _ in range(ADAM_STEPS):
        (gradient,) = torch.autograd.grad(update(logits), logits)
        if gradient.norm() < MAX_FINAL_GRADIENT:
            break
        logits.grad = gradient
        optimizer.step()
    return logits.detach()
