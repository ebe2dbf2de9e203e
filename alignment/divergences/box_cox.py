"""The Box-Cox transform and its inverse, which take powers to logarithms without a gap.

In weight w they run continuously through w = 0, where the textbook forms are 0 / 0.
"""

import torch
from torch import Tensor


def box_cox(logits: Tensor, weight: float) -> Tensor:
    """Return (u^w - 1) / w of u = e^h, which is h at w = 0."""
    return torch.expm1(weight * logits) / weight if weight else logits.clone()


def inverse_box_cox(values: Tensor, weight: float) -> Tensor:
    """Return the h with box_cox(h, w) = t, which is log(1 + w t) / w, and t at w = 0."""
    return torch.log1p(weight * values) / weight if weight else values.clone()
