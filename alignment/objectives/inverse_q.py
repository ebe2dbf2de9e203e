"""Inverse soft Q-learning (IQ-Learn): behavior cloning with a penalty on the implied reward."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import require_positive
from alignment.objectives.output import ObjectiveOutput


def inverse_q(
    policy_logprobs: Float[Tensor, " action"],
    log_normalizers: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    *,
    td_weight: float,
    num_sequences: int,
    num_action_tokens: int,
) -> ObjectiveOutput:
    """Negative log-likelihood of demonstrations, and a penalty on the reward that the logits imply.

    Logits are read as soft Q-values: Q(s, a) is the logit of a, V(s) = logsumexp of all of them,
    log pi = Q - V. Such a policy is optimal for the reward Q(s, a) - V(s'), with V = 0 after the
    end and no discount. With N demonstrations:

        loss = -(1/N) sum_i sum_t log pi(a_it|s_it) + (td_weight / 4) (Q(s_it, a_it) - V(s_it'))^2

    It is minus the objective of IQ-Learn with a chi-square regularizer of weight 1 / td_weight, and
    behavior_cloning at 0. The implied rewards of a response sum to log pi(y) + V(s_0).

    The level of the logits, which does not matter for cloning, matters here: adding a constant at a
    state changes V but not the policy. So use the logits of the model, not log_softmax of them or
    logits minus their maximum. A truncated demonstration would count as ended; leave those out.

    Args:
        policy_logprobs: log pi of the expert's tokens in nats; receives the gradient.
        log_normalizers: V(s_it), logsumexp of the logits in the state where each token was chosen,
            at the temperature of the log-probabilities; receives the gradient.
        sequence_index: demonstration of each action in the microbatch, ascending.
        td_weight: weight of the squares, finite and at least 0.
        num_sequences: N, demonstrations in the step over all ranks and microbatches.
        num_action_tokens: response tokens in the same.

    Returns:
        This microbatch's term of the loss, and the diagnostics nll_per_token and nll_per_sequence,
        td_error, the mean square of the implied reward a token, and implied_return, the mean of its
        sum over a response, in nats.

    Raises:
        ValueError: if a count is not positive, or td_weight is negative or not finite.

    References:
        Garg et al. 2021 (IQ-Learn), arXiv:2106.12142; for language models: Wulfmeier et al. 2024,
        arXiv:2409.01369, here without a discount.
    """
    require_positive(num_sequences=num_sequences, num_action_tokens=num_action_tokens)
    if not 0.0 <= td_weight < math.inf:
        raise ValueError(f"td_weight must be finite and at least 0; it is {td_weight}")
    goes_on = sequence_index[1:] == sequence_index[:-1]
    following = torch.where(goes_on, log_normalizers[1:], 0.0)
    following = torch.cat([following, following.new_zeros(1)])  # nothing follows the last action
    rewards = policy_logprobs + log_normalizers - following
    nll, squares = -policy_logprobs.sum(), rewards.square().sum()
    diagnostics = {
        "nll_per_token": nll.detach() / num_action_tokens,
        "nll_per_sequence": nll.detach() / num_sequences,
        "td_error": squares.detach() / num_action_tokens,
        "implied_return": rewards.detach().sum() / num_sequences,
    }
    return ObjectiveOutput((nll + 0.25 * td_weight * squares) / num_sequences, diagnostics)
