"""Control classifiers, which see only the length of a response, only its words, or only its edges.

If one of them is as accurate as the discriminator, the discriminator may use the same shortcut, and
its reward may be the length of a response, the frequency of a word, or a line break at the end.

All are logistic regressions, fitted at each step to responses of earlier steps and evaluated on
fresh ones. So they have no state but the earlier responses.
"""

from collections.abc import Sequence
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
CONTROLS = ("length_accuracy", "bag_of_words_accuracy", "format_accuracy")
WHITE_SPACE = tuple(" \n\t\r\u2581\u0120\u010a\u0109\u010d")
"""White space, and what byte-level and sentencepiece tokenizers write for it."""
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


def white_space_edges(pieces: Sequence[str]) -> NDArray[np.bool_]:
    """Return [2, vocabulary] whether each token begins, and whether it ends, with white space.

    Args:
        pieces: [vocabulary] the tokens as the tokenizer stores them.
    """
    edges = [[piece[:1] in WHITE_SPACE, piece[-1:] in WHITE_SPACE] for piece in pieces]
    return np.asarray(edges, bool).reshape(-1, 2).T


def control_accuracies(
    earlier: PromptGroup, fresh: PromptGroup, white_space: NDArray[np.bool_]
) -> dict[str, float]:
    """Fit all controls to earlier responses and evaluate them on fresh ones.

    Args:
        earlier: responses of both classes from steps before, possibly none.
        fresh: responses of both classes that are not among them.
        white_space: of the tokens, from white_space_edges.

    Returns:
        length_accuracy: accuracy from the response's length, its logarithm, and whether it ended;
        bag_of_words_accuracy: accuracy from the count of each token; format_accuracy: accuracy
        from the first token, the last two (the end token among them), white space at either end,
        and the finish reason. Each is the mean of the two classes' accuracies; 0.5 if there are no
        earlier responses.
    """
    if not len(earlier.rollouts):
        return dict.fromkeys(CONTROLS, 0.5)
    seen, scored = concatenate(list(earlier)), concatenate(list(fresh))
    is_expert = np.arange(len(seen)) >= len(earlier.rollouts)
    features = {
        "length_accuracy": _length_features(seen, scored),
        "bag_of_words_accuracy": _word_features(seen, scored),
        "format_accuracy": _format_features(seen, scored, white_space),
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


def _format_features(
    seen: Trajectories, scored: Trajectories, white_space: NDArray[np.bool_]
) -> tuple[SparseRows, SparseRows]:
    """Indicators of the values of each attribute that were seen, and a constant."""
    known = _edges(seen, white_space)
    values = [np.unique(column) for column in known.T]
    offsets = np.cumsum([0, *map(len, values)])
    num_columns = int(offsets[-1]) + 1

    def indicators(attributes: NDArray[np.int64]) -> SparseRows:
        num_rows = len(attributes)
        rows, columns = [np.arange(num_rows)], [np.full(num_rows, num_columns - 1)]
        for attribute, of_attribute, offset in zip(attributes.T, values, offsets, strict=False):
            places = np.searchsorted(of_attribute, attribute).clip(max=len(of_attribute) - 1)
            is_known = of_attribute[places] == attribute
            rows.append(np.flatnonzero(is_known))
            columns.append(offset + places[is_known])
        entries = np.concatenate(rows)
        ones = np.ones(len(entries))
        return SparseRows(entries, np.concatenate(columns), ones, num_rows, num_columns)

    return indicators(known), indicators(_edges(scored, white_space))


def _edges(trajectories: Trajectories, white_space: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[trajectory, attribute] first token, last two tokens, white space at the ends, finish reason.

    The end token is no text: where there is one, the text ends with the token before it.
    """
    ends = np.cumsum(trajectories.lengths, dtype=np.int64)
    lengths = trajectories.response_lengths.astype(np.int64)
    tokens = trajectories.token_ids.astype(np.int64)
    first, last = tokens[ends - lengths], tokens[ends - 1]
    second_last = np.where(lengths > 1, tokens[np.maximum(ends - 2, 0)], -1)
    is_ended = trajectories.finish_reasons == FinishReason.STOP
    last_of_text = np.where(is_ended & (lengths > 1), second_last, last)
    spaces = white_space[0][first], white_space[1][last_of_text]
    return np.stack([first, last, second_last, *spaces, trajectories.finish_reasons], axis=1)


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
