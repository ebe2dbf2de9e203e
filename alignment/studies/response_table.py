"""Every response over a small vocabulary, and the probability of each under a tabular policy.

With a few tokens and steps, expectations over responses are sums, without sampling noise.
"""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import sequence_sums


class ResponseTable(NamedTuple):
    """Every response to one prompt, flat: the actions of one follow those of the one before.

    A tabular policy is one row of logits for each prefix. The number of prefixes grows like
    (num_tokens - 1) ** max_response_tokens.
    """

    prefixes: tuple[tuple[int, ...], ...]
    """[prefix] the states in which a token is chosen, the empty one first."""
    responses: tuple[tuple[int, ...], ...]
    """[response] ended by the end token, or of full length without it."""
    prefix_index: Int[Tensor, " action"]
    """The state of each action."""
    tokens: Int[Tensor, " action"]
    """The token chosen there."""
    sequence_index: Int[Tensor, " action"]
    """The response that each action belongs to."""


def enumerate_responses(num_tokens: int, end_token: int, max_response_tokens: int) -> ResponseTable:
    """List all responses over a small vocabulary.

    Args:
        end_token: the token that ends a response and is its last.
        max_response_tokens: a response of this length ends without an end token.

    Returns:
        The table; the probabilities of its responses sum to 1 under every tabular policy.
    """
    words = [token for token in range(num_tokens) if token != end_token]
    lengths = range(max_response_tokens)
    prefixes = [text for n in lengths for text in itertools.product(words, repeat=n)]
    ended = [(*prefix, end_token) for prefix in prefixes]
    full = list(itertools.product(words, repeat=max_response_tokens))
    responses = [*ended, *full]
    row = {prefix: index for index, prefix in enumerate(prefixes)}
    return ResponseTable(
        prefixes=tuple(prefixes),
        responses=tuple(responses),
        prefix_index=torch.tensor([row[y[:t]] for y in responses for t in range(len(y))]),
        tokens=torch.tensor([token for y in responses for token in y]),
        sequence_index=torch.tensor([i for i, y in enumerate(responses) for _ in y]),
    )


def tabular_action_logprobs(
    logits: Float[Tensor, "prefix vocab"], table: ResponseTable
) -> Float[Tensor, " action"]:
    """Log-probability of each action of each response under a tabular policy, in nats."""
    return logits.log_softmax(-1)[table.prefix_index, table.tokens]


def tabular_response_logprobs(
    logits: Float[Tensor, "prefix vocab"], table: ResponseTable
) -> Float[Tensor, " response"]:
    """Log-probability of each whole response under a tabular policy, in nats."""
    actions = tabular_action_logprobs(logits, table)
    return sequence_sums(actions, table.sequence_index, len(table.responses))
