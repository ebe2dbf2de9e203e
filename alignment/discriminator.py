"""Telling expert responses from the policy's: the loss, its regularizers and the length check.

One sign convention, here and nowhere else: a logit is high when the discriminator believes the
response came from the expert. With D = sigmoid(logit), D = 1 is expert and D = 0 is policy. At the
optimum for a prompt the logit is log expert(response) - log policy(response).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(
    expert_logits: Float[Tensor, " expert"],
    policy_logits: Float[Tensor, " policy"],
    *,
    num_expert: int,
    num_policy: int,
    label_smoothing: float,
) -> Float[Tensor, ""]:
    """Binary cross-entropy, averaged over expert and over policy responses separately.

    Without smoothing it equals 2 log 2 - 2 JS(expert, policy) at the optimum, so 2 log 2 = 1.386
    nats means that the policy can no longer be told from the expert.

    One mean over both classes would weigh them n_E : n_pi and move the optimum to
    log(expert / policy) + log(n_E / n_pi), an offset that would turn every reward that is not
    linear in the logit into that of another divergence. Two means weigh them 1 : 1 whatever the
    counts are, so nothing has to be subtracted afterwards.

    With smoothing s the target of each class is 1 - s, and the optimum with u = expert / policy is
    log(((1 - s) u + s) / (s u + 1 - s)), between -log((1 - s) / s) and log((1 - s) / s): still
    increasing in u, so a reward that is a function of it still belongs to a divergence.

    Args:
        expert_logits: one logit for each demonstration at hand, possibly none.
        policy_logits: one logit for each response of the policy at hand, possibly none.
        num_expert: demonstrations in the optimizer step over all microbatches.
        num_policy: responses of the policy in the same; the two counts may differ.
        label_smoothing: s above, at least 0 and below 1/2, of both classes.

    Returns:
        -E_expert[(1 - s) log D + s log(1 - D)] - E_policy[(1 - s) log(1 - D) + s log D], in nats.
        Over the microbatches of a step it sums to the loss of the step.

    Raises:
        ValueError: if a count is not positive or the smoothing is out of its range.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, theorem 1; Ho & Ermon 2016, arXiv:1606.03476;
        two-sided smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    if num_expert <= 0 or num_policy <= 0:
        raise ValueError(
            f"num_expert and num_policy must be positive: a discriminator needs both classes; "
            f"got {num_expert} and {num_policy}"
        )
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5); got {label_smoothing}")
    # softplus(-h) = -log D, and softplus(h) = softplus(-h) + h = -log(1 - D)
    expert_losses = softplus(-expert_logits) + label_smoothing * expert_logits
    policy_losses = softplus(policy_logits) - label_smoothing * policy_logits
    return expert_losses.sum() / num_expert + policy_losses.sum() / num_policy


def gradient_penalty(
    logits: Float[Tensor, " batch"],
    embeddings: Float[Tensor, "token hidden"],
    token_weights: Float[Tensor, " token"],
) -> Float[Tensor, ""]:
    """Squared norm of the gradient of each logit by the embeddings of its own tokens, weighted.

    It keeps the logit smooth around the data, where the reward is read, so that a discriminator
    that separates the classes perfectly still rises gradually from one to the other. Tokens are
    discrete, so the gradient is taken by their embeddings.

    Each token counts for the one logit that depends on it: give weight 0 to tokens that several
    logits depend on, such as a prompt that is stored once for all its responses.

    Args:
        logits: differentiable functions of the embeddings.
        embeddings: of the tokens, part of the graph of the logits.
        token_weights: 1 / num_expert on tokens of demonstrations and 1 / num_policy on tokens of
            the policy's responses gives the sum of the two class means.

    Returns:
        sum over tokens of weight * |d logit / d embedding|^2, differentiable by the parameters.

    References:
        Mescheder et al. 2018, arXiv:1801.04406, R1 (real data) and R2 (generated data); their
        factor 1/2 is left to the caller's weight.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), embeddings, create_graph=True)
    return (gradient.square().sum(-1) * token_weights).sum()


def length_slope(logits: Float[Tensor, " batch"], lengths: Int[Tensor, " batch"]) -> float:
    """Least-squares slope of the logit on the length of the response, in nats a token.

    Length is the cheapest shortcut that a discriminator can take; a slope that stays away from 0
    means that the policy is paid for longer (above 0) or shorter (below 0) responses.

    Args:
        logits: of the policy's responses.
        lengths: of the same, in tokens.

    Returns:
        The slope; 0 where all lengths are equal and nothing can be said.
    """
    centered = lengths.double() - lengths.double().mean()
    spread = centered.square().sum()
    return float((centered * logits.double()).sum() / spread) if spread > 0 else 0.0
