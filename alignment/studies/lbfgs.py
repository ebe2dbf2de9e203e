"""Minimization by L-BFGS to a small gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

LBFGS_ROUNDS = 3
"""A fresh start of the curvature estimate helps where a divergence has kinks (total variation)."""


LBFGS_STEPS = 300


MAX_FINAL_GRADIENT = 1e-6
"""At this norm of the update the three printed digits no longer move."""


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Find a local minimum from a start, by LBFGS with a line search."""
    logits = start.clone().requires_grad_()
    for _ in range(LBFGS_ROUNDS):
        optimizer = torch.optim.LBFGS(
            [logits],
            max_iter=LBFGS_STEPS,
            tolerance_grad=1e-7,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure(optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            value = loss(logits)
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return logits.detach()
