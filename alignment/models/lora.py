"""Low-rank adapters (LoRA): a trained correction of each linear layer of a frozen model."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

RANK = 8
"""Rank of each correction, so low that a discriminator learns the style of a response before it
memorizes single demonstrations."""
SCALE = 2.0
"""Factor of each correction: the customary alpha of 16 over the rank."""


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained correction of low rank, which is initialized to zero.

    y = base(x) + SCALE * B A x, with A random and B zero.

    References:
        Hu et al. 2021 (LoRA), arXiv:2106.09685, section 4.1; no dropout.
    """

    def __init__(self, base: nn.Linear, rng: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(RANK, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5, generator=rng)  # as nn.Linear is initialized

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Return the sum of the frozen layer's output and the correction."""
        correction = nn.functional.linear(nn.functional.linear(inputs, self.down), self.up)
        outputs: Tensor = self.base(inputs) + SCALE * correction
        return outputs


def add_adapters(model: nn.Module, seed: int) -> None:
    """Freeze a model and add an adapter to each of its linear layers, in place.

    Args:
        model: a decoder without its head, whose linear layers are those of attention and MLP.
        seed: random seed of the matrices A.

    Raises:
        ValueError: if there is no linear layer.
    """
    model.requires_grad_(False)
    linears = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    if not linears:
        raise ValueError(
            f"{type(model).__name__} has no torch.nn.Linear to adapt; "
            f"use tuning full or frozen in place of lora"
        )
    rng = torch.Generator().manual_seed(seed)
    for name, layer in linears:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, LowRankLinear(layer, rng))
