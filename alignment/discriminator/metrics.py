"""Exact values by enumeration of all responses, and estimates from discriminator logits.

Enumeration is for tables of a few tokens and steps, where every formula of alignment/ can be
checked without sampling noise.
"""

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from alignment.discriminator.labelled_batch import LabelledBatch
from alignment.discriminator.losses import length_slope
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
        num_tokens: size of the vocabulary, the end token included.
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


def discriminator_estimates(
    expert_logits: Float[Tensor, " expert"], policy_logits: Float[Tensor, " policy"]
) -> dict[str, Tensor]:
    """What logits on fresh responses say of the divergences, and of the discriminator itself.

    Each estimate is exact in expectation for the optimal discriminator, h = log(expert / policy),
    on responses that it was not trained on; a poor discriminator makes it no bound on anything.

    Args:
        expert_logits: expert-positive logits of held-out or not yet seen demonstrations.
        policy_logits: the same of fresh responses of the policy to the same prompts.

    Returns:
        accuracy: mean of the two classes' shares on the right side of 0; a logit of 0 counts half.
        logit_expert, logit_policy: mean logits.
        calibration_expert, calibration_policy: E_expert[1 - D] and E_policy[D]; equal when the
            discriminator is calibrated, 0.5 when expert and policy cannot be told apart.
        forward_kl_estimate, reverse_kl_estimate, jensen_shannon_estimate: E_expert[h],
            -E_policy[h], and log 2 minus half the sum of the two cross-entropies, in nats.

    Raises:
        ValueError: if there are no responses of one kind.
    """
    if not len(expert_logits) or not len(policy_logits):
        raise ValueError(
            "estimates need expert and policy responses, "
            f"got {len(expert_logits)} and {len(policy_logits)}"
        )
    expert, policy = expert_logits.detach(), policy_logits.detach()
    cross_entropies = softplus(-expert).mean() + softplus(policy).mean()
    return {
        "accuracy": 0.5 + 0.25 * (expert.sign().mean() - policy.sign().mean()),
        "logit_expert": expert.mean(),
        "logit_policy": policy.mean(),
        "calibration_expert": torch.sigmoid(-expert).mean(),
        "calibration_policy": torch.sigmoid(policy).mean(),
        "forward_kl_estimate": expert.mean(),
        "reverse_kl_estimate": -policy.mean(),
        "jensen_shannon_estimate": math.log(2.0) - 0.5 * cross_entropies,
    }


class Judged(NamedTuple):
    """Verdicts on whole responses, by a discriminator that has not trained on them."""

    fresh: LabelledBatch
    """Rollouts of this step, and the demonstrations of their prompts."""
    logits: Float[Tensor, " trajectory"]
    """Of the fresh batch."""
    held_out_logits: Float[Tensor, " held_out"]
    """Of demonstrations that are never trained on; there may be none."""


def fresh_figures(judged: Judged) -> dict[str, float]:
    """Summarize verdicts.

    The demonstrations of this step are new to it only in the first epoch, and the longer the run
    the better the discriminator knows them; those held out it does not know.

    Returns:
        What discriminator_estimates says, of rollouts of this step and of demonstrations held out
        or, where there are none, of those of this step; its accuracy as accuracy_held_out, only
        where there are some. logit_expert and accuracy_fresh are always of this step's (0.5 while
        all logits are 0, since a tie counts half). length_slope is over the rollouts.
    """
    is_expert = judged.fresh.is_expert
    expert, policy = judged.logits[is_expert], judged.logits[~is_expert]
    figures = {}
    estimates = discriminator_estimates(expert, policy)
    of_this_step = {name: estimates[name] for name in ("accuracy", "logit_expert")}
    if len(judged.held_out_logits):
        estimates = discriminator_estimates(judged.held_out_logits, policy)
        figures["accuracy_held_out"] = float(estimates["accuracy"])
    figures |= {name: float(value) for name, value in (estimates | of_this_step).items()}
    figures["accuracy_fresh"] = figures.pop("accuracy")
    lengths = torch.from_numpy(judged.fresh.trajectories.response_lengths)[~is_expert]
    figures["length_slope"] = length_slope(policy, lengths)
    return figures
