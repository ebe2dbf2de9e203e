"""Penalties on the KL divergence from the policy pi to a fixed reference policy.

Three estimators of KL(pi, reference) from sampled tokens, with rho = reference / pi:

    k1 = -log rho,    k2 = 1/2 (log rho)^2,    k3 = rho - 1 - log rho.

k1 and k3 are unbiased as values. As gradients they differ, and by where they are put:

    k1 in the reward      the exact gradient of KL(pi, reference) of whole responses
    k2 as a loss          the gradient of KL(pi, reference) at each visited state
    k3 as a loss          the gradient of KL(reference, pi), the forward direction, at each of them
    k1 as a loss          zero in expectation, hence not offered

A loss on tokens holds the states fixed: it ignores that the policy chooses which states it visits,
which the reward does not. For responses of one token the two views agree.

References:
    Schulman 2020, "Approximating KL Divergence"; on gradients: arXiv:2512.21852.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import require_positive, sequence_sums


def k1_penalty(
    policy_logprobs: Float[Tensor, " action"],
    reference_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    num_sequences: int,
) -> Float[Tensor, " sequence"]:
    """Log-ratio of each whole response: SUBTRACT it, times a coefficient, from its reward.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats.
        reference_logprobs: log reference(a_t|s_t) in nats.
        sequence_index: sequence of each action in the microbatch.
        num_sequences: sequences in this microbatch (not over all ranks).

    Returns:
        sum_t [log pi - log reference] of each sequence, in nats, without gradient. Its mean under
        the policy is KL(pi, reference); a single value may be negative.
    """
    log_ratios = policy_logprobs.detach() - reference_logprobs.detach()
    return sequence_sums(log_ratios, sequence_index, num_sequences)


def k2_loss(
    policy_logprobs: Float[Tensor, " action"],
    reference_logprobs: Float[Tensor, " action"],
    *,
    num_sequences: int,
) -> Float[Tensor, ""]:
    """Half the squared log-ratio, summed over tokens: (1/N) sum_i sum_t 1/2 (log pi/reference)^2.

    Its gradient is that of KL(pi, reference) at each visited state, the states held fixed.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats; the only input that receives a gradient.
        reference_logprobs: the reference policy's, of the same tokens.
        num_sequences: N, sequences in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's share of the loss. As a value it is a biased estimate.

    Raises:
        ValueError: if num_sequences is not positive.
    """
    require_positive(num_sequences=num_sequences)
    log_ratios = policy_logprobs - reference_logprobs.detach()
    return 0.5 * log_ratios.square().sum() / num_sequences


def k3_loss(
    policy_logprobs: Float[Tensor, " action"],
    reference_logprobs: Float[Tensor, " action"],
    *,
    num_sequences: int,
) -> Float[Tensor, ""]:
    """Nonnegative estimator, summed over tokens: (1/N) sum_i sum_t [rho - 1 - log rho].

    Its value estimates KL(pi, reference), its gradient is that of KL(reference, pi) at each visited
    state, the states held fixed.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats; the only input that receives a gradient.
        reference_logprobs: the reference policy's, of the same tokens.
        num_sequences: N, sequences in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's share of the loss.

    Raises:
        ValueError: if num_sequences is not positive.
    """
    require_positive(num_sequences=num_sequences)
    log_rho = reference_logprobs.detach() - policy_logprobs
    return (torch.expm1(log_rho) - log_rho).sum() / num_sequences
