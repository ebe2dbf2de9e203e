"""One model on several ranks: sharding by FSDP2, sums over ranks, whole tensors from shards.

The parameters of a single rank stay plain tensors, and it needs no process group. Every function
here is collective: all ranks call it, in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from actors.errors import TrainingDivergedError
from alignment.models.policy import PolicyModel
from alignment.models.scalar_head import ScalarModel

Decoder = TypeVar("Decoder", PolicyModel, ScalarModel)
"""A model whose decoder_layers hold most of its parameters."""


def shard(model: Decoder, device: torch.device, world_size: int) -> Decoder:
    """Move a model to its device and split its parameters over the ranks.

    Each decoder layer is gathered only while it computes. Embeddings, head and final norm, which
    belong to the root module, stay gathered from the forward to the backward pass.

    Args:
        model: equal on all ranks, on the CPU; changed in place and returned.
    """
    if world_size == 1:
        return model.to(device)
    mesh = init_device_mesh(device.type, (world_size,))
    for layer in model.decoder_layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model.to(device)


def release_gathered(policy: PolicyModel) -> None:
    """Free gathered parameters, so that the next forward pass gathers the shards anew."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def scale_gradients(model: nn.Module, scale: float) -> None:
    """Multiply the gradients that have been accumulated so far."""
    for parameter in model.parameters() if scale != 1.0 else ():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Clip the gradients to a global norm, and return the norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def full_tensors(policy: PolicyModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Gather one parameter after the other; yield its name in Hugging Face format and its value.

    A head that shares the embeddings' matrix is left out. The tensors are detached and on the
    policy's device; rank 0 may keep them.
    """
    for name, parameter in policy.model.named_parameters():
        yield name, whole(parameter).to(dtype)


def whole(parameter: Tensor) -> Tensor:
    """Return a parameter gathered from all ranks, detached."""
    tensor = parameter.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def require_finite(policy: PolicyModel, device: torch.device, world_size: int) -> None:
    """Check that all weights are finite numbers.

    Raises:
        TrainingDivergedError: if some are not; on all ranks, each of which checks its shards.
    """
    release_gathered(policy)  # each rank counts its own shards alone
    names, counts = [], []
    for name, parameter in policy.model.named_parameters():
        tensor = parameter.detach()
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        names.append(name)
        counts.append((~torch.isfinite(local)).sum())
    bad = torch.stack(counts).to(device)
    if world_size > 1:
        dist.all_reduce(bad)
    wrong = [name for name, count in zip(names, bad.tolist(), strict=True) if count]
    if wrong:
        raise TrainingDivergedError(
            f"{int(bad.sum())} weights are not finite, in {len(wrong)} of {len(names)} tensors, "
            f"first in {wrong[0]}; they are neither published nor saved: the newest checkpoint "
            "holds finite ones; lower the learning rate"
        )


def sum_over_ranks(
    values: Mapping[str, Tensor | float], device: torch.device, world_size: int
) -> dict[str, float]:
    """Return the sums over all ranks of values with the same names.

    Args:
        device: of this rank's model, through which the ranks communicate.
    """
    names = sorted(values)
    sums = torch.stack(
        [torch.as_tensor(values[n], dtype=torch.float64, device=device) for n in names]
    )
    if world_size > 1:
        dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def sum_rows_over_ranks(rows: Tensor, world_size: int) -> Tensor:
    """Sum the ranks' tensors in place: each has its own rows, and zeros in those of the others."""
    if world_size > 1:
        dist.all_reduce(rows)
    return rows


def largest_over_ranks(count: int, device: torch.device, world_size: int) -> int:
    """Return the largest of the ranks' counts."""
    if world_size == 1:
        return count
    largest = torch.tensor(count, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)
