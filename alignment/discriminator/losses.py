"""Telling expert responses from the policy's: what a verdict costs, and what the best verdict is.

One sign convention, here and nowhere else: a logit is high when the discriminator believes the
response came from the expert. With D = sigmoid(logit), D = 1 is expert and D = 0 is policy. At the
optimum for a prompt the logit is log expert(response) - log policy(response), whichever loss.

A loss is the sum over verdicts of weight times cost, and the costs are the functions below. The
weights add up to the two class means, E_expert[cost] + E_policy[cost]. One mean over both classes
would weigh them n_E : n_pi and move the optimum to log(expert / policy) + log(n_E / n_pi), an
offset that would turn every reward that is not linear in the logit into that of another divergence.
Two means weigh them 1 : 1 whatever the counts are, so nothing has to be subtracted afterwards, and
shares of microbatches add up to the loss of the step.

With label smoothing s each label is taken as wrong with probability s. That mixes the classes into
(1 - s) expert + s policy and its mirror image, so with u = expert / policy the optimum becomes
log(((1 - s) u + s) / (s u + 1 - s)), between -log((1 - s) / s) and log((1 - s) / s): still
increasing in u, so a reward that is a function of it still belongs to a divergence. Two losses have
no label of a single response to smooth: pairwise and Wasserstein's.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from alignment.divergences.record import Divergence


def cross_entropy_costs(
    logits: Float[Tensor, " verdict"],
    is_expert: Bool[Tensor, " verdict"],
    *,
    label_smoothing: float,
) -> Float[Tensor, " verdict"]:
    """Binary cross-entropy of each verdict.

    Without smoothing the two class means add up to 2 log 2 - 2 JS(expert, policy) at the optimum,
    so 2 log 2 = 1.386 nats means that the policy can no longer be told from the expert.

    Args:
        is_expert: whether a demonstration was judged.
        label_smoothing: s above, at least 0 and below 1/2, of both classes.

    Returns:
        -log D of the expert and -log(1 - D) of the policy, in nats, smoothed.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, theorem 1; Ho & Ermon 2016, arXiv:1606.03476;
        two-sided smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return _smoothed(softplus(-logits), softplus(logits), is_expert, label_smoothing)


def least_squares_costs(
    logits: Float[Tensor, " verdict"],
    is_expert: Bool[Tensor, " verdict"],
    *,
    label_smoothing: float,
) -> Float[Tensor, " verdict"]:
    """Brier score of D = sigmoid(logit): bounded, so that no single verdict costs more than 1.

    A proper score: its optimum is D = expert / (expert + policy), as cross-entropy's. LSGAN (Mao et
    al. 2017, arXiv:1611.04076) squares the distance of the raw output from its target instead; then
    the output is no logit.

    Args:
        is_expert: whether a demonstration was judged.
        label_smoothing: at least 0 and below 1/2, of both classes.

    Returns:
        (1 - D)^2 of the expert and D^2 of the policy, smoothed.
    """
    expert, policy = torch.sigmoid(-logits).square(), torch.sigmoid(logits).square()
    return _smoothed(expert, policy, is_expert, label_smoothing)


def variational_costs(
    logits: Float[Tensor, " verdict"],
    is_expert: Bool[Tensor, " verdict"],
    divergence: Divergence,
    *,
    label_smoothing: float,
) -> Float[Tensor, " verdict"]:
    """f-GAN's bound of a divergence with the direct link T(h) = f'(e^h), so that h is the logit.

    Without smoothing the two class means add up to E_policy[f*(T)] - E_expert[T], which is at least
    minus the divergence and equal to it at the optimum.

    Logits are clipped to the divergence's safe range, since T and f*(T) may grow as e^h. A clipped
    logit keeps the gradient of the range's end where that leads back into the range, and none where
    it leads out: below the range the expert's term pulls up, above it the policy's pulls down. So a
    logit that went too far comes back, and no further than the end does any term push.

    Args:
        is_expert: whether a demonstration was judged.
        divergence: with a generator that curves; others raise the ValueError of their critic.
        label_smoothing: at least 0 and below 1/2, of both classes.

    Returns:
        -T(h) of the expert and f*(T(h)) of the policy, smoothed.

    References:
        Nowozin et al. 2016, arXiv:1606.00709, equation 4; their critic is another output
        activation, g_f(v), whose raw output v is log(expert / policy) for few divergences only.
    """
    low, high = divergence.safe_logits
    clipped = logits.detach().clamp(low, high)
    returning = clipped + (logits - logits.detach())
    pulled_up = torch.where(logits > high, clipped, returning)
    pulled_down = torch.where(logits < low, clipped, returning)
    return _smoothed(
        -divergence.critic(pulled_up),
        divergence.critic_cost(pulled_down),
        is_expert,
        label_smoothing,
    )


