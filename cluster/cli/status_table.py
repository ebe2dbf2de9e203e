"""Tables of what irlign status and irlign list print."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.report.formats import format_duration
from cluster.jobs.progress import time_left
from cluster.run_state.status import STAGES_IN_WORDS, Status

if TYPE_CHECKING:  # it imports Ray
    from cluster.jobs.submission import Run

METRICS = {
    "learner/loss": "loss",
    "rollout/staleness": "staleness of tokens, steps",
    "rollout/tokens_per_s": "sampled tokens/s",
    "learner/tokens_per_s": "tokens/s of the learner",
    "discriminator/auc_fresh": "discriminator AUC on new samples",
    "time/step_s": "step time, s",
}
"""Metrics of the newest step that are printed, where the step has them."""
DAY_AND_TIME = "%d %b %H:%M"


def runs_table(runs: "Sequence[Run]", now: float) -> Table:
    """Return a table with one row per run; now is in seconds since 1970."""
    table = Table("run", "job", "status", "started", "duration", "run directory", box=None)
    for run in runs:
        began = time.strftime(DAY_AND_TIME, time.localtime(run.began)) if run.began else ""
        lasted = format_duration((run.ended or now) - run.began) if run.began else ""
        table.add_row(run.name, run.job_id, run.status, began, lasted, run.run_dir)
    if not runs:
        table.add_row("none", "", "", "", "", "")
    return table


def print_status(status: Status, run_dir: Path, console: Console) -> None:
    """Print progress, workers, newest metrics and last events of a run."""
    steps = f"step {status.iteration} of {status.num_iterations}" if status.num_iterations else ""
    phase = f"{status.phase}, {format_duration(status.phase_s)}" if status.phase else ""
    left = time_left(status, status.last_step.get("time/step_s", 0.0))
    head = [str(run_dir), STAGES_IN_WORDS[status.stage], steps, phase, left]
    console.print(" | ".join(escape(part) for part in head if part), highlight=False)
    console.print(_workers(status))
    if metrics := _metrics(status):
        console.print(metrics)
    for event in status.events:
        console.print(f"  {event}", markup=False, highlight=False)
    if status.error:
        console.print(f"[red]{escape(status.error)}[/]", highlight=False)


def _workers(status: Status) -> Table:
    table = Table("worker", "state", "weights", "requests served", box=None)
    for worker in status.workers:
        table.add_row(worker.name, worker.state, worker.version, str(worker.num_served))
    if not status.workers:
        table.add_row("none", "", "", "")
    return table


def _metrics(status: Status) -> Table | None:
    known = [name for name in METRICS if name in status.last_step]
    if not known:
        return None
    table = Table("newest step", "", box=None)
    for name in known:
        table.add_row(METRICS[name], f"{status.last_step[name]:.4g}")
    return table
