"""The policy gradient of whole responses. Stage 2 of alignment."""

from jaxtyping import Float, Int
from torch import Tensor

from alignment.importance import ImportanceLevel, importance_diagnostics, importance_weights
from alignment.output import ObjectiveOutput
from alignment.sequences import require_positive


def policy_gradient(
    policy_logprobs: Float[Tensor, " action"],
    behavior_logprobs: Float[Tensor, " action"],
    advantages: Float[Tensor, " sequence"],
    sequence_index: Int[Tensor, " action"],
    *,
    importance: ImportanceLevel,
    num_sequences: int,
) -> ObjectiveOutput:
    """REINFORCE with truncated importance weights, and no division by the response's length.

        loss = -(1/N) sum_i A_i sum_t w_it log pi(a_it|s_it),    w constant for the gradient

    Its gradient is, in expectation and up to truncation, that of minus the expected reward. With
    the reward of a divergence that is the divergence's own gradient. Dividing by each response's
    length, or by the group's standard deviation, would bias it.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats; the only input that receives a gradient.
        behavior_logprobs: log mu(a_t|s_t) in nats, as recorded when the token was sampled.
        advantages: A_i of each sequence of the microbatch, in reward units, taken as constant.
        sequence_index: which sequence of the microbatch each action belongs to.
        importance: what one importance weight covers.
        num_sequences: N, sequences in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's share of the loss, whose value means nothing by itself, and the
        diagnostics of importance_diagnostics.

    Raises:
        ValueError: if num_sequences is not positive.

    References:
        Williams 1992; for language models: Ahmadian et al. 2024, arXiv:2402.14740; why no
        normalization by length: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    require_positive(num_sequences=num_sequences)
    correction = importance_weights(
        policy_logprobs, behavior_logprobs, sequence_index, level=importance
    )
    advantage = advantages.detach()[sequence_index]
    loss = -(advantage * correction.weights * policy_logprobs).sum() / num_sequences
    diagnostics = importance_diagnostics(correction, sequence_index, num_sequences=num_sequences)
    return ObjectiveOutput(loss, diagnostics)
