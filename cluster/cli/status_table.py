"""A run's status as tables, for people."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.report.formats import format_duration
from cluster.run_state.status import STAGES_IN_WORDS, Status

if TYPE_CHECKING:  # it imports Ray's job client
    from cluster.jobs.submission import Run

FIGURES = {
    "learner/loss": "loss",
    "rollout/staleness": "staleness of a token, steps",
    "rollout/tokens_per_s": "sampled tokens/s",
    "learner/tokens_per_s": "learned tokens/s",
    "discriminator/accuracy_fresh": "discriminator's accuracy on fresh samples",
    "time/step_s": "seconds of the step",
}
"""Of the newest step, in this order, those that it has."""
DAY_AND_TIME = "%d %b %H:%M"


def table_of_runs(runs: "Sequence[Run]", now: float) -> Table:
    """Return a line for each job that is a run.

    Args:
        now: in seconds since 1970.

    Returns:
        The table.
    """
    table = Table("run", "job", "status", "began", "lasted", "run directory", box=None)
    for run in runs:
        began = time.strftime(DAY_AND_TIME, time.localtime(run.began)) if run.began else ""
        lasted = format_duration((run.ended or now) - run.began) if run.began else ""
        table.add_row(run.name, run.job_id, run.status, began, lasted, run.run_dir)
    if not runs:
        table.add_row("none", "", "", "", "", "")
    return table


def show(status: Status, run_dir: Path, console: Console) -> None:
    """Print how far a run is, what its workers do, and what happened to it last."""
    steps = f"step {status.iteration} of {status.num_iterations}" if status.num_iterations else ""
    phase = f"{status.phase}, {format_duration(status.phase_s)}" if status.phase else ""
    head = [str(run_dir), STAGES_IN_WORDS[status.stage], steps, phase, time_left(status)]
    console.print(" | ".join(escape(part) for part in head if part), highlight=False)
    console.print(_workers(status))
    if figures := _figures(status):
        console.print(figures)
    for event in status.events:
        console.print(f"  {event}", markup=False, highlight=False)
    if status.error:
        console.print(f"[red]{escape(status.error)}[/]", highlight=False)


def time_left(status: Status) -> str:
    """Guess the time left from the newest step; "" where there is none to judge by."""
    steps_left = status.num_iterations - status.iteration
    step_s = status.last_step.get("time/step_s")
    if status.is_over or not step_s or not steps_left:
        return ""
    return f"about {format_duration(steps_left * step_s)} left at the newest step's pace"


def _workers(status: Status) -> Table:
    table = Table("worker", "state", "weights", "requests served", box=None)
    for worker in status.workers:
        table.add_row(worker.name, worker.state, worker.version, str(worker.num_served))
    if not status.workers:
        table.add_row("none yet", "", "", "")
    return table


def _figures(status: Status) -> Table | None:
    known = [name for name in FIGURES if name in status.last_step]
    if not known:
        return None
    table = Table("newest step", "", box=None)
    for name in known:
        table.add_row(FIGURES[name], f"{status.last_step[name]:.4g}")
    return table
