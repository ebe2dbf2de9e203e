"""The Box-Cox transform, which joins powers and the logarithm continuously."""

import torch
from torch import Tensor


def box_cox(logits: Tensor, weight: float) -> Tensor:
    """Return (u^w - 1) / w at u = e^h, and its limit h at w = 0."""
    return torch.expm1(weight * logits) / weight if weight else logits.clone()
