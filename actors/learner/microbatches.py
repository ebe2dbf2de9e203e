"""Cuts a learner task into microbatches: what one rank computes at a time."""

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
"""The part of a task that a microbatch comes from: its trajectories or a part of its auxiliary
batch."""


class Microbatch(NamedTuple):
    """A packed batch with the values of its trajectories, on the learner's device."""

    batch: PackedBatch
    discriminator_logits: Tensor
    """[sequence], or [action] at levels token and occupancy."""
    rewards: Tensor
    """[sequence]; the ranks of comparisons."""
    teacher_states: Tensor | None
    """[action, hidden] at level state."""
    weight: float
    """1, or 0 for a padding microbatch, which only keeps this rank in step with the others."""
    part: Part = "trajectories"


def task_microbatches(
    task: OptimizerStep | Evaluate, max_tokens: int, *, device: torch.device, world_size: int
) -> list[Microbatch]:
    """Cut this rank's share of a task; all ranks call it and get equally many, at least one.

    Args:
        task: this rank's share, possibly without trajectories.
    """
    cut = functools.partial(part_microbatches, max_tokens, device=device, world_size=world_size)
    match task:
        case SftStep() | Evaluate():
            return cut(task.trajectories, None, "trajectories")
        case OnPolicyStep():
            made = _rollouts(task, max_tokens, device, world_size)
        case PreferenceStep():
            made = []
    auxiliary = task.auxiliary
    if auxiliary and auxiliary.num_demonstrations:
        made += cut(auxiliary.demonstrations, None, "demonstrations")
    # A step without any data is still a step, so that all ranks take equally many.
    if auxiliary and (auxiliary.num_comparisons or not made):
        compared = auxiliary.comparisons
        made += cut(compared.trajectories, compared.ranks, "comparisons")
    return made


def part_microbatches(
    max_tokens: int,
    trajectories: Trajectories,
    ranks: NDArray[np.float32] | None,
    part: Part,
    *,
    device: torch.device,
    world_size: int,
) -> list[Microbatch]:
    """Cut one part of a task that has neither logits nor rewards; as task_microbatches.

    Args:
        trajectories: this rank's share, possibly none.
        ranks: [trajectory] of comparisons.
    """
    values = np.zeros(len(trajectories), np.float32) if ranks is None else ranks
    values_of = _selector(trajectories, device)
    made = []
    for batch in microbatches(trajectories, max_tokens):
        own = values_of(batch, values)
        made.append(Microbatch(batch.to(device), torch.zeros_like(own), own, None, 1.0, part))
    return made + [_padding(device, None, part)] * _num_missing(len(made), device, world_size)


def _rollouts(
    task: OnPolicyStep, max_tokens: int, device: torch.device, world_size: int
) -> list[Microbatch]:
    states = task.teacher_states
    values_of = _selector(task.trajectories, device)
    made = [
        Microbatch(
            batch.to(device),
            values_of(batch, task.discriminator_logits),
            values_of(batch, task.rewards),
            None if states is None else values_of(batch, states),
            weight=1.0,
        )
        for batch in microbatches(task.trajectories, max_tokens)
    ]
    width = None if states is None else states.shape[1]
    return made + [_padding(device, width)] * _num_missing(len(made), device, world_size)


def _selector(
    trajectories: Trajectories, device: torch.device
) -> Callable[[PackedBatch, NDArray[np.float32]], Tensor]:
    """Return a function that selects a microbatch's values from those of all trajectories."""

    def values_of(batch: PackedBatch, values: NDArray[np.float32]) -> Tensor:
        rows = batch.trajectory_indices.numpy()
        return torch.from_numpy(trajectories.select_values(values, rows)).to(device)

    return values_of


def _num_missing(num_microbatches: int, device: torch.device, world_size: int) -> int:
    return max(largest_over_ranks(num_microbatches, device, world_size), 1) - num_microbatches


def _padding(
    device: torch.device, teacher_width: int | None, part: Part = "trajectories"
) -> Microbatch:
    """Return the smallest microbatch that uses every parameter; a comparison has two responses."""
    tokens = (0, 1) if part == "comparisons" else (0,)
    responses = concatenate([pack([0], [token], prompt_id=0) for token in tokens])
    (batch,) = microbatches(responses, 1 + len(tokens))
    ranks = torch.arange(len(tokens), dtype=torch.float32, device=device)
    states = None if teacher_width is None else torch.zeros(1, teacher_width, device=device)
    return Microbatch(batch.to(device), torch.zeros_like(ranks), ranks, states, 0.0, part)
