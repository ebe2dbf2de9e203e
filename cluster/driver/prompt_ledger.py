"""Which prompt is where. Bounds staleness, and proves that nothing is lost and nothing done twice.

Every draw of a prompt is a ticket: the run's draws are numbered, and the number alone decides the
prompt and the seed. A ticket is running, sampled, trained, or dropped for a reason, and moves only
forwards. One rule bounds staleness, at dispatch:

    tickets handed out <= (max_staleness_steps + steps done + 1) * prompts_per_step

and never more than all the stage's steps need, so that at step k + 1 no trajectory is older than
max_staleness_steps. With 0 the loop is strictly on-policy: the next prompts leave only when the
step before is done. A dropped ticket is not replaced: its step is smaller. A replacement would be
sampled from older weights than the step that it is trained in allows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple


class Place(Enum):
    """Where a ticket is."""

    RUNNING = "running"
    SAMPLED = "sampled"
    TRAINED = "trained"
    DROPPED = "dropped"


class Ticket(NamedTuple):
    """One draw of a prompt, from hand-out to training."""

    number: int
    """Of the draw, counted over the whole run: unique."""
    prompt_id: int
    """Row of the prompt in the data set; it comes again in the next epoch."""


NEXT = {
    Place.RUNNING: {Place.SAMPLED, Place.DROPPED},
    Place.SAMPLED: {Place.TRAINED, Place.DROPPED},
    Place.TRAINED: set[Place](),
    Place.DROPPED: set[Place](),
}


class Ledger:
    """Owns the tickets of one stage, in memory; a resumed run first draws the unfinished again."""

    def __init__(self, prompts_per_step: int, max_staleness_steps: int, num_steps: int) -> None:
        self._prompts_per_step, self._num_steps = prompts_per_step, num_steps
        self._max_staleness_steps = max_staleness_steps
        self._places: dict[int, Place] = {}
        self._num_handed_out = 0
        self._settled: Counter[Place] = Counter()
        self._reasons: Counter[str] = Counter()

    def num_allowed(self, steps_done: int) -> int:
        """Return how many more prompts may be handed out now, at least 0."""
        steps = min(self._max_staleness_steps + steps_done + 1, self._num_steps)
        return max(0, steps * self._prompts_per_step - self._num_handed_out)

    def hand_out(self, tickets: Iterable[Ticket]) -> None:
        """Note that these are running from now on.

        Raises:
            RuntimeError: if a ticket is in hand already.
        """
        for ticket in tickets:
            if ticket.number in self._places:
                raise RuntimeError(f"ticket {ticket.number} is already handed out")
            self._places[ticket.number] = Place.RUNNING
            self._num_handed_out += 1

    def move(self, tickets: Iterable[Ticket], place: Place, reason: str = "") -> None:
        """Move tickets forwards.

        Args:
            tickets: all in a place from which this one can be reached.
            place: where they are now.
            reason: why they were dropped.

        Raises:
            RuntimeError: if a ticket is unknown or would move backwards: a prompt would be lost or
                trained twice.
        """
        for ticket in tickets:
            before = self._places.get(ticket.number)
            if before is None or place not in NEXT[before]:
                was = before.value if before else "settled or unknown"
                raise RuntimeError(f"ticket {ticket.number} is {was}, cannot be {place.value}")
            self._places[ticket.number] = place
            if not NEXT[place]:  # settled: only counted, so that memory stays flat
                del self._places[ticket.number]
                self._settled[place] += 1
                if place is Place.DROPPED:
                    self._reasons[reason] += 1

    def unfinished(self) -> list[int]:
        """Return the numbers of the tickets that are running or sampled, in order."""
        return sorted(self._places)

    def counts(self) -> dict[str, int]:
        """Return how many tickets are in each place; they add up to all handed out."""
        live = Counter(self._places.values())
        return {place.value: live[place] + self._settled[place] for place in Place}

    def reasons(self) -> dict[str, int]:
        """Return why tickets were dropped, and how many for each reason."""
        return dict(self._reasons)


class Settled(NamedTuple):
    """Draws of a run that are done with, over all its stages and starts."""

    trained: int = 0
    dropped: Mapping[str, int] = {}
    """By reason."""

    def plus(self, ledger: Ledger) -> "Settled":
        """Add the tickets of a stage."""
        return Settled(
            self.trained + ledger.counts()[Place.TRAINED.value],
            Counter(self.dropped) + Counter(ledger.reasons()),
        )
