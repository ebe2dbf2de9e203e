"""The text on which an engine proves that it computes with the published weights."""

from collections.abc import Sequence

import torch

from actors.messages import Canary
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import pack
from alignment.models.policy import PolicyModel

CANARY_TOKENS = 16
"""Enough tokens to notice wrong weights, and few enough that scoring them takes no time."""


def canary_length(context_tokens: int) -> int:
    """Return how many tokens a canary has; an engine's context must hold one more than that."""
    return min(CANARY_TOKENS, context_tokens - 1)


@torch.no_grad()
def score_canary(policy: PolicyModel, token_ids: Sequence[int], device: torch.device) -> Canary:
    """Score a text at temperature 1 and in float32, whatever the run uses.

    Args:
        policy: on the device; sharded or not. If it is sharded, all ranks call this.
    """
    first, *rest = token_ids
    (batch,) = microbatches(pack([first], rest, prompt_id=0), len(token_ids))
    scores, _ = policy(batch.to(device), 1.0)
    return Canary(tuple(token_ids), tuple(scores.logprobs.tolist()))
