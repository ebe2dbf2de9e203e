"""Which prompt is where. Bounds staleness, and proves that nothing is lost and nothing done twice.

Every draw of a prompt is a draw: the run's draws are numbered, and the number alone decides the
prompt and the seed. A draw is running, sampled, trained, or dropped for a reason, and moves only
forwards. One rule bounds staleness, at dispatch:

    draws handed out <= (max_staleness_steps + steps done + 1) * prompts_per_step

and never more than all the stage's steps need, so that at step k + 1 no trajectory is older than
max_staleness_steps. With 0 the loop is strictly on-policy: the next prompts leave only when the
step before is done. A dropped draw is not replaced: its step is smaller. A replacement would be
sampled from older weights than the step that it is trained in allows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple


class DrawState(Enum):
    """Where a draw is."""

    RUNNING = "running"
    SAMPLED = "sampled"
    TRAINED = "trained"
    DROPPED = "dropped"


class PromptDraw(NamedTuple):
    """One draw of a prompt, from hand-out to training."""

    number: int
    """Of the draw, counted over the whole run: unique."""
    prompt_id: int
    """Row of the prompt in the data set; it comes again in the next epoch."""


NEXT = {
    DrawState.RUNNING: {DrawState.SAMPLED, DrawState.DROPPED},
    DrawState.SAMPLED: {DrawState.TRAINED, DrawState.DROPPED},
    DrawState.TRAINED: set[DrawState](),
    DrawState.DROPPED: set[DrawState](),
}


class Ledger:
    """Owns the draws of one stage, in memory; a resumed run first draws the unfinished again."""

    def __init__(self, prompts_per_step: int, max_staleness_steps: int, num_steps: int) -> None:
        self._prompts_per_step, self._num_steps = prompts_per_step, num_steps
        self._max_staleness_steps = max_staleness_steps
        self._places: dict[int, DrawState] = {}
        self._num_handed_out = 0
        self._settled: Counter[DrawState] = Counter()
        self._reasons: Counter[str] = Counter()

    def num_allowed(self, steps_done: int) -> int:
        """Return how many more prompts may be handed out now, at least 0."""
        steps = min(self._max_staleness_steps + steps_done + 1, self._num_steps)
        return max(0, steps * self._prompts_per_step - self._num_handed_out)

    def hand_out(self, draws: Iterable[PromptDraw]) -> None:
        """Note that these are running from now on.

        Raises:
            RuntimeError: if a draw is in hand already.
        """
        for draw in draws:
            if draw.number in self._places:
                raise RuntimeError(f"draw {draw.number} is already handed out")
            self._places[draw.number] = DrawState.RUNNING
            self._num_handed_out += 1

    def move(self, draws: Iterable[PromptDraw], place: DrawState, reason: str = "") -> None:
        """Move draws forwards.

        Args:
            draws: all in a place from which this one can be reached.

        Raises:
            RuntimeError: if a draw is unknown or would move backwards: a prompt would be lost or
                trained twice.
        """
        for draw in draws:
            before = self._places.get(draw.number)
            if before is None or place not in NEXT[before]:
                was = before.value if before else "settled or unknown"
                raise RuntimeError(f"draw {draw.number} is {was}, cannot be {place.value}")
            self._places[draw.number] = place
            if not NEXT[place]:  # settled: only counted, so that memory stays flat
                del self._places[draw.number]
                self._settled[place] += 1
                if place is DrawState.DROPPED:
                    self._reasons[reason] += 1

    def unfinished(self) -> list[int]:
        """Return the numbers of the draws that are running or sampled, in order."""
        return sorted(self._places)

    def counts(self) -> dict[str, int]:
        """Return how many draws are in each place; they add up to all handed out."""
        live = Counter(self._places.values())
        return {place.value: live[place] + self._settled[place] for place in DrawState}

    def reasons(self) -> dict[str, int]:
        """Return why draws were dropped, and how many for each reason."""
        return dict(self._reasons)


class DrawTotals(NamedTuple):
    """Draws of a run that are done with, over all its stages and starts."""

    trained: int = 0
    dropped: Mapping[str, int] = {}
    """By reason."""

    def plus(self, ledger: Ledger) -> "DrawTotals":
        """Add the draws of a stage."""
        return DrawTotals(
            self.trained + ledger.counts()[DrawState.TRAINED.value],
            Counter(self.dropped) + Counter(ledger.reasons()),
        )
