"""Models with ties. Both are Bradley-Terry if ties have probability 0.

The tie parameter may be a tensor with one element, so that it can be learned with the scores.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.preferences.record import Comparisons, PreferenceLikelihood, differences


def rao_kupper(threshold: float | Tensor) -> PreferenceLikelihood:
    """Return the threshold model of Rao & Kupper 1967: small perceived differences are ties.

    The perceived difference of a win is above log threshold.

    Args:
        threshold: finite and at least 1, where there are no ties and this is bradley_terry.

    Raises:
        ValueError: if threshold is below 1 or not finite.
    """
    if not 1.0 <= threshold < math.inf:
        raise ValueError(
            f"threshold must be finite and at least 1, where there are no ties; it is {threshold}"
        )
    odds = torch.as_tensor(threshold, dtype=torch.float64)  # one number: scores keep their dtype

    def log_probabilities(comparisons: Comparisons) -> Tensor:
        gaps = differences(comparisons)
        win, loss = logsigmoid(gaps - odds.log()), logsigmoid(-gaps - odds.log())
        # (t^2 - 1) times both chances; at t = 1 a tie is impossible, and its logarithm -inf
        return _of_labels(comparisons, win, win + loss + (odds.square() - 1.0).log())

    return PreferenceLikelihood(
        name="rao_kupper",
        formula="1 / (1 + threshold e^(-d)); a tie (threshold^2 - 1) P(i over j) P(j over i)",
        behavior="a tie means close scores, a win means that the difference exceeds a threshold",
        choose_when="annotators label a tie if they see no difference",
        avoid_when="ties also mean that both are bad, or that the annotator was indifferent",
        takes=("pairs", "ties"),
        log_probabilities=log_probabilities,
        parameters="threshold: at least 1, where there are no ties; its log is in units of scores",
    )


def davidson(tie_weight: float | Tensor) -> PreferenceLikelihood:
    """Return the model of Davidson 1970: a tie is as likely as the geometric mean of both wins.

    Ties leave the odds of a win against a loss at e^d, as Luce's axiom of choice requires.

    Args:
        tie_weight: finite and at least 0, where there are no ties and this is bradley_terry.

    Raises:
        ValueError: if tie_weight is negative or not finite.
    """
    if not 0.0 <= tie_weight < math.inf:
        raise ValueError(
            f"tie_weight must be finite and at least 0, where there are no ties; it is {tie_weight}"
        )
    weight = torch.as_tensor(tie_weight, dtype=torch.float64)

    def log_probabilities(comparisons: Comparisons) -> Tensor:
        half = 0.5 * differences(comparisons)
        tie = weight.log().to(half).expand_as(half)
        win, _, tie = torch.stack([half, -half, tie]).log_softmax(0)
        return _of_labels(comparisons, win, tie)

    return PreferenceLikelihood(
        name="davidson",
        formula="1 / (1 + e^(-d) + tie_weight e^(-d / 2)); a tie tie_weight e^(-d / 2) times that",
        behavior="a tie means close scores; the odds of wins are e^d",
        choose_when="ties were allowed, and score differences must be the log-odds of a win",
        avoid_when="ties also mean that both are bad, or that the annotator was indifferent",
        takes=("pairs", "ties"),
        log_probabilities=log_probabilities,
        parameters=(
            "tie_weight: at least 0, where there are no ties; at 1, a third of equal pairs are ties"
        ),
    )


def _of_labels(comparisons: Comparisons, win: Tensor, tie: Tensor) -> Tensor:
    return win if comparisons.is_tie is None else torch.where(comparisons.is_tie, tie, win)
