"""The state of every draw of a prompt: bounds staleness, and ensures that each is trained on once.

The draws of a run are numbered, and the number alone determines the prompt and the seed. A draw is
running, sampled, trained, or dropped for a reason, and its state only moves forwards. One rule,
applied when prompts are handed out, bounds staleness:

    draws handed out <= (max_staleness_steps + steps done + 1) * prompts_per_step

and never more than the steps of the stage need. So at step k + 1 no trajectory is older than
max_staleness_steps. With 0 the loop is strictly on-policy: the next prompts are handed out only
when the step before is done. A dropped draw is not replaced, its step is smaller: a replacement
would come from older weights than its step allows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple


class DrawState(Enum):
    """The state of a draw."""

    RUNNING = "running"
    SAMPLED = "sampled"
    TRAINED = "trained"
    DROPPED = "dropped"


class PromptDraw(NamedTuple):
    """One draw of a prompt."""

    number: int
    """Counted over the whole run, so unique."""
    prompt_id: int
    """Row of the prompt in the data set, drawn once per epoch."""


NEXT_STATES = {
    DrawState.RUNNING: {DrawState.SAMPLED, DrawState.DROPPED},
    DrawState.SAMPLED: {DrawState.TRAINED, DrawState.DROPPED},
    DrawState.TRAINED: set[DrawState](),
    DrawState.DROPPED: set[DrawState](),
}


class Ledger:
    """Owns the draws of one stage, in memory; the manifest lists those that are unfinished."""

    def __init__(self, prompts_per_step: int, max_staleness_steps: int, num_steps: int) -> None:
        self._prompts_per_step, self._num_steps = prompts_per_step, num_steps
        self._max_staleness_steps = max_staleness_steps
        self._states: dict[int, DrawState] = {}
        self._num_handed_out = 0
        self._finished: Counter[DrawState] = Counter()
        self._reasons: Counter[str] = Counter()

    def set_num_steps(self, num_steps: int) -> None:
        """Set the number of steps that the stage has, those done included."""
        self._num_steps = num_steps

    def num_allowed(self, steps_done: int) -> int:
        """Return how many more prompts may be handed out now."""
        steps = min(self._max_staleness_steps + steps_done + 1, self._num_steps)
        return max(0, steps * self._prompts_per_step - self._num_handed_out)

    def hand_out(self, draws: Iterable[PromptDraw]) -> None:
        """Add draws, in state RUNNING.

        Raises:
            RuntimeError: if a draw is running or sampled already.
        """
        for draw in draws:
            if draw.number in self._states:
                raise RuntimeError(f"draw {draw.number} is already handed out")
            self._states[draw.number] = DrawState.RUNNING
            self._num_handed_out += 1

    def move(self, draws: Iterable[PromptDraw], state: DrawState, reason: str = "") -> None:
        """Move draws forwards to this state.

        Raises:
            RuntimeError: if a draw is unknown or would move backwards: a prompt would be lost or
                trained on twice.
        """
        for draw in draws:
            before = self._states.get(draw.number)
            if before is None or state not in NEXT_STATES[before]:
                was = before.value if before else "finished or unknown"
                raise RuntimeError(
                    f"draw {draw.number} is {was}, so it cannot become {state.value}"
                )
            self._states[draw.number] = state
            if not NEXT_STATES[state]:  # finished: only counted, so that memory does not grow
                del self._states[draw.number]
                self._finished[state] += 1
                if state is DrawState.DROPPED:
                    self._reasons[reason] += 1

    def unfinished(self) -> list[int]:
        """Return the numbers of the draws that are running or sampled, ascending."""
        return sorted(self._states)

    def counts(self) -> dict[str, int]:
        """Return the number of draws in each state; they add up to all handed out."""
        unfinished = Counter(self._states.values())
        return {state.value: unfinished[state] + self._finished[state] for state in DrawState}

    def reasons(self) -> dict[str, int]:
        """Return the number of dropped draws for each reason."""
        return dict(self._reasons)


class DrawTotals(NamedTuple):
    """Numbers of finished draws of a run, over all its stages and starts."""

    trained: int = 0
    dropped: Mapping[str, int] = {}
    """Number of dropped draws by reason."""

    def plus(self, ledger: Ledger) -> "DrawTotals":
        """Return the totals with the draws of a stage added."""
        return DrawTotals(
            self.trained + ledger.counts()[DrawState.TRAINED.value],
            Counter(self.dropped) + Counter(ledger.reasons()),
        )
