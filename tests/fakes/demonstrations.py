"""A data set of rows 0..n-1: prompt [3 + row % 8], expert response [row % 8 + 4, 2]."""

import numpy as np

from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import concatenate, pack


class FakeComparisons:
    """Rows 0..n-1: prompt [3 + row % 8], the better response [4, 2], the worse one [5, 2]."""

    def __init__(self, num_train=12):
        self._num_train = num_train

    def row_of_draw(self, number):
        return number % self._num_train

    def select(self, rows):
        parts = [
            pack([3 + row % 8], [token, 2], prompt_id=number)
            for number, row in enumerate(map(int, rows))
            for token in (4, 5)
        ]
        return RankedResponses(concatenate(parts), np.asarray([0.0, 1.0] * len(rows), np.float32))


class FakeData:
    """Rows from num_train on are held out; draws walk through the training rows in order."""

    def __init__(self, num_train=12, num_held_out=4, has_context=False):
        self._num_train, self._has_context = num_train, has_context
        self.train_rows = np.arange(num_train)
        self.held_out_rows = np.arange(num_train, num_train + num_held_out)

    def row_of_draw(self, number):
        return number % self._num_train

    def prompt_tokens(self, row):
        return np.asarray([3 + row % 8], np.int32)

    def demonstrations(self, rows):
        numbers = [int(row) for row in rows]
        return concatenate([pack([3 + n % 8], [n % 8 + 4, 2], prompt_id=n) for n in numbers])

    def with_context(self, trajectories):
        """The context of a row is the token 11 + row % 8, before the prompt."""
        if not self._has_context:
            return trajectories
        rows = trajectories.prompt_ids
        return trajectories.with_prompts(
            [np.asarray([11 + row % 8, *self.prompt_tokens(row)], np.int32) for row in rows]
        )

    def columns(self, row):
        return {"number": row, "parity": ("even", "odd")[row % 2]}

    def texts(self, row):
        return f"prompt {row}", f"expert {row}"

    def decode(self, token_ids):
        return " ".join(str(token) for token in token_ids)
