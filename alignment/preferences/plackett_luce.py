"""Rankings of several responses, as a sequence of choices of the best that is left."""

import torch
from torch import Tensor

from alignment.preferences.record import Comparisons, PreferenceLikelihood


def plackett_luce() -> PreferenceLikelihood:
    """Return the ranking model of Plackett 1975 and Luce 1959, which is Bradley-Terry for two."""
    return PreferenceLikelihood(
        name="plackett_luce",
        formula="product over places k of e^(r_k) / sum of e^(r_l) over l >= k",
        behavior="as bradley_terry, of which every pair of the ranking is an instance",
        choose_when="annotators ordered three responses or more at once",
        avoid_when="only the top of a long ranking was looked at: the rest is then noise",
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
