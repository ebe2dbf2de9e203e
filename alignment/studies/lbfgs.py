"""Minimization by L-BFGS."""

from collections.abc import Callable

import torch
from torch import Tensor

NUM_ROUNDS = 3
"""Resetting the curvature estimate helps where a divergence has kinks (total variation)."""
MAX_ITERATIONS = 300


def minimize_lbfgs(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Find a local minimum from a start by L-BFGS with a line search."""
    parameters = start.clone().requires_grad_()
    for _ in range(NUM_ROUNDS):
        optimizer = torch.optim.LBFGS(
            [parameters],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=1e-7,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure(optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            value = loss(parameters)
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()
