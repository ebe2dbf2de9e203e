"""A learner task cut into what one rank computes at a time."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.protocols import LearnerTask
from actors.sharding import largest_over_ranks
from alignment.batching import PackedBatch, microbatches
from alignment.trajectories import pack


class Share(NamedTuple):
    """A microbatch with what the task says of its trajectories, on the learner's device."""

    batch: PackedBatch
    discriminator_logits: Tensor
    """[sequence], or [action] where prefixes are judged"""
    rewards: Tensor
    """[sequence]"""
    teacher_states: Tensor | None
    """[action, hidden] where the objective is at level state"""
    weight: float
    """1; or 0 for a stand-in that only keeps this rank in step with the others."""


def task_shares(
    task: LearnerTask, max_tokens: int, *, device: torch.device, world_size: int
) -> list[Share]:
    """Cut this rank's part of a task into microbatches; all ranks call it and get equally many.

    Args:
        task: this rank's part, possibly without trajectories.
        max_tokens: most tokens in a microbatch.
        device: where the microbatches go.
        world_size: number of ranks.

    Returns:
        At least one share; the trajectories of those of weight 1 are the task's.
    """
    batches = microbatches(task.trajectories, max_tokens)

    def values_of(batch: PackedBatch, values: NDArray[np.float32]) -> Tensor:
        rows = batch.trajectory_indices.numpy()
        return torch.from_numpy(task.trajectories.select_values(values, rows)).to(device)

    states = task.teacher_states
    shares = [
        Share(
            batch.to(device),
            values_of(batch, task.discriminator_logits),
            values_of(batch, task.rewards),
            None if states is None else values_of(batch, states),
            weight=1.0,
        )
        for batch in batches
    ]
    missing = max(largest_over_ranks(len(shares), device, world_size), 1) - len(shares)
    width = None if states is None else states.shape[1]
    return shares + [_stand_in(device, width)] * missing


def _stand_in(device: torch.device, teacher_width: int | None) -> Share:
    """Return the smallest microbatch that still needs every parameter."""
    (batch,) = microbatches(pack([0], [0], prompt_id=0), 2)
    nothing = torch.zeros(1, device=device)
    states = None if teacher_width is None else torch.zeros(1, teacher_width, device=device)
    return Share(batch.to(device), nothing, nothing, states, weight=0.0)
