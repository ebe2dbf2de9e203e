"""A classifier of single responses as chosen or rejected, whose logit is the score."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.preferences.record import Comparisons, PreferenceLikelihood


def classification() -> PreferenceLikelihood:
    """Return the order-consistent classifier, which ignores which responses were compared.

    Its loss is an upper bound of that of Bradley-Terry. Its score is the log-odds of having been
    chosen, which has the true order only if all responses were compared with similar ones.

    References:
        Sun et al. 2024, arXiv:2411.04991.
    """
    return PreferenceLikelihood(
        name="classification",
        formula="1 / (1 + e^(-r_i)) * 1 / (1 + e^(r_j))",
        behavior="scores a response by how often it was chosen, whatever it was compared with",
        choose_when="pairs were drawn at random and only the order matters, as in best-of-N",
        avoid_when=(
            "similar responses were compared, as with selected close pairs: the order is wrong"
        ),
        takes=("pairs",),
        log_probabilities=_log_probabilities,
        caveat=(
            "the probabilities of both labels sum to less than 1, and the quality of the other "
            "response is ignored; use bradley_terry unless pairs were drawn at random"
        ),
    )


def _log_probabilities(comparisons: Comparisons) -> Tensor:
    return logsigmoid(comparisons.scores[:, 0]) + logsigmoid(-comparisons.scores[:, 1])
