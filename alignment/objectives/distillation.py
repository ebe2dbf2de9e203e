"""Distillation of a teacher with known next-token distributions: the objective of level state."""

from jaxtyping import Float
from torch import Tensor

from alignment.mdp.segments import require_positive
from alignment.objectives.output import ObjectiveOutput


def distillation(
    divergences: Float[Tensor, " action"], *, num_sequences: int, num_action_tokens: int
) -> ObjectiveOutput:
    """Divergence between teacher and policy at each state, summed over every response's states.

    With N responses and D_it the divergence in state t of response i:

        loss = (1/N) sum_i sum_t D_it

    The states are constants: the loss ignores that a change of the policy changes the states that
    it visits. So in general its gradient is not that of a divergence between whole responses. An
    exception is forward KL on the states of demonstrations, which do not depend on the policy: it
    is the forward KL of whole responses, that is supervised fine-tuning with the teacher's full
    distribution in place of its sampled token, and less variance. Reverse KL on the policy's own
    states is the immediate part of the gradient of KL(policy, teacher), without the effect of each
    token on later divergences.

    The source of the states matters more than the divergence. On the policy's own states even
    forward KL seeks modes, as it does not see modes that the policy does not visit; on the states
    of demonstrations even reverse KL nearly covers all modes.

    Args:
        divergences: divergence from teacher to policy at each state in nats, with gradient.
        num_sequences: N, responses in the optimizer step over all ranks and microbatches.
        num_action_tokens: response tokens in the same.

    Returns:
        This microbatch's term of the loss, and the diagnostic state_divergence, in nats a token.

    Raises:
        ValueError: if a count is not positive.

    References:
        Agarwal et al. 2024 (GKD), arXiv:2306.13649, eq. 2 with a sum in place of the mean over a
        response's tokens, which would weight a token by the inverse of its response's length; the
        whole gradient: Gu et al. 2024 (MiniLLM), arXiv:2306.08543.
    """
    require_positive(num_sequences=num_sequences, num_action_tokens=num_action_tokens)
    total = divergences.sum()
    return ObjectiveOutput(
        total / num_sequences, {"state_divergence": total.detach() / num_action_tokens}
    )
