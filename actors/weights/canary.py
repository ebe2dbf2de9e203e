"""Scores a short text, by which a rollout engine's weights are checked against the learner's."""

from collections.abc import Sequence
from typing import Literal

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
def score_canary(
    policy: PolicyModel,
    token_ids: Sequence[int],
    device: torch.device,
    engine_dtype: Literal["bfloat16", "float32"],
) -> Canary:
    """Score a text at temperature 1 in float32, and measure the rounding of the engine's precision.

    Args:
        policy: on the device; sharded or not. If it is sharded, all ranks call this.
    """
    first, *rest = token_ids
    (batch,) = microbatches(pack([first], rest, prompt_id=0), len(token_ids))
    batch = batch.to(device)
    logprobs = policy(batch, 1.0)[0].logprobs
    rounding = 0.0
    if engine_dtype == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            rounded = policy(batch, 1.0)[0].logprobs
        rounding = float((rounded - logprobs).abs().mean())
    return Canary(tuple(token_ids), tuple(logprobs.tolist()), rounding)
