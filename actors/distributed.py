"""One model over several ranks: sharding by FSDP2, sums over ranks, whole tensors from shards.

A single rank has nothing to shard, so its parameters stay plain tensors and it needs no process
group. Every function here is collective: all ranks call it, in the same order.
"""

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from alignment.models.policy import PolicyModel
from alignment.models.scalar_head import ScalarModel

Decoder = TypeVar("Decoder", PolicyModel, ScalarModel)
"""A model whose decoder_layers make up most of it."""


def join_process_group(
    device: torch.device, rank: int, world_size: int, *, init_method: str, timeout_s: float
) -> None:
    """Meet the other ranks where no host has done so already: gloo on CPUs, NCCL on GPUs.

    Args:
        rank: of this process, from 0.
        init_method: where they meet: "env://" under torchrun, or "file:///..." on one machine.
        timeout_s: a collective that waits longer fails.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )


def shard(model: Decoder, device: torch.device, world_size: int) -> Decoder:
    """Move a model to its device and split its parameters over the ranks.

    Each decoder layer is gathered only while it computes; embeddings, head and final norm, which
    belong to the root, stay gathered from the forward to the backward pass.

    Args:
        model: equal on all ranks, on the CPU; changed in place.
        world_size: number of ranks; with one nothing is split.

    Returns:
        The same model.
    """
    if world_size == 1:
        return model.to(device)
    mesh = init_device_mesh(device.type, (world_size,))
    for layer in model.decoder_layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model.to(device)


def release_gathered(policy: PolicyModel) -> None:
    """Drop gathered parameters, so that the next forward pass sees what the shards hold by then."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip_gradients(model: nn.Module, max_norm: float, *, scale: float = 1.0) -> float:
    """Multiply the gradients by scale, then clip them to a global norm; return it before that."""
    if scale != 1.0:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def full_tensors(policy: PolicyModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Gather one parameter after the other, under the names of the Hugging Face format.

    A head that shares the embeddings' matrix is left out.

    Yields:
        Name and whole tensor, detached, on the policy's device; rank 0 may keep it.
    """
    for name, parameter in policy.model.named_parameters():
        yield name, whole(parameter).to(dtype)


def whole(parameter: Tensor) -> Tensor:
    """Return a parameter gathered from all ranks, detached."""
    tensor = parameter.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sum_over_ranks(
    figures: Mapping[str, Tensor | float], device: torch.device, world_size: int
) -> dict[str, float]:
    """Sum figures over all ranks, which must have the same names.

    Args:
        device: of this rank's policy, over which the ranks communicate.

    Returns:
        The sums, equal on all ranks.
    """
    names = sorted(figures)
    sums = torch.stack(
        [torch.as_tensor(figures[n], dtype=torch.float64, device=device) for n in names]
    )
    if world_size > 1:
        dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def sum_rows_over_ranks(rows: Tensor, world_size: int) -> Tensor:
    """Add the ranks' tensors: each has its own rows, and zeros in those of the others."""
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


def local_device(gpus_per_rank: float) -> torch.device:
    """Choose this rank's device: a GPU, LOCAL_RANK's if several are visible, or the CPU.

    Args:
        gpus_per_rank: of the configuration; 0 computes on the CPU.

    Returns:
        The device.
    """
    if not gpus_per_rank:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)
    return torch.device("cuda", index)
