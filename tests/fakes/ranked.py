"""Comparisons of given ranks and response lengths, whose tokens do not matter."""

import numpy as np

from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import concatenate, pack


def ranked_responses(ranks, sizes, strengths=None, lengths=None):
    """One strength for each comparison; sizes are responses in each, lengths their tokens."""
    numbers = np.repeat(np.arange(len(sizes)), sizes).tolist()
    parts = [
        pack([5, 6], [7] * length, prompt_id=number)
        for number, length in zip(numbers, lengths or [1] * len(ranks), strict=True)
    ]
    given = None if strengths is None else np.repeat(np.asarray(strengths, np.float32), sizes)
    return RankedResponses(concatenate(parts), np.asarray(ranks, np.float32), given)
