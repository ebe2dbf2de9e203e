"""Behavior cloning (supervised fine-tuning): the log-likelihood of the expert's responses."""

from typing import Literal, assert_never

from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import require_positive, sequence_lengths
from alignment.objectives.output import ObjectiveOutput

Reduction = Literal["sum_per_sequence", "token_mean", "sequence_mean"]


def behavior_cloning(
    policy_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    *,
    reduction: Reduction,
    num_sequences: int,
    num_action_tokens: int,
) -> ObjectiveOutput:
    """Negative log-likelihood of demonstrations, response tokens only.

    With N sequences, T action tokens and L_i tokens in response i:

        sum_per_sequence    -(1/N) sum_i sum_t log pi(a_it|s_it)
        token_mean          -(1/T) sum_i sum_t log pi(a_it|s_it)
        sequence_mean       -(1/N) sum_i (1/L_i) sum_t log pi(a_it|s_it)

    The first is KL(expert, policy) of whole responses plus the expert's entropy, a constant. The
    second has the same direction within a step but weighs steps by their token counts. The third
    is another objective: it weighs each demonstration by the inverse of its length.

    Args:
        policy_logprobs: log pi of the expert's tokens in nats; receives the gradient.
        sequence_index: demonstration of each action in the microbatch.
        reduction: average over the optimizer step, as above.
        num_sequences: N, demonstrations in the step over all ranks and microbatches.
        num_action_tokens: T, response tokens in the same.

    Returns:
        This microbatch's term of the loss, and the diagnostics nll_per_token and nll_per_sequence,
        which do not depend on the reduction.

    Raises:
        ValueError: if a count is not positive.

    References:
        Pomerleau 1991; as a divergence: Ke et al. 2019, arXiv:1905.12888; for language models: Sun
        2024, arXiv:2403.12017.
    """
    require_positive(num_sequences=num_sequences, num_action_tokens=num_action_tokens)
    nll = -policy_logprobs.sum()
    match reduction:
        case "sum_per_sequence":
            loss = nll / num_sequences
        case "token_mean":
            loss = nll / num_action_tokens
        case "sequence_mean":
            loss = -(policy_logprobs / sequence_lengths(sequence_index)).sum() / num_sequences
        case _:
            assert_never(reduction)
    diagnostics = {
        "nll_per_token": nll.detach() / num_action_tokens,
        "nll_per_sequence": nll.detach() / num_sequences,
    }
    return ObjectiveOutput(loss, diagnostics)
