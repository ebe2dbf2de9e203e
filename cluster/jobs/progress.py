"""The progress of a command: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
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
        """Show this status."""
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
    step = f"step {status.iteration} of {status.num_iterations}" if status.num_iterations else ""
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


class Bar:
    """A progress bar with stage, steps, phase and time."""

    def __init__(self, console: Console) -> None:
        self._pace = StagePace()
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
        """Redraw the bar."""
        self._progress.update(
            self._task,
            completed=status.iteration,
            total=status.num_iterations or None,
            stage=STAGES_IN_WORDS[status.stage],
            phase=f"{status.phase} {status.phase_s:.0f} s" if status.phase_s >= 2 else status.phase,
            left=self._pace.time_left(status),
        )

    def close(self) -> None:
        """Stop redrawing the bar."""
        self._progress.stop()


class Lines:
    """A line when the stage changes and every SECONDS_BETWEEN_LINES: for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._pace = console, StagePace()
        self._shown_at, self._stage, self._began = 0.0, "", time.monotonic()

    def update(self, status: Status) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        left = self._pace.time_left(status)
        if status.stage == self._stage and now - self._shown_at < SECONDS_BETWEEN_LINES:
            return
        self._shown_at, self._stage = now, status.stage
        steps = f"step {status.iteration} of {status.num_iterations}"
        parts = [
            f"{now - self._began:5.0f} s",
            STAGES_IN_WORDS[status.stage],
            steps,
            status.phase,
            left,
        ]
        line = " | ".join(part for part in parts if part)
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: lines hold no terminal."""


def display(console: Console) -> Display:
    """Return a bar for a terminal, else lines."""
    return Bar(console) if console.is_terminal else Lines(console)
