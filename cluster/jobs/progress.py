"""The progress of a command: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.run_state.status import STAGES_IN_WORDS, Status

SECONDS_BETWEEN_LINES = 15.0


class Update(Protocol):
    """Shows how many items are done in all, and what is being done now."""

    def __call__(self, completed: int, description: str = "", /) -> None:
        """Redraw; an empty description keeps the last one."""
        ...


@contextmanager
def counted(console: Console, total: int, unit: str, description: str) -> Iterator[Update]:
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
            if is_log and time.monotonic() - printed_at > SECONDS_BETWEEN_LINES:
                printed_at = time.monotonic()
                line = f"{description}: {completed} of {total} {unit}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield update


class Display(Protocol):
    """Shows a run's status whenever it is told one."""

    def show(self, status: Status) -> None:
        """Show this now."""
        ...

    def close(self) -> None:
        """Show nothing more."""
        ...


class TimeLeft:
    """Guesses the time left from the pace of the stage under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._began, self._first = "", 0.0, 0

    def text(self, status: Status) -> str:
        """Return the guess, once a step of the stage is done."""
        if status.stage != self._stage:
            self._stage, self._first = status.stage, status.iteration
            self._began = self._clock()
        done = status.iteration - self._first
        left = status.num_iterations - status.iteration
        if not done or status.stage not in ("sft", "discriminator_warm_up", "on_policy"):
            return ""
        seconds = (self._clock() - self._began) / done * left
        left_text = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        return f"about {left_text} left"


class Bar:
    """A progress bar: stage, steps, phase, time."""

    def __init__(self, console: Console) -> None:
        self._time_left = TimeLeft()
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

    def show(self, status: Status) -> None:
        """Redraw the bar."""
        self._progress.update(
            self._task,
            completed=status.iteration,
            total=status.num_iterations or None,
            stage=STAGES_IN_WORDS[status.stage],
            phase=f"{status.phase} {status.phase_s:.0f} s" if status.phase_s >= 2 else status.phase,
            left=self._time_left.text(status),
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


class Lines:
    """A line now and then: for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._time_left = console, TimeLeft()
        self._shown_at, self._stage, self._began = 0.0, "", time.monotonic()

    def show(self, status: Status) -> None:
        """Print a line if the stage is new or the last line is old."""
        now = time.monotonic()
        left = self._time_left.text(status)
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
        """Nothing is open."""


def display(console: Console) -> Display:
    """Return what suits the console."""
    return Bar(console) if console.is_terminal else Lines(console)
