"""Two control classifiers, which see only the length of a response or only its words.

If one of them is as accurate as the discriminator, the discriminator may use the same shortcut, and
its reward may be the length of a response or the frequency of a word.

Both are logistic regressions, fitted at each step to responses of earlier steps and evaluated on
fresh ones. So they have no state but the earlier responses.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import FinishReason, Trajectories, concatenate

FloatArray = NDArray[np.float64]
NUM_CONTROL_GROUPS = 128
"""Prompts to fit on: those of a few recent steps, so that the controls follow the policy."""
RIDGE = 0.01
"""Coefficient of half the squared norm of the weights, as there are more words than responses."""
NUM_ITERATIONS = 100
"""Steps of gradient descent with momentum; with RIDGE they reduce the error by about e^-7."""


class SparseRows(NamedTuple):
    """A sparse matrix of features of responses."""

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
    """Fit both controls to earlier responses and evaluate them on fresh ones.

    Args:
        earlier: responses of both classes from steps before, possibly none.
        fresh: responses of both classes that are not among them.

    Returns:
        length_accuracy: accuracy from the response's length, its logarithm, and whether it ended;
        bag_of_words_accuracy: accuracy from the count of each token. Both are the mean of the
        two classes' accuracies; 0.5 if there are no earlier responses.
    """
    if not len(earlier.rollouts):
        return {"length_accuracy": 0.5, "bag_of_words_accuracy": 0.5}
    seen, scored = concatenate(list(earlier)), concatenate(list(fresh))
    is_expert = np.arange(len(seen)) >= len(earlier.rollouts)
    features = {
        "length_accuracy": _length_features(seen, scored),
        "bag_of_words_accuracy": _word_features(seen, scored),
    }
    accuracies = {}
    for name, (fitted_on, measured_on) in features.items():
        signs = np.sign(measured_on.dot(_fitted(fitted_on, is_expert)))
        policy, expert = np.split(signs, [len(fresh.rollouts)])
        accuracies[name] = float(0.5 + 0.25 * (expert.mean() - policy.mean()))
    return accuracies


def _length_features(seen: Trajectories, scored: Trajectories) -> tuple[SparseRows, SparseRows]:
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

    return standardized(known), standardized(raw(scored))


def _word_features(seen: Trajectories, scored: Trajectories) -> tuple[SparseRows, SparseRows]:
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

    return counted(seen), counted(scored)


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
