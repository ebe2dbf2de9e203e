"""The progress of a command: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alignment.report.formats import format_duration
from cluster.run_state.status import STAGES_IN_WORDS, Status

SECONDS_BETWEEN_LINES = 15.0


class Update(Protocol):
    """Shows how many items are done in all, and what is being done now."""

    def __call__(self, completed: int, description: str = "", /) -> None:
        """Redraw; an empty description keeps the last one."""
        ...


@contextmanager
def counted(
    console: Console,
    total: int,
    unit: str,
    description: str,
    *,
    seconds_between_lines: float = SECONDS_BETWEEN_LINES,
) -> Iterator[Update]:
    """Show the progress of a known number of items with each call of what is yielded.

    Args:
        unit: plural name of the items, such as "responses".
    """
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    text, is_log = TextColumn("[bold]{task.description}"), not console.is_terminal
    with Progress(text, *columns, console=console, transient=True, disable=is_log) as progress:
        task = progress.add_task(description, total=total)
        printed_at = time.monotonic()

        def update(completed: int, what: str = "", /) -> None:
            nonlocal description, printed_at
            description = what or description
            progress.update(task, description=description, completed=completed)
            if is_log and time.monotonic() - printed_at > seconds_between_lines:
                printed_at = time.monotonic()
                line = f"{description}: {completed} of {total} {unit}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield update


class Display(Protocol):
    """Shows the progress of a run."""

    def update(self, status: Status) -> None:
        """Show this status, and what is new in it."""
        ...

    def say(self, line: str) -> None:
        """Print a line."""
        ...

    def close(self) -> None:
        """Release the terminal."""
        ...


def time_left(status: Status, step_s: float) -> str:
    """Return the time left in the stage at step_s seconds per step; "" where it is not known."""
    steps_left = status.num_iterations - status.iteration
    is_timed = status.stage in ("sft", "discriminator_warm_up", "on_policy")
    if status.is_over or not is_timed or not step_s or not steps_left:
        return ""
    return f"about {format_duration(float(round(steps_left * step_s)))} left"


def status_line(status: Status) -> str:
    """Return stage, step, phase and time left of a run in one line."""
    is_start = status.stage == "starting"
    step = "" if is_start else f"step {status.iteration} of {status.num_iterations}"
    phase = f"{status.phase}, {format_duration(status.phase_s)}" if status.phase else ""
    left = time_left(status, status.last_step.get("time/step_s", 0.0))
    return " | ".join(part for part in (STAGES_IN_WORDS[status.stage], step, phase, left) if part)


class StagePace:
    """Estimates the time left from the mean time of the steps of the current stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._began, self._first = "", 0.0, 0

    def time_left(self, status: Status) -> str:
        """Return the estimate, once a step of the stage is done."""
        if status.stage != self._stage:
            self._stage, self._first = status.stage, status.iteration
            self._began = self._clock()
        done = status.iteration - self._first
        return time_left(status, (self._clock() - self._began) / done if done else 0.0)


class News:
    """Finds what a status tells for the first time: events, and how long parts of a start took."""

    def __init__(self, num_events: int) -> None:
        """Begin after this many events of the run."""
        self._num_events = num_events
        self._start_s: Mapping[str, float] = {}

    def lines(self, status: Status) -> list[str]:
        """Return a line for each."""
        started = [
            f"started: {what}, {seconds:.1f} s"
            for what, seconds in status.start_s.items()
            if self._start_s.get(what) != seconds
        ]
        num_new = max(status.num_events - self._num_events, 0)
        events = list(status.events[-num_new:] if num_new else ())
        if num_new > len(events):
            events.insert(0, f"{num_new - len(events)} earlier events are in manifest.json")
        self._start_s, self._num_events = status.start_s, max(status.num_events, self._num_events)
        return [*started, *events]


def position(status: Status) -> str:
    """Return the steps of a status, or during a start the seconds of its phase."""
    if status.stage == "starting":
        return f"{status.phase} {status.phase_s:.0f} s"
    return f"step {status.iteration} of {status.num_iterations}"


class Bar:
    """A progress bar with stage, steps, phase and time."""

    def __init__(self, console: Console, num_events: int = 0) -> None:
        self._pace, self._news = StagePace(), News(num_events)
        self._progress = Progress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="cyan"),
            TextColumn("{task.fields[phase]}", style="dim"),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, stage="starting", phase="", left="")
        self._progress.start()

    def update(self, status: Status) -> None:
        """Redraw the bar, below the lines for what is new."""
        for line in self._news.lines(status):
            self.say(line)
        self._progress.update(
            self._task,
            completed=status.iteration,
            total=status.num_iterations or None,
            stage=STAGES_IN_WORDS[status.stage],
            phase=f"{status.phase} {status.phase_s:.0f} s" if status.phase_s >= 2 else status.phase,
            left=self._pace.time_left(status),
        )

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stop redrawing the bar."""
        self._progress.stop()


class Lines:
    """A line for all that is new, when the stage changes, and every SECONDS_BETWEEN_LINES."""

    def __init__(self, console: Console, num_events: int = 0) -> None:
        self._console, self._pace, self._news = console, StagePace(), News(num_events)
        self._shown_at, self._stage, self._began = 0.0, "", time.monotonic()

    def update(self, status: Status) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        for line in self._news.lines(status):
            self.say(line)
        left = self._pace.time_left(status)
        if status.stage == self._stage and now - self._shown_at < SECONDS_BETWEEN_LINES:
            return
        self._shown_at, self._stage = now, status.stage
        phase = "" if status.stage == "starting" else status.phase
        parts = (STAGES_IN_WORDS[status.stage], position(status), phase, left)
        self.say(" | ".join(part for part in parts if part))

    def say(self, line: str) -> None:
        """Print a line after the seconds since the start."""
        text = f"{time.monotonic() - self._began:5.0f} s | {line}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: lines hold no terminal."""


def display(console: Console, num_events: int = 0) -> Display:
    """Return a bar for a terminal, else lines.

    Args:
        num_events: of the run so far; later ones are printed.
    """
    return Bar(console, num_events) if console.is_terminal else Lines(console, num_events)
