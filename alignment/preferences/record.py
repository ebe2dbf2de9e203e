"""What a preference likelihood is here: the chance of annotators' answers, given scores.

Conventions of this package. A comparison lists its responses with the preferred one first; a tie
lists two in either order. Scores are real numbers, high for good. In the models with logistic
noise a difference of scores is in nats: the log-odds of preferring one response to the other.

A score is only known up to what the likelihood cannot see: a constant for each prompt, in all of
them but classification, and with learned variance a common factor of scores and scales as well.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

Answers = Literal["pairs", "ties", "rankings"]
"""What annotators may be asked for: the better of two, that or a draw, an order of several."""


class Comparisons(NamedTuple):
    """Scores of responses that were compared, and what annotators said of them.

    Two pairs, of which the second is a tie: Comparisons(tensor([[1.2, 0.3], [0.5, 0.4]]),
    is_tie=tensor([False, True])).
    """

    scores: Float[Tensor, "comparison place"]
    """The preferred response first; two places, or more in rankings."""
    is_tie: Bool[Tensor, " comparison"] | None = None
    """None where annotators could not call a tie."""
    strengths: Float[Tensor, " comparison"] | None = None
    """How much better the preferred response was said to be, on any scale from 0 up."""
    log_scales: Float[Tensor, "comparison place"] | None = None
    """Natural log of the noise with which annotators judge each response, in units of scores."""
    num_ranked: Int[Tensor, " comparison"] | None = None
    """How many places of each row are filled, from the first; the rest may hold anything. None
    means all."""


class PreferenceLikelihood(NamedTuple):
    """One model of how scores make answers."""

    name: str
    formula: str
    """Chance that i is preferred to j, in plain text, with d = r_i - r_j the score difference."""
    behavior: str
    """What it assumes of annotators, and what that does to the scores."""
    choose_when: str
    avoid_when: str
    takes: tuple[Answers, ...]
    """The answers that have a probability under it."""
    log_probabilities: Callable[[Comparisons], Tensor]
    """Of each comparison's answer, unchecked; call log_likelihood."""
    needs: Literal["strengths", "log_scales"] | None = None
    """The field of the comparisons without which there is no probability."""
    parameters: str = ""
    """What the parameters mean and which values they take; empty where there are none."""
    caveat: str | None = None
    """What a user must know before choosing it, and what to take instead."""

    def log_likelihood(self, comparisons: Comparisons) -> Float[Tensor, " comparison"]:
        """Compute the log-likelihood of each answer; its negative mean is the loss.

        Args:
            comparisons: scores of the compared responses; float64 for exact work.

        Returns:
            Natural logs, at most 0, differentiable by the scores with finite gradients.

        Raises:
            ValueError: if the comparisons hold answers that have no probability under this model,
                or lack what it needs.
        """
        self._require_known_answers(comparisons)
        return self.log_probabilities(comparisons)

    def _require_known_answers(self, comparisons: Comparisons) -> None:
        num_places = comparisons.scores.shape[1]
        is_ranking = num_places > 2 or comparisons.num_ranked is not None
        if num_places < 2:
            raise ValueError(f"a comparison needs two responses or more; it has {num_places} place")
        if is_ranking and "rankings" not in self.takes:
            raise ValueError(
                f"{self.name} compares two responses; these comparisons have {num_places} places; "
                "take plackett_luce, or split each ranking into its pairs"
            )
        if comparisons.is_tie is not None and "ties" not in self.takes:
            raise ValueError(
                f"{self.name} gives ties no probability; take rao_kupper or davidson, or leave "
                "the ties out"
            )
        if self.needs and getattr(comparisons, self.needs) is None:
            raise ValueError(f"{self.name} needs {self.needs}; give them beside the scores")


def differences(comparisons: Comparisons) -> Float[Tensor, " comparison"]:
    """Return r_i - r_j of each pair, the preferred response first."""
    return comparisons.scores[:, 0] - comparisons.scores[:, 1]
