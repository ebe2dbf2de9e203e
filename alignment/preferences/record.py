"""The record of a preference likelihood: the probability of annotators' labels, given scores.

Conventions of this package. A comparison lists its responses with the preferred one first; a tie
lists two in either order. Scores are real numbers, high for good. In the models with logistic
noise a difference of scores is in nats: the log-odds of preferring one response to the other.

Labels determine scores only up to changes that leave the likelihood as it is: in all models but
classification a constant for each prompt, and under learned_variance also a common factor of scores
and noise.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Comparisons(NamedTuple):
    """Scores of the responses of comparisons, and their labels.

    Two pairs, of which the second is a tie: Comparisons(tensor([[1.2, 0.3], [0.5, 0.4]]),
    is_tie=tensor([False, True])).
    """

    scores: Float[Tensor, "comparison place"]
    """The preferred response first; two places, or more in rankings."""
    is_tie: Bool[Tensor, " comparison"] | None = None
    """None if ties were not allowed."""
    strengths: Float[Tensor, " comparison"] | None = None
    """Strength of the preference for the best response, at least 0, on any scale."""
    log_scales: Float[Tensor, "comparison place"] | None = None
    """Natural log of the noise on the score of each response, in units of scores."""
    num_ranked: Int[Tensor, " comparison"] | None = None
    """Number of filled places of each row, from the first; the others are ignored. None: all."""

    def reversed(self) -> "Comparisons":
        """Return pairs with the opposite label: the other response is preferred."""
        scales = self.log_scales
        return self._replace(
            scores=self.scores.flip(1), log_scales=None if scales is None else scales.flip(1)
        )


class PreferenceLikelihood(NamedTuple):
    """One model of how scores determine the labels that annotators give."""

    name: str
    formula: str
    """Probability that i is preferred to j, in plain text, with d = r_i - r_j."""
    behavior: str
    """Its assumption about annotators, and the effect on the scores."""
    choose_when: str
    avoid_when: str
    takes: tuple[Literal["pairs", "ties", "rankings"], ...]
    """The labels that have a probability under it."""
    log_probabilities: Callable[[Comparisons], Tensor]
    """The log-probability of each label, unchecked; call log_likelihood instead."""
    needs: Literal["strengths", "log_scales"] | None = None
    """The field of the comparisons without which there is no probability."""
    parameters: str = ""
    """The parameters and their ranges; empty if there are none."""
    caveat: str | None = None
    """A limitation that a user must know, and the alternative."""

    def log_likelihood(self, comparisons: Comparisons) -> Float[Tensor, " comparison"]:
        """Compute the log-likelihood of each label; its negative mean is the loss.

        Args:
            comparisons: scores of the compared responses; float64 for exact work.

        Returns:
            Natural logs, at most 0, differentiable by the scores with finite gradients.

        Raises:
            ValueError: if the comparisons hold labels that have no probability under this model, or
                lack a field that it needs.
        """
        self._require_known_labels(comparisons)
        return self.log_probabilities(comparisons)

    def _require_known_labels(self, comparisons: Comparisons) -> None:
        num_places = comparisons.scores.shape[1]
        is_ranking = num_places > 2 or comparisons.num_ranked is not None
        if num_places < 2:
            raise ValueError(f"a comparison needs two responses or more; it has {num_places} place")
        if is_ranking and "rankings" not in self.takes:
            raise ValueError(
                f"{self.name} compares two responses; these comparisons have {num_places} places; "
                "choose plackett_luce, or split each ranking into its pairs"
            )
        if comparisons.is_tie is not None and "ties" not in self.takes:
            raise ValueError(
                f"{self.name} gives ties no probability; choose rao_kupper or davidson, or "
                "leave the ties out"
            )
        if self.needs and getattr(comparisons, self.needs) is None:
            raise ValueError(f"{self.name} needs {self.needs}; give them with the scores")


def differences(comparisons: Comparisons) -> Float[Tensor, " comparison"]:
    """Return r_i - r_j of each pair, the preferred response first."""
    return comparisons.scores[:, 0] - comparisons.scores[:, 1]
