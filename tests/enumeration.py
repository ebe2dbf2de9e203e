"""Every group of responses that a policy can sample, laid out as one microbatch.

Weighing each group by its probability turns one call of the objective into an expectation.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.mdp.segments import action_positions
from alignment.objectives.policy_gradient import policy_gradient
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE

NUM = len(TABLE.responses)
LENGTHS = torch.bincount(TABLE.sequence_index)
STARTS = LENGTHS.cumsum(0) - LENGTHS


class Groups(NamedTuple):
    """All NUM ** size groups, one behind another."""

    size: int
    members: Tensor
    """[trajectory] which response of TABLE."""
    group_ids: Tensor
    """[trajectory] the same for all of a group."""
    sequence_index: Tensor
    """[action] which trajectory."""
    actions: Tensor
    """[action] which action of TABLE."""


@cache
def all_groups(size):
    draws = torch.cartesian_prod(*[torch.arange(NUM)] * size).reshape(-1, size)
    members = draws.ravel()
    index = torch.arange(len(members)).repeat_interleave(LENGTHS[members])
    return Groups(
        size=size,
        members=members,
        group_ids=torch.arange(len(draws)).repeat_interleave(size),
        sequence_index=index,
        actions=STARTS[members][index] + action_positions(index),
    )


def expected_gradient(logits, behavior, advantages, groups, *, importance="none", limit=None):
    """Expectation over groups, sampled by the behavior policy, of one step's gradient.

    Args:
        logits: of the policy that learns.
        behavior: of the policy that samples.
        advantages: [trajectory] or [action] of the groups.
        groups: from all_groups.
        importance: level of the weights.
        limit: max_mean_log_ratio.

    Returns:
        The gradient by the logits, at the scale of one group.
    """
    logits = logits.detach().requires_grad_()
    if len(advantages) == len(groups.members):
        advantages = advantages[groups.sequence_index]
    chance = tabular_response_logprobs(behavior, TABLE).exp().detach()[groups.members]
    chance = chance.reshape(-1, groups.size).prod(1)[groups.group_ids]
    out = policy_gradient(
        tabular_action_logprobs(logits, TABLE)[groups.actions],
        tabular_action_logprobs(behavior, TABLE)[groups.actions],
        chance[groups.sequence_index] * advantages,
        groups.sequence_index,
        importance=importance,
        max_mean_log_ratio=limit,
        num_sequences=groups.size,
    )
    return torch.autograd.grad(out.loss, logits)[0]
