"""What happened to a run, how soon it went on, and what became of every prompt that it drew."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from alignment.report.run_files import Run

ROUNDING_S = 0.05  # an event's time is rounded to 0.1 s; a step within that was taken before it


class Recovery(NamedTuple):
    """An event, and how the run went on.

    An event is noted when the driver learns of it: of a learner's death, when the new ranks ask for
    work. So the time from the death to the next step lies between next_step_s and between_steps_s.
    """

    what: str
    at_s: float
    """When it was noted, since the run began."""
    step_before: int
    """The last step taken before it, counted as in Row; 0 if none was."""
    next_step_s: float | None
    """Seconds from the event to the end of the next step; None if there is none."""
    between_steps_s: float | None
    """Seconds from the end of the step before, or the beginning of the run, to that of the next."""


class PromptAccount(NamedTuple):
    """What became of the training prompts, as of the newest checkpoint; each draw is one."""

    drawn: int
    trained: int
    dropped: dict[str, int]
    """Number by reason."""
    waiting: int
    """Drawn, and neither trained on nor dropped yet."""

    @property
    def adds_up(self) -> bool:
        """Whether every prompt that was drawn is accounted for once."""
        return self.drawn == self.trained + sum(self.dropped.values()) + self.waiting

    def __str__(self) -> str:
        """Say it in a sentence without its full stop."""
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.dropped.items())
        dropped = f"{sum(self.dropped.values()):,} dropped" + (f" ({reasons})" if reasons else "")
        return (
            f"{self.drawn:,} prompts drawn: {self.trained:,} trained on once, {dropped}, "
            f"{self.waiting:,} waiting"
        )


def recoveries(run: Run) -> list[Recovery]:
    """Find the step that followed each event.

    Args:
        run: the run. Steps of the discriminator's warm-up count as steps, what was measured at
            step 0 does not.

    Returns:
        One for each event of the manifest, in its order; events that cannot be read are left out.
    """
    steps = sorted((row.time_s, row.step) for row in run.rows if row.step > 0)
    times = [time_s for time_s, _ in steps]
    found = []
    for at_s, what in _events(run):
        index = bisect_right(times, at_s + ROUNDING_S)
        time_before_s, step_before = steps[index - 1] if index else (0.0, 0)
        recovery = Recovery(what, at_s, step_before, None, None)
        if index < len(steps):
            time_s, _ = steps[index]
            recovery = recovery._replace(
                next_step_s=time_s - at_s,
                between_steps_s=time_s - time_before_s,
            )
        found.append(recovery)
    return found


def prompt_account(run: Run) -> PromptAccount | None:
    """Read what became of the prompts; None if the manifest does not tell, or none was drawn."""
    try:
        account = PromptAccount(
            drawn=int(run.manifest["num_draws"]),
            trained=int(run.manifest["trained_draws"]),
            dropped={str(why): int(n) for why, n in run.manifest["dropped_draws"].items()},
            waiting=len(run.manifest["unfinished_draws"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return account if account.drawn else None


def _events(run: Run) -> Iterator[tuple[float, str]]:
    events = run.manifest.get("events")
    for event in events if isinstance(events, list) else []:
        try:
            yield float(event["time_s"]), str(event["what"])
        except (KeyError, TypeError, ValueError):
            continue
