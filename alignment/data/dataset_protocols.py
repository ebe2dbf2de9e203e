"""The demonstrations as the driver's parts see them, whoever holds them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignment.mdp.trajectories import Trajectories


class Texts(Protocol):
    """Where the texts of a row are."""

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
        """Rows to learn from."""
        ...

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Rows that are never trained on."""
        ...

    def row_of_draw(self, number: int) -> int:
        """Which training row a draw is: every row once an epoch, in an order of its own."""
        ...

    def prompt_tokens(self, row: int) -> NDArray[np.int32]:
        """Token ids of a row's prompt, template included."""
        ...

    def demonstrations(self, rows: NDArray[np.int64]) -> Trajectories:
        """Return the expert's trajectories of these rows."""
        ...
