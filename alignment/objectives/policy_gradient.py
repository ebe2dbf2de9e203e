"""The policy gradient of sampled responses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.credit.importance import ImportanceLevel, importance_diagnostics, importance_weights
from alignment.mdp.segments import require_positive, sequence_lengths
from alignment.objectives.output import ObjectiveOutput

CLIP_RANGE = 0.2
"""PPO's clipping range of the ratio of a token around 1; the usual value."""


def policy_gradient(
    policy_logprobs: Float[Tensor, " action"],
    behavior_logprobs: Float[Tensor, " action"],
    advantages: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    *,
    importance: ImportanceLevel,
    max_mean_log_ratio: float | None,
    num_sequences: int,
) -> ObjectiveOutput:
    """REINFORCE with importance weights or PPO's clipping, not divided by the response's length.

        loss = -(1/N) sum_i sum_t A_it w_it log pi(a_it|s_it),    w constant for the gradient
        clip:  -(1/N) sum_i sum_t min(rho_it A_it, clip(rho_it, 1 - c, 1 + c) A_it)

    with c = CLIP_RANGE and rho = pi / mu, which carries the gradient. Where pi = mu, both have the
    same gradient: in expectation that of minus the expected reward. With the reward of a divergence
    that is the divergence's own gradient. Dividing by each response's length, or by the group's
    standard deviation, would bias it.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats; the only input that receives a gradient.
        behavior_logprobs: log mu(a_t|s_t) in nats, as recorded when the token was sampled.
        advantages: A_it of each action, in reward units, taken as constant. Where the reward is one
            of whole responses, all actions of a response share its advantage.
        sequence_index: sequence of each action in the microbatch.
        importance: level of the importance weights, or clip.
        max_mean_log_ratio: a sequence whose mean of log pi - log mu is farther from 0, in nats a
            token, adds nothing; None rejects none. N still counts it: see importance_weights.
        num_sequences: N, sequences in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, whose value has no meaning by itself, and the
        diagnostics of importance_diagnostics; with clip also clip_fraction, the fraction of actions
        without a gradient because of clipping.

    Raises:
        ValueError: if num_sequences is not positive.

    References:
        Williams 1992; for language models: Ahmadian et al. 2024, arXiv:2402.14740; why no
        normalization by length: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783; clip: Schulman et al.
        2017 (PPO), arXiv:1707.06347, eq. 7.
    """
    require_positive(num_sequences=num_sequences)
    correction = importance_weights(
        policy_logprobs,
        behavior_logprobs,
        sequence_index,
        level=importance,
        max_mean_log_ratio=max_mean_log_ratio,
    )
    diagnostics = importance_diagnostics(correction, sequence_index, num_sequences=num_sequences)
    advantages = advantages.detach().masked_fill(correction.is_rejected, 0.0)
    if importance == "clip":
        # Ratio 1 where rejected: an infinite one times advantage 0 would be no number
        log_ratios = policy_logprobs - behavior_logprobs.detach()
        ratios = log_ratios.masked_fill(correction.is_rejected, 0.0).exp()
        surrogate, was_clipped = _clipped_surrogate(ratios, advantages)
        counts = sequence_lengths(sequence_index) * num_sequences
        diagnostics["clip_fraction"] = (was_clipped / counts).sum()
    else:
        surrogate = advantages * correction.weights * policy_logprobs
    return ObjectiveOutput(-surrogate.sum() / num_sequences, diagnostics)


def _clipped_surrogate(ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """[action] PPO's surrogate, and where clipping leaves no gradient."""
    plain = ratios * advantages
    clipped = ratios.clamp(1.0 - CLIP_RANGE, 1.0 + CLIP_RANGE) * advantages
    return torch.minimum(plain, clipped), clipped < plain
