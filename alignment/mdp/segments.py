"""Sums over the actions of each sequence, in flat arrays of concatenated sequences.

There is no padding. A microbatch is a flat array with one entry for each action (a response token,
the end token included), and sequence_index gives the sequence of each action, counted from 0.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sequence_sums(
    values: Float[Tensor, " action"], sequence_index: Int[Tensor, " action"], num_sequences: int
) -> Float[Tensor, " sequence"]:
    """Sum the actions of each sequence; one without actions sums to 0.

    Args:
        values: one number for each action.
        sequence_index: sequence of each action in the microbatch.
        num_sequences: sequences in this microbatch (not over all ranks).

    Returns:
        One sum for each sequence, differentiable by values.
    """
    return values.new_zeros(num_sequences).index_add(0, sequence_index, values)


def sequence_lengths(sequence_index: Int[Tensor, " action"]) -> Int[Tensor, " action"]:
    """Return the number of actions in the sequence of each action."""
    return torch.bincount(sequence_index)[sequence_index]


def require_positive(**counts: int) -> None:
    """Refuse counts of 0 or less.

    Args:
        counts: global counts by which an objective divides, by the names of its arguments.

    Raises:
        ValueError: if one of them is not positive.
    """
    for name, count in counts.items():
        if count <= 0:
            raise ValueError(
                f"{name} must be positive, got {count}; "
                "it counts the whole optimizer step, over all ranks and microbatches"
            )


def prefix_sums(
    values: Float[Tensor, " action"], sequence_index: Int[Tensor, " action"]
) -> Float[Tensor, " action"]:
    """Sum each action's value and those before it in its sequence.

    Args:
        sequence_index: sequence of each action, ascending.

    Returns:
        One sum for each action. NaN affects only its own sequence.
    """
    if not len(values):
        return values
    position = action_positions(sequence_index)
    table = values.new_zeros(int(sequence_index[-1]) + 1, int(position.max()) + 1)
    table[sequence_index, position] = values
    return table.cumsum(1)[sequence_index, position]


def action_positions(sequence_index: Int[Tensor, " action"]) -> Int[Tensor, " action"]:
    """Return the position of each action in its sequence, from 0; sequence_index is ascending."""
    lengths = torch.bincount(sequence_index)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(sequence_index), device=starts.device) - starts[sequence_index]
