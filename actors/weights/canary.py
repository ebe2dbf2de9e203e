"""Scores fixed texts, by which a rollout engine's weights are checked against the learner's."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from actors.distributed import release_gathered
from actors.messages import Canary
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import Trajectories, concatenate, pack
from alignment.models.policy import PolicyModel

NUM_TEXTS = 8
"""Number of texts: their median ignores a text that is hard for bfloat16."""
TEXT_TOKENS = 16
"""Number of tokens of a text: enough to detect wrong weights, at a negligible cost."""


Texts = tuple[tuple[int, ...], ...]


def random_texts(vocab_size: int, context_tokens: int) -> Texts:
    """Return texts of random tokens, for a learner that has seen no others yet.

    Args:
        context_tokens: of an engine, which must hold one token more than a text has.
    """
    shape = NUM_TEXTS, min(TEXT_TOKENS, context_tokens - 1)
    token_ids = np.random.default_rng(0).integers(0, vocab_size, shape)
    return tuple(tuple(text) for text in token_ids.tolist())


def texts_of(trajectories: Trajectories, vocab_size: int, context_tokens: int) -> Texts:
    """Return different ends of trajectories: bfloat16 changes them less than random tokens.

    Their beginnings may all be the same system prompt. Random texts take the place of trajectories
    that are missing or too short.
    """
    filling = random_texts(vocab_size, context_tokens)
    length = len(filling[0])
    ends = trajectories.starts + trajectories.lengths
    found = [
        tuple(trajectories.token_ids[end - length : end].tolist())
        for end in ends[trajectories.lengths >= length].tolist()
    ]
    return (*dict.fromkeys(found), *filling)[:NUM_TEXTS]


@torch.no_grad()
def score_canary(
    policy: PolicyModel,
    texts: Texts,
    device: torch.device,
    engine_dtype: Literal["bfloat16", "float32"],
) -> Canary:
    """Score texts with the weights as they are published, and measure the engine's rounding.

    The scores are computed in float32. The weights are rounded meanwhile, so they take twice their
    memory, as they do with their gradients.

    Args:
        policy: on the device; sharded or not. If it is sharded, all ranks call this.
    """
    packed = [pack([text[0]], text[1:], prompt_id=row) for row, text in enumerate(texts)]
    (batch,) = microbatches(concatenate(packed), sum(map(len, texts)))
    batch = batch.to(device)
    lengths = [len(text) - 1 for text in texts]
    if engine_dtype == "float32":
        exact = policy(batch, 1.0)[0].logprobs.split(lengths)
        return Canary(texts, _rows(exact))
    with _rounded(policy):
        exact = policy(batch, 1.0)[0].logprobs.split(lengths)
        with torch.autocast(device.type, torch.bfloat16):
            rounded = policy(batch, 1.0)[0].logprobs.split(lengths)
    differences = [(a - b).abs().mean().item() for a, b in zip(exact, rounded, strict=True)]
    return Canary(texts, _rows(exact), statistics.median(differences))


def _rows(rows: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row.tolist()) for row in rows)


@contextmanager
def _rounded(policy: PolicyModel) -> Iterator[None]:
    """Round the weights to bfloat16, as they are published, and restore them in the end."""
    release_gathered(policy)
    weights = {name: each.detach().clone() for name, each in policy.named_parameters()}
    for parameter in policy.parameters():
        parameter.copy_(parameter.bfloat16())
    try:
        yield
    finally:
        release_gathered(policy)
        for name, parameter in policy.named_parameters():
            parameter.copy_(weights[name])
