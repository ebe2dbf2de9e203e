"""Low-rank adapters: a trained correction beside each linear map of a model that stays as it is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

RANK = 8
"""Of each correction: few enough parameters that a discriminator learns the style of a response
before it memorizes single demonstrations."""
SCALE = 2.0
"""Factor of each correction: the customary alpha of 16 over the rank."""


class LowRankLinear(nn.Module):
    """A frozen linear map plus a trained one of low rank, which begins at exactly zero.

    y = base(x) + SCALE * B A x, with A random and B zero.

    References:
        Hu et al. 2021 (LoRA), arXiv:2106.09685, section 4.1; no dropout.
    """

    def __init__(self, base: nn.Linear, rng: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(RANK, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5, generator=rng)  # as nn.Linear begins

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply both maps."""
        correction = nn.functional.linear(nn.functional.linear(inputs, self.down), self.up)
        outputs: Tensor = self.base(inputs) + SCALE * correction
        return outputs


def add_adapters(model: nn.Module, seed: int) -> None:
    """Freeze a model and put an adapter on each of its linear layers, in place.

    Args:
        model: without its head, so that its linear layers are those of attention and MLP.
        seed: of the random half of the adapters.

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