def wasserstein_costs(
    critic: Float[Tensor, " verdict"], is_expert: Bool[Tensor, " verdict"]
) -> Float[Tensor, " verdict"]:
    """Minus the difference of means of a critic, Wasserstein's distance where it is 1-Lipschitz.

    The critic's level is arbitrary, so its sign says nothing; only differences within a prompt do.

    Args:
        critic: T, expert-positive; what keeps it Lipschitz is the gradient penalty.
        is_expert: whether a demonstration was judged.

    Returns:
        -T of the expert and T of the policy, in the units of the embeddings' distances.

    References:
        Arjovsky et al. 2017, arXiv:1701.07875, equation 2.
    """
    return torch.where(is_expert, -critic, critic)


class Expansion(NamedTuple):
    """A loss of all logits together, to first order about given ones: a cost for each of them.

    The costs value + slopes * (logits - those given), taken at those given, add up to the loss and
    their gradients to its gradient, in whichever parts they are computed.
    """

    value: Float[Tensor, ""]
    """The loss."""
    slopes: Float[Tensor, " trajectory"]
    """Its derivative by each logit."""


def pairwise_loss(
    logits: Float[Tensor, " trajectory"],
    is_expert: Bool[Tensor, " trajectory"],
    group_index: Int[Tensor, " trajectory"],
) -> Float[Tensor, ""]:
    """Bradley-Terry: each demonstration should beat each of the policy's responses to its prompt.

    At the optimum the logit is log(expert / policy) + c(prompt) with an arbitrary c, which
    group_levels finds. Defined for whole responses only: a prefix has no counterpart of the other
    class to be compared with, since the two have different lengths.

    Args:
        logits: expert-positive, of all responses of the optimizer step.
        is_expert: whether it is a demonstration.
        group_index: of each response its group, 0 to the number of groups - 1; every group has both
            classes.

    Returns:
        Mean over groups of the mean over pairs of -log sigmoid(demonstration's - rollout's logit),
        in nats; log 2 where nothing is known.

    References:
        Bradley & Terry 1952; as a discriminator: arXiv:2511.10643 (GAD), equation 2.
    """
    expert, policy = is_expert.nonzero()[:, 0], (~is_expert).nonzero()[:, 0]
    is_pair = group_index[expert][:, None] == group_index[policy]
    first, second = is_pair.nonzero(as_tuple=True)
    groups = group_index[expert[first]]
    costs = softplus(logits[policy[second]] - logits[expert[first]])
    pairs_in_group = torch.bincount(groups)
    return (costs / pairs_in_group[groups]).sum() / len(pairs_in_group)


def pairwise_expansion(
    logits: Float[Tensor, " trajectory"],
    is_expert: Bool[Tensor, " trajectory"],
    group_index: Int[Tensor, " trajectory"],
) -> Expansion:
    """Expand the pairwise loss, so that a group may be split over microbatches.

    Args:
        logits: about which to expand, as in pairwise_loss; so are the others.
        is_expert: whether it is a demonstration.
        group_index: of each response its group.

    Returns:
        The expansion.
    """
    point = logits.detach().requires_grad_()
    with torch.enable_grad():
        loss = pairwise_loss(point, is_expert, group_index)
        (slopes,) = torch.autograd.grad(loss, point)
    return Expansion(loss.detach(), slopes)


def group_levels(
    logits: Float[Tensor, " trajectory"], group_index: Int[Tensor, " trajectory"]
) -> Float[Tensor, " group"]:
    """Find the constant c(prompt) of a pairwise discriminator's logits from a group of responses.

    E_policy[expert / policy] = 1, so c = log E_policy[e^(log(expert / policy) + c)]; the mean over
    a group takes the place of the expectation. A group is needed: a single response always has
    logit 0 after its own c is subtracted, and a few have a rough c.

    Args:
        group_index: of each response its group, 0 to the number of groups - 1; none empty.

    Returns:
        log mean e^logit of each group, to be subtracted from the logits of its prompt.
    """
    counts = torch.bincount(group_index)
    largest = logits.new_full((len(counts),), -math.inf)
    largest = largest.scatter_reduce(0, group_index, logits, "amax")
    shifted = (logits - largest[group_index]).exp()
    sums = logits.new_zeros(len(counts)).index_add(0, group_index, shifted)
    return largest + (sums / counts).log()


def length_slope(logits: Float[Tensor, " batch"], lengths: Int[Tensor, " batch"]) -> float:
    """Least-squares slope of the logit on the length of the response, in nats a token.

    Length is the cheapest shortcut that a discriminator can take; a slope that stays away from 0
    means that the policy is paid for longer (above 0) or shorter (below 0) responses.

    Args:
        lengths: of the same, in tokens.

    Returns:
        The slope; 0 where all lengths are equal and nothing can be said.
    """
    centered = lengths.double() - lengths.double().mean()
    spread = centered.square().sum()
    return float((centered * logits.double()).sum() / spread) if spread > 0 else 0.0


def _smoothed(
    expert_costs: Tensor, policy_costs: Tensor, is_expert: Tensor, label_smoothing: float
) -> Tensor:
    """Expected cost of each verdict where its label is wrong with probability label_smoothing."""
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5); got {label_smoothing}")
    right = torch.where(is_expert, expert_costs, policy_costs)
    wrong = torch.where(is_expert, policy_costs, expert_costs)
    return right + label_smoothing * (wrong - right)
