"""The Box-Cox transform and its inverse, which take powers to logarithms without a gap.

In weight w they run continuously through w = 0, where the textbook forms are 0 / 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def box_cox(logits: Tensor, weight: float) -> Tensor:
    """Return (u^w - 1) / w of u = e^h, which is h at w = 0."""
    return torch.expm1(weight * logits) / weight if weight else logits.clone()


def inverse_box_cox(values: Tensor, weight: float) -> Tensor:
    """Return the h with box_cox(h, w) = t, which is log(1 + w t) / w, and t at w = 0."""
    return torch.log1p(weight * values) / weight if weight else values.clone()


MAX_LOG_RATIO = 300.0
"""Slopes beyond f'(e^+-300) are not inverted; e^300 still has a square in float64."""


NUM_HALVINGS = 64
"""600 nats halved 64 times are below the spacing of float64 numbers near 1."""


def conjugate_by_inversion(
    f: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return f*(t) = u t - f(u) at the u with f'(u) = t, found by bisection in log u.

    An error in u enters the value squared, since u t - f(u) is flat there. For the same reason u
    is a constant to autograd, and the derivative that remains, u, is the exact one.

    Returns:
        f* for t in the range of f', computed in float64 and given in the precision of t.
    """

    def conjugate(slopes: Tensor) -> Tensor:
        exact = slopes.double()
        with torch.no_grad():
            low = torch.full_like(exact, -MAX_LOG_RATIO)
            high = torch.full_like(exact, MAX_LOG_RATIO)
            for _ in range(NUM_HALVINGS):
                middle = (low + high) / 2.0
                is_below = derivative(middle.exp()) < exact
                low = torch.where(is_below, middle, low)
                high = torch.where(is_below, high, middle)
            ratio = low.exp()
            cost = f(ratio)
        return (ratio * exact - cost).to(slopes.dtype)

    return conjugate
