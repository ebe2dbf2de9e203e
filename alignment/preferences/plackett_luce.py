"""Rankings of several responses, as a sequence of choices of the best that is left."""

import torch
from torch import Tensor

from alignment.preferences.record import Comparisons, PreferenceLikelihood


def plackett_luce() -> PreferenceLikelihood:
    """Return the ranking model of Plackett 1975 and Luce 1959, which is Bradley-Terry for two."""
    return PreferenceLikelihood(
        name="plackett_luce",
        formula="product over places k of e^(r_k) / sum of e^(r_l) over l >= k",
        behavior="as bradley_terry, for all places of a ranking at once",
        choose_when="annotators ranked three responses or more",
        avoid_when="annotators ranked only the best responses with care: the other ranks are noise",
        takes=("pairs", "rankings"),
        log_probabilities=_log_probabilities,
    )


def _log_probabilities(comparisons: Comparisons) -> Tensor:
    scores, places = comparisons.scores, torch.arange(comparisons.scores.shape[1])
    places = places.to(scores.device)
    rivals = (places > places[:, None]).expand(len(scores), -1, -1)
    if comparisons.num_ranked is not None:
        is_filled = places < comparisons.num_ranked[:, None]
        scores = torch.where(is_filled, scores, 0.0)
        rivals = rivals & is_filled[:, None, :]
    # A place competes with itself too, so one that is not filled adds r - r = 0.
    left = rivals | torch.eye(len(places), dtype=torch.bool, device=scores.device)
    rest = torch.where(left, scores[:, None, :], -torch.inf).logsumexp(2)
    return (scores - rest).sum(1)
