"""Responses ranked by annotators or a reward, as packed arrays for transfer between processes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.mdp.trajectories import EMPTY, Trajectories, group_starts


class RankedResponses(NamedTuple):
    """Comparisons: the responses to one prompt are adjacent, best first.

    Example, a pair and a tie: prompt_ids 0 0 1 1, ranks 0 1 0 0.
    """

    trajectories: Trajectories
    """The responses; prompt_ids number the comparisons, ascending."""
    ranks: NDArray[np.float32]
    """[response] rank from 0, the best; equal ranks are a tie. For a single label 0 or 1."""
    strengths: NDArray[np.float32] | None = None
    """[response] strength of the preference for the best response of its comparison, at least 0. If
    None, the strength of a pair is its difference of ranks."""

    def __len__(self) -> int:  # the number of comparisons, not of fields
        """Return the number of comparisons."""
        return len(group_starts(self.trajectories))

    @property
    def num_ties(self) -> int:
        """Number of pairs of responses in the same comparison that have equal ranks."""
        keys = np.stack([self.trajectories.prompt_ids, self.ranks])
        counts = np.unique(keys, axis=1, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "RankedResponses":
        """Return the responses at these indices, in this order, as copies."""
        index = np.asarray(indices, np.int64)
        strengths = None if self.strengths is None else self.strengths[index]
        return RankedResponses(self.trajectories.select(index), self.ranks[index], strengths)


NO_COMPARISONS = RankedResponses(EMPTY, np.zeros(0, np.float32))
