"""What annotators said of the responses of a microbatch, as pairs or rankings of these.

Responses of one comparison are a group: beside one another and best first, with ranks from 0, the
best; equal ranks are a tie. Groups are whole and numbered from 0, ascending. The strength of a
preference is the difference of ranks, so data that have one give the rejected response that rank.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.mdp.segments import action_positions, sequence_lengths
from alignment.preferences.record import Comparisons


class Pairs(NamedTuple):
    """Every two responses of each group; both are rows of the microbatch."""

    better: Int[Tensor, " pair"]
    worse: Int[Tensor, " pair"]
    is_tie: Bool[Tensor, " pair"]
    """Ranks are equal: neither is better."""
    strengths: Float[Tensor, " pair"]
    """Difference of ranks, at least 0."""
    weights: Float[Tensor, " pair"]
    """1 over the pairs of the group, so that every comparison counts the same."""

    def of(self, values: Float[Tensor, " sequence"]) -> Float[Tensor, "pair place"]:
        """Return the values of both responses, the better one's first."""
        return torch.stack([values[self.better], values[self.worse]], dim=1)


def pairs_in_groups(
    ranks: Float[Tensor, " sequence"], group_index: Int[Tensor, " sequence"], *, ties: bool
) -> Pairs:
    """Pair every two responses of each group.

    Args:
        ranks: of each response within its group.
        group_index: of each response its group.
        ties: whether two responses of equal rank are a pair.

    Returns:
        The pairs, group by group.

    Raises:
        ValueError: if a group is not sorted, or there is no pair in it.
    """
    falls = (ranks.diff() < 0) & (group_index.diff() == 0)
    if falls.any():
        raise ValueError(
            f"responses of one comparison must stand best first; response {int(falls.nonzero()[0])}"
            " of the microbatch has a higher rank than the next; sort them by rank"
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
            f"a comparison needs two responses{kind}; group {int(pairs_in_group.argmin())} of the "
            "microbatch has no two; leave such comparisons out"
        )
    strengths = ranks[worse] - ranks[better]
    return Pairs(better, worse, strengths == 0, strengths, 1.0 / pairs_in_group[groups].to(ranks))


def rankings_of_groups(
    scores: Float[Tensor, " sequence"], group_index: Int[Tensor, " sequence"]
) -> Comparisons:
    """Lay out each group as one ranking.

    Args:
        group_index: of each response its group.

    Returns:
        A row for each group, differentiable by the scores.
    """
    sizes = torch.bincount(group_index)
    table = scores.new_zeros(len(sizes), int(sizes.max()))
    table = table.index_put((group_index, action_positions(group_index)), scores)
    return Comparisons(table, num_ranked=sizes)


def order_figures(
    log_ratios: Float[Tensor, " sequence"], pairs: Pairs, *, num_comparisons: int
) -> dict[str, Tensor]:
    """How far the policy agrees with the annotators, for any objective whose reward rises with it.

    Args:
        log_ratios: log pi - log reference of each response, in nats.
        num_comparisons: in the optimizer step over all ranks and microbatches.

    Returns:
        Shares of means over comparisons of means over their pairs, to be summed:
        preference_accuracy, the share of pairs in the annotators' order, ties and equal log-ratios
        half; log_ratio_better and log_ratio_worse, in nats. Both of the latter may fall while the
        loss does, when mass goes to responses that nobody was shown.
    """
    ratios, weights = pairs.of(log_ratios.detach()), pairs.weights / num_comparisons
    return {
        "preference_accuracy": agreement(log_ratios, pairs) / num_comparisons,
        "log_ratio_better": (weights * ratios[:, 0]).sum(),
        "log_ratio_worse": (weights * ratios[:, 1]).sum(),
    }


def agreement(scores: Float[Tensor, " sequence"], pairs: Pairs) -> Float[Tensor, ""]:
    """Sum, over comparisons, the share of pairs in the annotators' order; ties count half."""
    values = pairs.of(scores.detach())
    signs = (values[:, 0] - values[:, 1]).sign().masked_fill(pairs.is_tie, 0.0)
    return (pairs.weights * (0.5 + 0.5 * signs)).sum()
