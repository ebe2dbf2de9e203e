"""Two discriminators that know no language: what can be told by length alone, and by words alone.

They are reported beside the real discriminator. Where one of them is as accurate, the real one has
no need of anything else, and its reward may be that shortcut: longer, or more of some word.

Both are logistic regressions, fitted anew from earlier steps whenever they are asked, and measured
on fresh responses, which they have not seen. So all there is to save is what was seen.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import FinishReason, Trajectories, concatenate

FloatArray = NDArray[np.float64]

NUM_CONTROL_GROUPS = 128
"""Prompts to fit on: some steps, so that the controls follow the policy."""
RIDGE = 0.01
"""Weight of half the squared norm of the weights: there are more words than responses."""
NUM_ITERATIONS = 100
"""Of gradient descent with momentum; with RIDGE they leave about e^-7 of the first error."""


class SparseRows(NamedTuple):
    """Features of responses: a matrix as the list of its entries that are not 0."""

    rows: NDArray[np.int64]
    """[entry] the response."""
    columns: NDArray[np.int64]
    """[entry] the feature."""
    values: FloatArray
    """[entry]"""
    num_rows: int
    num_columns: int

    def dot(self, weights: FloatArray) -> FloatArray:
        """[row] the matrix times a vector."""
        return _sums(self.rows, self.values * weights[self.columns], self.num_rows)

    def transposed_dot(self, slopes: FloatArray) -> FloatArray:
        """[column] the transposed matrix times a vector."""
        return _sums(self.columns, self.values * slopes[self.rows], self.num_columns)


def control_accuracies(earlier: PromptGroup, fresh: PromptGroup) -> dict[str, float]:
    """Fit both controls on what was seen before, and measure them on what was not.

    Args:
        earlier: responses of both classes from steps before, possibly none.
        fresh: responses of both classes that are not among them.

    Returns:
        length_accuracy: of the response's length, its logarithm, and whether it ended;
        bag_of_words_accuracy: of how often each token occurs in it. Mean of the two classes' shares
        on the right side; 0.5 where nothing was seen before, since a tie counts half.
    """
    if not len(earlier.rollouts):
        return {"length_accuracy": 0.5, "bag_of_words_accuracy": 0.5}
    seen, judged = concatenate(list(earlier)), concatenate(list(fresh))
    is_expert = np.arange(len(seen)) >= len(earlier.rollouts)
    features = {
        "length_accuracy": _length_features(seen, judged),
        "bag_of_words_accuracy": _word_features(seen, judged),
    }
    accuracies = {}
    for name, (fitted_on, measured_on) in features.items():
        signs = np.sign(measured_on.dot(_fitted(fitted_on, is_expert)))
        policy, expert = np.split(signs, [len(fresh.rollouts)])
        accuracies[name] = float(0.5 + 0.25 * (expert.mean() - policy.mean()))
    return accuracies


def _length_features(seen: Trajectories, judged: Trajectories) -> tuple[SparseRows, SparseRows]:
    """Length, log length and ending, in standard deviations of those seen, and a constant."""

    def raw(trajectories: Trajectories) -> FloatArray:
        lengths = trajectories.response_lengths.astype(np.float64)
        ended = trajectories.finish_reasons == FinishReason.STOP
        return np.stack([lengths, np.log(lengths), ended], axis=1)

    known = raw(seen)
    mean, deviation = known.mean(0), known.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)

    def standardized(values: FloatArray) -> SparseRows:
        dense = np.column_stack([(values - mean) / scale, np.ones(len(values))])
        rows, columns = np.indices(dense.shape)
        return SparseRows(rows.ravel(), columns.ravel(), dense.ravel(), *dense.shape)

    return standardized(known), standardized(raw(judged))


def _word_features(seen: Trajectories, judged: Trajectories) -> tuple[SparseRows, SparseRows]:
    """log(1 + occurrences) of each token that was seen, as a vector of length 1, and a constant."""
    vocabulary = np.unique(seen.token_ids[seen.action_mask])

    def counted(trajectories: Trajectories) -> SparseRows:
        num_rows, num_columns = len(trajectories), len(vocabulary) + 1
        tokens = trajectories.token_ids[trajectories.action_mask]
        rows = np.repeat(np.arange(num_rows), trajectories.response_lengths)
        places = np.searchsorted(vocabulary, tokens).clip(max=len(vocabulary) - 1)
        is_known = vocabulary[places] == tokens
        cells, counts = np.unique(
            rows[is_known] * num_columns + places[is_known], return_counts=True
        )
        rows, columns = np.divmod(cells, num_columns)
        values = np.log1p(counts)
        norms = np.sqrt(np.bincount(rows, values**2, num_rows))
        return SparseRows(
            np.concatenate([rows, np.arange(num_rows)]),
            np.concatenate([columns, np.full(num_rows, num_columns - 1)]),
            np.concatenate([values / norms[rows], np.ones(num_rows)]),
            num_rows,
            num_columns,
        )

    return counted(seen), counted(judged)


def _fitted(features: SparseRows, is_expert: NDArray[np.bool_]) -> FloatArray:
    """[column] weights of the least class-balanced cross-entropy, by Nesterov's descent."""
    share = np.where(is_expert, 1.0 / is_expert.sum(), 1.0 / (~is_expert).sum())
    # sigmoid' <= 1/4, and the largest eigenvalue of X' diag(share) X is at most its trace.
    steepest = 0.25 * (share[features.rows] * features.values**2).sum() + RIDGE
    momentum = (np.sqrt(steepest) - np.sqrt(RIDGE)) / (np.sqrt(steepest) + np.sqrt(RIDGE))
    weights = ahead = np.zeros(features.num_columns)
    for _ in range(NUM_ITERATIONS):
        belief = 0.5 + 0.5 * np.tanh(0.5 * features.dot(ahead))
        slopes = share * (belief - is_expert)
        gradient = features.transposed_dot(slopes) + RIDGE * ahead
        moved = ahead - gradient / steepest
        weights, ahead = moved, moved + momentum * (moved - weights)
    return weights


def _sums(places: NDArray[np.int64], values: FloatArray, num_places: int) -> FloatArray:
    return np.bincount(places, values, num_places).astype(np.float64, copy=False)
