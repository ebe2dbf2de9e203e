"""Low-rank adapters on every linear layer of a frozen model, by peft."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

RANK = 8
"""Few enough parameters that a discriminator learns the style of a response before it memorizes
single demonstrations."""
ALPHA = 16
"""A correction is scaled by ALPHA / RANK."""
BASE, DOWN, UP = "base_layer", "lora_A.default.weight", "lora_B.default.weight"
"""Names that peft gives to the frozen layer and to the two factors of its correction."""


def add_adapters(model: nn.Module, seed: int) -> None:
    """Freeze a model and put an adapter on each of its linear layers, in place.

    An adapted layer computes W x + ALPHA / RANK * B A x, with A random and B zero at first.

    Args:
        model: without its head, so that its linear layers are those of attention and MLP.
        seed: of the random half of the adapters.

    Raises:
        ValueError: if there is no linear layer.

    References:
        Hu et al. 2021 (LoRA), arXiv:2106.09685, section 4.1; no dropout.
    """
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - takes seconds

    linears = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    if not linears:
        raise ValueError(
            f"{type(model).__name__} has no torch.nn.Linear to adapt; "
            f"use tuning full or frozen in place of lora"
        )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=linears)
        inject_adapter_in_model(config, model)


def merge_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model with its adapters merged, under the names it has without."""
    merged = {}
    for name, tensor in tensors.items():
        if name.endswith((DOWN, UP)):
            continue
        layer, is_adapted, part = name.partition(f".{BASE}.")
        if is_adapted and part == "weight":
            correction = tensors[f"{layer}.{UP}"] @ tensors[f"{layer}.{DOWN}"]
            merged[f"{layer}.weight"] = tensor + ALPHA / RANK * correction
        else:
            merged[f"{layer}.{part}" if is_adapted else name] = tensor
    return merged
