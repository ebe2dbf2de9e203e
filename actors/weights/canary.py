"""Scores a short text, by which a rollout engine's weights are checked against the learner's."""

from collections.abc import Sequence

import torch

from actors.messages import Canary
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import pack
from alignment.models.policy import PolicyModel

CANARY_TOKENS = 16
"""Number of tokens of the text: enough to detect wrong weights, at a negligible cost."""


def canary_length(context_tokens: int) -> int:
    """Return the number of tokens of a canary; an engine's context must hold one more."""
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
