"""Chosen or rejected? A classifier of single responses, whose logit is the score."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.preferences.record import Comparisons, PreferenceLikelihood


def classification() -> PreferenceLikelihood:
    """Return the order-consistent classifier, which never sees who was compared with whom.

    Its loss bounds that of Bradley-Terry from above. The score that it learns is the log-odds of
    having been chosen, which is in the true order only if all responses met alike opponents.

    References:
        Sun et al. 2024, arXiv:2411.04991.
    """
    return PreferenceLikelihood(
        name="classification",
        formula="1 / (1 + e^(-r_i)) * 1 / (1 + e^(r_j))",
        behavior="a response is good if it was often chosen, against whomever",
        choose_when="pairs were drawn at random, only the order counts, as in best-of-N",
        avoid_when="like met like, as when a system picks close pairs: the order then breaks",
        takes=("pairs",),
        log_probabilities=_log_probabilities,
        caveat=(
            "the chances of both answers sum to less than 1, and how good a response's opponents "
            "were is ignored; take bradley_terry unless pairs were drawn at random"
        ),
    )


def _log_probabilities(comparisons: Comparisons) -> Tensor:
    return logsigmoid(comparisons.scores[:, 0]) + logsigmoid(-comparisons.scores[:, 1])
