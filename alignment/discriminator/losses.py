"""Losses of the discriminator, as costs of single logits, and their optimal logits.

Sign convention: a high logit means that the response is from the expert. With D = sigmoid(logit),
D = 1 is expert and D = 0 is policy. Under every loss the optimal logit of a response is
log expert(response) - log policy(response).

A loss is the sum over logits of weight times cost; the functions below are the costs. The weights
give the sum of the two class means, E_expert[cost] + E_policy[cost]. One mean over both classes
would move the optimum to log(expert / policy) + log(n_E / n_pi), and this offset would turn every
reward that is not linear in the logit into that of another divergence. Two means have no offset,
whatever the counts, and the terms of microbatches add up to the loss of the step.

With label smoothing s each label is assumed wrong with probability s. That mixes the classes into
(1 - s) expert + s policy and its mirror image, so with u = expert / policy the optimum becomes
log(((1 - s) u + s) / (s u + 1 - s)), between -log((1 - s) / s) and log((1 - s) / s): still
increasing in u, so a reward that is a function of it still belongs to a divergence. The pairwise
and the Wasserstein loss have no labels of single responses to smooth.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from alignment.divergences.record import Divergence


def cross_entropy_costs(
    logits: Float[Tensor, " logit"],
    is_expert: Bool[Tensor, " logit"],
    *,
    label_smoothing: float,
) -> Float[Tensor, " logit"]:
    """Binary cross-entropy of each logit.

    Without smoothing the two class means add up to 2 log 2 - 2 JS(expert, policy) at the optimum,
    so 2 log 2 = 1.386 nats means that policy and expert cannot be distinguished.

    Args:
        is_expert: whether the logit is of a demonstration.
        label_smoothing: s above, at least 0 and below 1/2, of both classes.

    Returns:
        -log D of the expert and -log(1 - D) of the policy, in nats, smoothed.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, theorem 1; Ho & Ermon 2016, arXiv:1606.03476;
        two-sided smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return _smoothed(softplus(-logits), softplus(logits), is_expert, label_smoothing)


def least_squares_costs(
    logits: Float[Tensor, " logit"],
    is_expert: Bool[Tensor, " logit"],
    *,
    label_smoothing: float,
) -> Float[Tensor, " logit"]:
    """Brier score of D = sigmoid(logit), a bounded cost of at most 1.

    A proper score: its optimum is D = expert / (expert + policy), as cross-entropy's. LSGAN (Mao et
    al. 2017, arXiv:1611.04076) squares the distance of the raw output from its target instead; then
    the output is no logit.

    Args:
        is_expert: whether the logit is of a demonstration.
        label_smoothing: at least 0 and below 1/2, of both classes.

    Returns:
        (1 - D)^2 of the expert and D^2 of the policy, smoothed.
    """
    expert, policy = torch.sigmoid(-logits).square(), torch.sigmoid(logits).square()
    return _smoothed(expert, policy, is_expert, label_smoothing)


def variational_costs(
    logits: Float[Tensor, " logit"],
    is_expert: Bool[Tensor, " logit"],
    divergence: Divergence,
    *,
    label_smoothing: float,
) -> Float[Tensor, " logit"]:
    """f-GAN's bound of a divergence with the direct link T(h) = f'(e^h), so that h is the logit.

    Without smoothing the two class means add up to E_policy[f*(T)] - E_expert[T], which is at least
    minus the divergence and equal to it at the optimum.

    Logits are clipped to the divergence's safe range, since T and f*(T) may grow as e^h. A clipped
    logit has the gradient of the end of the range if it leads back into the range, and otherwise
    none: below the range the expert's term increases the logit, above it the policy's term
    decreases it.

    Args:
        is_expert: whether the logit is of a demonstration.
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
    critic: Float[Tensor, " logit"], is_expert: Bool[Tensor, " logit"]
) -> Float[Tensor, " logit"]:
    """Minus the difference of the means of a critic; if it is 1-Lipschitz, a Wasserstein distance.

    The level of the critic is arbitrary: only differences within a prompt have a meaning.

    Args:
        critic: T, expert-positive; the gradient penalty keeps it Lipschitz.
        is_expert: whether the logit is of a demonstration.

    Returns:
        -T of the expert and T of the policy, in the units of the embeddings' distances.

    References:
        Arjovsky et al. 2017, arXiv:1701.07875, equation 2.
    """
    return torch.where(is_expert, -critic, critic)


class Expansion(NamedTuple):
    """First-order expansion of a loss of all logits, which splits it into a cost for each.

    At the point of expansion, value + sum slopes * (logits - point) has the value and the gradient
    of the loss, and its terms can be computed in any parts.
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
    """Bradley-Terry loss of each demonstration against each rollout to the same prompt.

    The optimal logit is log(expert / policy) + c(prompt) with an arbitrary c, which group_levels
    estimates. It is defined for whole responses only, as responses of different lengths have no
    corresponding prefixes.

    Args:
        group_index: group of each response, 0 to the number of groups - 1; every group has both
            classes.

    Returns:
        Mean over groups of the mean over pairs of -log sigmoid(demonstration's - rollout's logit),
        in nats; log 2 if all logits are equal.

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
    """Expand the pairwise loss, so that a group can be split over microbatches.

    Args:
        logits: the point of expansion; all arguments are as in pairwise_loss.
    """
    point = logits.detach().requires_grad_()
    with torch.enable_grad():
        loss = pairwise_loss(point, is_expert, group_index)
        (slopes,) = torch.autograd.grad(loss, point)
    return Expansion(loss.detach(), slopes)


def group_levels(
    logits: Float[Tensor, " trajectory"], group_index: Int[Tensor, " trajectory"]
) -> Float[Tensor, " group"]:
    """Estimate the constant c(prompt) of a pairwise discriminator's logits from a group.

    E_policy[expert / policy] = 1, so c = log E_policy[e^(log(expert / policy) + c)]; the mean over
    a group replaces the expectation. The estimate needs several responses: a single one always has
    logit 0 after its own c is subtracted.

    Args:
        group_index: group of each response, 0 to the number of groups - 1; none is empty.

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
    """Least-squares slope of the logit on the length of the response, in nats per token.

    A slope above 0 means that the discriminator rewards longer responses, one below 0 shorter ones.

    Returns:
        The slope; 0 if all lengths are equal.
    """
    centered = lengths.double() - lengths.double().mean()
    spread = centered.square().sum()
    return float((centered * logits.double()).sum() / spread) if spread > 0 else 0.0


def _smoothed(
    expert_costs: Tensor, policy_costs: Tensor, is_expert: Tensor, label_smoothing: float
) -> Tensor:
    """Expected cost of each logit if its label is wrong with probability label_smoothing."""
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5); got {label_smoothing}")
    right = torch.where(is_expert, expert_costs, policy_costs)
    wrong = torch.where(is_expert, policy_costs, expert_costs)
    return right + label_smoothing * (wrong - right)
