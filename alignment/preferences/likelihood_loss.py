"""What annotators' answers cost under scores of any origin: a policy's, or a scalar model's."""

from jaxtyping import Float, Int
from torch import Tensor

from alignment.preferences.ranked_groups import Pairs, rankings_of_groups
from alignment.preferences.record import Comparisons, PreferenceLikelihood


def cost_of_answers(
    scores: Float[Tensor, " sequence"],
    pairs: Pairs,
    group_index: Int[Tensor, " sequence"],
    *,
    likelihood: PreferenceLikelihood,
    label_smoothing: float,
) -> Float[Tensor, ""]:
    """Sum, over comparisons, the negative log-likelihood of the answers.

    A likelihood that takes rankings sees each comparison whole; for any other its cost is the mean
    over every two of its responses.

    Args:
        scores: of each response; receives the gradient.
        pairs: of the same responses, ties among them.
        group_index: the comparison of each response; whole ones, numbered from 0, ascending.
        label_smoothing: chance that a pair was noted down the wrong way round, below 1/2.

    Returns:
        In nats.

    Raises:
        ValueError: if the likelihood gives an answer no probability, or smoothing has no meaning.
    """
    _require_smoothing(label_smoothing, likelihood)
    if "ties" not in likelihood.takes and pairs.is_tie.any():
        raise ValueError(
            f"{int(pairs.is_tie.sum())} ties among the answers, to which {likelihood.name} gives "
            "no probability; take rao_kupper or davidson, or leave the ties out"
        )
    if "rankings" in likelihood.takes:
        return -likelihood.log_likelihood(rankings_of_groups(scores, group_index)).sum()
    given = Comparisons(
        pairs.of(scores),
        is_tie=pairs.is_tie if "ties" in likelihood.takes else None,
        strengths=pairs.strengths,
    )
    costs = -likelihood.log_likelihood(given)
    if label_smoothing:
        turned = given._replace(scores=given.scores.flip(1))
        costs = costs - label_smoothing * (costs + likelihood.log_likelihood(turned))
    return (pairs.weights * costs).sum()


def _require_smoothing(label_smoothing: float, likelihood: PreferenceLikelihood) -> None:
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5); it is {label_smoothing}")
    if label_smoothing and "rankings" in likelihood.takes:
        raise ValueError(
            f"label_smoothing is {label_smoothing}, but a ranking has no one opposite; make it 0, "
            f"or take bradley_terry in place of {likelihood.name}, which splits rankings into pairs"
        )
