"""Events of a run, the time to recover from each, and the account of all prompts drawn."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from alignment.report.run_files import Run

ROUNDING_S = 0.05  # event times are rounded to 0.1 s; a step within that came before


class Recovery(NamedTuple):
    """An event, and the time until the run took its next step.

    The driver records an event when it learns of it: the death of a learner rank, when the new
    ranks request work. The time from the death to the next step therefore lies between next_step_s
    and between_steps_s.
    """

    what: str
    at_s: float
    """Time of the record since the start of the run."""
    step_before: int
    """The last step before it, counted as in StepMetrics; 0 if there was none."""
    next_step_s: float | None
    """Time from the event to the end of the next step; None if there is none."""
    between_steps_s: float | None
    """Time from the end of the step before, or the start of the run, to the end of the next."""


class PromptAccount(NamedTuple):
    """Counts of the training prompts drawn up to the newest checkpoint."""

    drawn: int
    trained: int
    dropped: dict[str, int]
    """Count by reason."""
    in_progress: int
    """Neither trained on nor dropped yet."""

    @property
    def adds_up(self) -> bool:
        """Whether every prompt drawn is counted exactly once."""
        return self.drawn == self.trained + sum(self.dropped.values()) + self.in_progress

    def __str__(self) -> str:
        """Return a sentence without its full stop."""
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.dropped.items())
        dropped = f"{sum(self.dropped.values()):,} dropped" + (f" ({reasons})" if reasons else "")
        return (
            f"{self.drawn:,} prompts drawn: {self.trained:,} trained on, {dropped}, "
            f"{self.in_progress:,} in progress"
        )


def recoveries(run: Run) -> list[Recovery]:
    """Find the step after each event of the manifest; events that cannot be read are left out.

    Steps of the discriminator's warm-up count as steps, the evaluation at step 0 does not.
    """
    steps = sorted((row.time_s, row.step) for row in run.rows if row.step > 0)
    times = [time_s for time_s, _ in steps]
    result = []
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
        result.append(recovery)
    return result


class Ending(NamedTuple):
    """How a run ended before its last step."""

    how: str
    """stopped or failed."""
    step: int
    """Steps done."""
    error: str
    metrics: dict[str, float]
    """Metrics that were measured in the step in which the run failed."""

    def __str__(self) -> str:
        """Return a sentence without its full stop."""
        return f"The run {self.how} after step {self.step}" + (self.error and f": {self.error}")


def ending(run: Run) -> Ending | None:
    """Read how the run ended; None for a run that finished, goes on, or crashed."""
    try:
        said = run.manifest["ending"]
        found = Ending(
            str(said["how"]),
            int(said["iteration"]),
            str(said.get("error") or ""),
            {str(name): float(value) for name, value in said.get("metrics", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if found.how in ("stopped", "failed") else None


def start_times(run: Run) -> dict[str, float]:
    """Read the seconds that each part of the newest start took."""
    times = run.manifest.get("start_s")
    return {
        str(name): float(seconds)
        for name, seconds in (times.items() if isinstance(times, dict) else ())
        if isinstance(seconds, int | float)
    }


def prompt_account(run: Run) -> PromptAccount | None:
    """Read the counts of prompts; None if the manifest lacks them, or none was drawn."""
    try:
        account = PromptAccount(
            drawn=int(run.manifest["num_draws"]),
            trained=int(run.manifest["trained_draws"]),
            dropped={str(reason): int(n) for reason, n in run.manifest["dropped_draws"].items()},
            in_progress=len(run.manifest["unfinished_draws"]),
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
