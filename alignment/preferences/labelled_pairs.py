"""Preference labels on the responses of a microbatch, as pairs or as rankings.

The responses of one comparison are adjacent and best first, with ranks from 0, the best; equal
ranks are a tie. Comparisons are whole and numbered from 0, ascending.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.mdp.packing import PackedBatch
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.segments import action_positions, sequence_lengths
from alignment.preferences.record import Comparisons


class LabelledPairs(NamedTuple):
    """Every two responses of each comparison, as indices into the microbatch."""

    better: Int[Tensor, " pair"]
    worse: Int[Tensor, " pair"]
    is_tie: Bool[Tensor, " pair"]
    """Ranks are equal: neither is better."""
    strengths: Float[Tensor, " pair"]
    """Strength of the preference for the better response, at least 0."""
    weights: Float[Tensor, " pair"]
    """1 over the pairs of the comparison, so that every comparison counts the same."""
    group_index: Int[Tensor, " sequence"]
    """The comparison of each response."""

    @property
    def comparisons(self) -> Int[Tensor, " pair"]:
        """The comparison of each pair, ascending."""
        return self.group_index[self.better]

    def of(self, values: Float[Tensor, " sequence"]) -> Float[Tensor, "pair place"]:
        """Return the values of both responses, the better one's first."""
        return torch.stack([values[self.better], values[self.worse]], dim=1)


def labelled_pairs(
    ranks: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    ties: bool,
    strengths: Float[Tensor, " sequence"] | None = None,
) -> LabelledPairs:
    """Pair every two responses of each comparison.

    Args:
        ties: whether two responses of equal rank are a pair.
        strengths: strength of the comparison of each response; None takes the difference of ranks.

    Raises:
        ValueError: if a comparison is not sorted, or has no pair.
    """
    falls = (ranks.diff() < 0) & (group_index.diff() == 0)
    if falls.any():
        raise ValueError(
            "responses of one comparison must be sorted best first; response "
            f"{int(falls.nonzero()[0])} of the microbatch has a higher rank than the next; sort "
            "them by rank"
        )
    places = action_positions(group_index)
    num_worse = sequence_lengths(group_index) - 1 - places
    better = torch.arange(len(ranks), device=ranks.device).repeat_interleave(num_worse)
    worse = better + 1 + action_positions(better)
    if not ties:
        is_pair = ranks[better] < ranks[worse]
        better, worse = better[is_pair], worse[is_pair]
    groups = group_index[better]
    pairs_in_group = torch.bincount(groups, minlength=int(group_index.max()) + 1)
    if not pairs_in_group.all():
        kind = "" if ties else " of different ranks"
        raise ValueError(
            f"a comparison needs two responses{kind}; comparison {int(pairs_in_group.argmin())} of "
            "the microbatch has no two; leave such comparisons out"
        )
    gaps = ranks[worse] - ranks[better]
    return LabelledPairs(
        better,
        worse,
        is_tie=gaps == 0,
        strengths=gaps if strengths is None else strengths[better],
        weights=1.0 / pairs_in_group[groups].to(ranks),
        group_index=group_index,
    )


def pairs_of_responses(ranked: RankedResponses) -> LabelledPairs:
    """Return all pairs, ties included, of comparisons that are numbered from 0."""
    group_index = torch.from_numpy(ranked.trajectories.prompt_ids)
    strengths = None if ranked.strengths is None else torch.from_numpy(ranked.strengths)
    ranks = torch.from_numpy(ranked.ranks)
    return labelled_pairs(ranks, group_index, ties=True, strengths=strengths)


def pairs_of_batch(ranked: RankedResponses, batch: PackedBatch) -> LabelledPairs:
    """Return the pairs, ties included, of a microbatch of these comparisons, on its device."""
    indices, groups = batch.trajectory_indices.cpu().numpy(), batch.group_index
    strengths = None
    if ranked.strengths is not None:
        strengths = torch.from_numpy(ranked.strengths[indices]).to(groups.device)
    ranks = torch.from_numpy(ranked.ranks[indices]).to(groups.device)
    return labelled_pairs(ranks, groups, ties=True, strengths=strengths)


def rankings_of_groups(
    scores: Float[Tensor, " sequence"], group_index: Int[Tensor, " sequence"]
) -> Comparisons:
    """Return each comparison as one row, a ranking, differentiable by the scores."""
    sizes = torch.bincount(group_index)
    table = scores.new_zeros(len(sizes), int(sizes.max()))
    table = table.index_put((group_index, action_positions(group_index)), scores)
    return Comparisons(table, num_ranked=sizes)


def order_metrics(
    log_ratios: Float[Tensor, " sequence"], pairs: LabelledPairs, *, num_comparisons: int
) -> dict[str, Tensor]:
    """Measure how far a policy's implicit reward agrees with the annotators.

    Args:
        log_ratios: log pi - log reference of each response, in nats.
        num_comparisons: comparisons in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's terms of means over comparisons of means over their pairs, to be summed:
        preference_accuracy, the fraction of pairs in the annotators' order, where ties and equal
        log-ratios count half; log_ratio_better and log_ratio_worse, in nats. Both log-ratios may
        fall while the loss falls, when probability moves to responses outside the data.
    """
    ratios, weights = pairs.of(log_ratios.detach()), pairs.weights / num_comparisons
    return {
        "preference_accuracy": summed_accuracy(log_ratios, pairs) / num_comparisons,
        "log_ratio_better": (weights * ratios[:, 0]).sum(),
        "log_ratio_worse": (weights * ratios[:, 1]).sum(),
    }


def summed_accuracy(scores: Float[Tensor, " sequence"], pairs: LabelledPairs) -> Float[Tensor, ""]:
    """Sum, over comparisons, the fraction of pairs in the annotators' order; ties count half."""
    values = pairs.of(scores.detach())
    signs = (values[:, 0] - values[:, 1]).sign().masked_fill(pairs.is_tie, 0.0)
    return (pairs.weights * (0.5 + 0.5 * signs)).sum()


def untied_accuracies(
    scores: Float[Tensor, " sequence"], pairs: LabelledPairs
) -> Float[Tensor, " comparison"]:
    """Return, for each comparison, the fraction of its untied pairs in the annotators' order.

    Equal scores count half. The value is nan for a comparison whose pairs are all ties.
    """
    values = pairs.of(scores.detach().double())
    is_right = 0.5 + 0.5 * (values[:, 0] - values[:, 1]).sign()
    num_comparisons = int(pairs.group_index[-1]) + 1 if len(pairs.group_index) else 0
    zeros = values.new_zeros(num_comparisons)
    untied = (~pairs.is_tie).double()
    right = zeros.index_add(0, pairs.comparisons, is_right * untied)
    return right / zeros.index_add(0, pairs.comparisons, untied)
