"""A learner task cut into what one rank computes at a time."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.distributed import largest_over_ranks
from actors.messages import Evaluate, OnPolicyStep, OptimizerStep, PreferenceStep, SftStep
from alignment.mdp.packing import PackedBatch, microbatches
from alignment.mdp.trajectories import Trajectories, concatenate, pack

Part = Literal["trajectories", "comparisons", "demonstrations", "mismatched"]
"""Which of the trajectories of a task."""


class Share(NamedTuple):
    """A microbatch with what the task says of its trajectories, on the learner's device."""

    batch: PackedBatch
    discriminator_logits: Tensor
    """[sequence], or [action] where prefixes are judged"""
    rewards: Tensor
    """[sequence]; of comparisons their ranks"""
    teacher_states: Tensor | None
    """[action, hidden] where the objective is at level state"""
    weight: float
    """1; or 0 for a stand-in that only keeps this rank in step with the others."""
    part: Part = "trajectories"


def task_shares(
    task: OptimizerStep | Evaluate, max_tokens: int, *, device: torch.device, world_size: int
) -> list[Share]:
    """Cut this rank's part of a task into microbatches; all ranks call it and get equally many.

    Args:
        task: this rank's part, possibly without trajectories.
        max_tokens: most tokens in a microbatch.

    Returns:
        At least one share; the trajectories of those of weight 1 are the task's, and of what is
        beside them the comparisons and the demonstrations to clone.
    """
    cut = functools.partial(part_shares, max_tokens, device=device, world_size=world_size)
    match task:
        case SftStep() | Evaluate():
            return cut(task.trajectories, None, "trajectories")
        case OnPolicyStep():
            shares = _trajectories(task, max_tokens, device, world_size)
        case PreferenceStep():
            shares = []
    auxiliary = task.auxiliary
    if auxiliary and auxiliary.num_demonstrations:
        shares += cut(auxiliary.demonstrations, None, "demonstrations")
    if auxiliary and (auxiliary.num_comparisons or not shares):  # a step of nothing is still a step
        shares += cut(auxiliary.comparisons, auxiliary.ranks, "comparisons")
    return shares


def part_shares(
    max_tokens: int,
    trajectories: Trajectories,
    ranks: NDArray[np.float32] | None,
    part: Part,
    *,
    device: torch.device,
    world_size: int,
) -> list[Share]:
    """Cut what lies beside a task's trajectories; as task_shares.

    Args:
        max_tokens: most tokens in a microbatch.
        trajectories: this rank's, possibly none.
        ranks: [trajectory] of comparisons.

    Returns:
        At least one share.
    """
    values = np.zeros(len(trajectories), np.float32) if ranks is None else ranks
    place = _placer(trajectories, device)
    shares = []
    for batch in microbatches(trajectories, max_tokens):
        placed = place(batch, values)
        shares.append(Share(batch.to(device), torch.zeros_like(placed), placed, None, 1.0, part))
    return shares + [_stand_in(device, None, part)] * _num_missing(len(shares), device, world_size)


def _trajectories(
    task: OnPolicyStep, max_tokens: int, device: torch.device, world_size: int
) -> list[Share]:
    states = task.teacher_states
    place = _placer(task.trajectories, device)
    shares = [
        Share(
            batch.to(device),
            place(batch, task.discriminator_logits),
            place(batch, task.rewards),
            None if states is None else place(batch, states),
            weight=1.0,
        )
        for batch in microbatches(task.trajectories, max_tokens)
    ]
    width = None if states is None else states.shape[1]
    return shares + [_stand_in(device, width)] * _num_missing(len(shares), device, world_size)


def _placer(
    trajectories: Trajectories, device: torch.device
) -> Callable[[PackedBatch, NDArray[np.float32]], Tensor]:
    """Return what picks a microbatch's values from those of all trajectories."""

    def place(batch: PackedBatch, values: NDArray[np.float32]) -> Tensor:
        rows = batch.trajectory_indices.numpy()
        return torch.from_numpy(trajectories.select_values(values, rows)).to(device)

    return place


def _num_missing(num_shares: int, device: torch.device, world_size: int) -> int:
    return max(largest_over_ranks(num_shares, device, world_size), 1) - num_shares


def _stand_in(
    device: torch.device, teacher_width: int | None, part: Part = "trajectories"
) -> Share:
    """Return the smallest microbatch that still needs every parameter; a comparison is of two."""
    tokens = (0, 1) if part == "comparisons" else (0,)
    responses = concatenate([pack([0], [token], prompt_id=0) for token in tokens])
    (batch,) = microbatches(responses, 1 + len(tokens))
    ranks = torch.arange(len(tokens), dtype=torch.float32, device=device)
    states = None if teacher_width is None else torch.zeros(1, teacher_width, device=device)
    return Share(batch.to(device), torch.zeros_like(ranks), ranks, states, 0.0, part)
