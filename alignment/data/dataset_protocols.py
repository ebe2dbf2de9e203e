"""Protocols of the data sets that the driver reads, without torch and transformers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import Trajectories


class Texts(Protocol):
    """The texts of demonstrations."""

    def texts(self, row: int) -> tuple[str, str]:
        """Return prompt and expert response of a row."""
        ...

    def decode(self, token_ids: NDArray[np.int32]) -> str:
        """Return the text of a response."""
        ...


class Data(Texts, Protocol):
    """Demonstrations: rows, token ids and texts."""

    @property
    def train_rows(self) -> NDArray[np.int64]:
        """Row numbers of the training set."""
        ...

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Row numbers of the evaluation set."""
        ...

    def row_of_draw(self, number: int) -> int:
        """Return the training row of a draw; every row is drawn once an epoch, in random order."""
        ...

    def prompt_tokens(self, row: int) -> NDArray[np.int32]:
        """Token ids of a row's prompt, template included."""
        ...

    def demonstrations(self, rows: NDArray[np.int64]) -> Trajectories:
        """Return the expert's trajectories of these rows."""
        ...

    def columns(self, row: int) -> Mapping[str, Any]:
        """Return all values of a row by key, if they were kept."""
        ...

    def with_context(self, trajectories: Trajectories) -> Trajectories:
        """Return trajectories as scorers read them: each row's prompt with its context."""
        ...


class ComparisonData(Protocol):
    """Comparisons as token ids."""

    def row_of_draw(self, number: int) -> int:
        """Return the training row of a draw; every row is drawn once an epoch, in random order."""
        ...

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> RankedResponses:
        """Return the comparisons of these rows, in this order."""
        ...
