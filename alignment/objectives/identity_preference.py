"""Identity preference optimization (IPO): raises win probabilities, not scores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.mdp.segments import require_positive
from alignment.objectives.output import ObjectiveOutput
from alignment.preferences.implicit_reward import require_beta
from alignment.preferences.labelled_pairs import labelled_pairs, order_metrics


def identity_preference(
    log_ratios: Float[Tensor, " sequence"],
    ranks: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    beta: float,
    num_comparisons: int,
) -> ObjectiveOutput:
    """Squared distance of each pair's difference of log-ratios from 1 / (2 beta).

    With N comparisons of M pairs each, the preferred response w and the other l:

        loss = (1/N) sum over comparisons of (1/M) sum (l_w - l_l - 1 / (2 beta))^2

    with 0 instead of 1 / (2 beta) for a tie, which counts half as each label. The minimum over all
    policies maximizes E[P(y beats another response)] - beta KL(policy, reference), also if no
    scores explain the labels. If all annotators agree, DPO has no minimum and IPO has one.

    Log-ratios are sums over tokens, as in the paper. Libraries that divide each by its response's
    length (TRL) have another optimum, and beta has another scale.

    Args:
        log_ratios: log pi - log reference of whole responses in nats; the only input that receives
            a gradient.
        ranks: rank of each response in its comparison, best first, from 0, equal for a tie.
        group_index: comparison of each response, from 0, ascending; comparisons are complete.
        beta: tau of the paper, weight of the KL divergence; positive.
        num_comparisons: N, comparisons in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, in squared nats, and the diagnostics of order_metrics.

    Raises:
        ValueError: if num_comparisons or beta is not positive, or a comparison has no two
            responses, best first.

    References:
        Azar et al. 2023, arXiv:2310.12036, eq. 17.
    """
    require_positive(num_comparisons=num_comparisons)
    require_beta(beta)
    pairs = labelled_pairs(ranks, group_index, ties=True)
    gaps = log_ratios[pairs.better] - log_ratios[pairs.worse]
    targets = torch.full_like(gaps, 0.5 / beta).masked_fill(pairs.is_tie, 0.0)
    total = (pairs.weights * (gaps - targets).square()).sum()
    diagnostics = order_metrics(log_ratios, pairs, num_comparisons=num_comparisons)
    return ObjectiveOutput(total / num_comparisons, diagnostics)
