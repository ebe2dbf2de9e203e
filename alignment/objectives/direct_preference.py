"""Direct preference optimization, for divergences and likelihoods that allow it."""

from jaxtyping import Float, Int
from torch import Tensor

from alignment.divergences.record import Divergence
from alignment.mdp.segments import require_positive, sequence_lengths
from alignment.objectives.output import ObjectiveOutput
from alignment.preferences.implicit_reward import implicit_rewards
from alignment.preferences.labelled_pairs import labelled_pairs, order_metrics
from alignment.preferences.likelihood_loss import likelihood_loss
from alignment.preferences.record import PreferenceLikelihood


def direct_preference(
    log_ratios: Float[Tensor, " sequence"],
    ranks: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    likelihood: PreferenceLikelihood,
    divergence: Divergence,
    beta: float,
    label_smoothing: float,
    num_comparisons: int,
) -> ObjectiveOutput:
    """Negative log-likelihood of preference labels under the implicit reward of the policy.

    With N comparisons, r_i = -beta r(-l_i) the implicit reward of response i with log-ratio l_i,
    and M pairs in a comparison, or one ranking:

        loss = -(1/N) sum over comparisons of (1/M) sum log P(label | r)

    bradley_terry with reverse_kl is DPO, -log sigmoid(beta (l_w - l_l)). If annotators label as
    the likelihood assumes, the minimum is the policy that maximizes E[reward] - beta D(reference,
    policy), without a reward model and without sampling. A likelihood that takes rankings sees each
    comparison whole, any other every two of its responses.

    Args:
        log_ratios: l_i = log pi - log reference of whole responses, sums over tokens in nats; the
            only input that receives a gradient.
        ranks: rank of each response in its comparison, best first, from 0, equal for a tie; margin
            takes the difference of two ranks as the strength of the preference.
        group_index: comparison of each response, from 0, ascending; comparisons are complete.
        likelihood: model of the labels, rao_kupper or davidson if there are ties, plackett_luce
            for rankings.
        divergence: divergence from the reference to the policy; see check_direct_divergence.
        beta: weight of the divergence, in units of reward per nat; positive.
        label_smoothing: probability that the label of a pair is wrong, below 1/2.
        num_comparisons: N, comparisons in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, and the diagnostics of order_metrics with
        tangent_fraction, the fraction of responses outside the divergence's safe range.

    Raises:
        ValueError: if num_comparisons or beta is not positive, the divergence has no implicit
            reward, the likelihood gives a label no probability, or label_smoothing is out
            of range or not defined for it.

    References:
        Rafailov et al. 2023 (DPO), arXiv:2305.18290, eq. 7; divergences: Wang et al. 2023 (f-DPO),
        arXiv:2309.16240; ties: Chen et al. 2024, arXiv:2409.17431; smoothing: Mitchell 2023,
        conservative DPO.
    """
    require_positive(num_comparisons=num_comparisons)
    implicit = implicit_rewards(log_ratios, divergence, beta=beta)
    pairs = labelled_pairs(ranks, group_index, ties=True)
    loss = likelihood_loss(
        implicit.values[:, None],
        pairs,
        likelihood,
        num_comparisons=num_comparisons,
        label_smoothing=label_smoothing,
    )
    diagnostics = order_metrics(log_ratios, pairs, num_comparisons=num_comparisons)
    shares = implicit.is_on_tangent / sequence_lengths(group_index)
    diagnostics["tangent_fraction"] = shares.sum() / num_comparisons
    return ObjectiveOutput(loss, diagnostics)
