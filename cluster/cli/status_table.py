"""Tables of what irlign status and irlign list print."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.report.formats import format_duration
from cluster.jobs.progress import status_line
from cluster.jobs.remote_runs import RESUMES, Run
from cluster.run_state.status import Status

METRICS = {
    "learner/loss": "loss",
    "rollout/staleness": "staleness of tokens, steps",
    "rollout/tokens_per_s": "sampled tokens/s",
    "learner/tokens_per_s": "tokens/s of the learner",
    "discriminator/auc_fresh": "discriminator AUC on new samples",
    "time/step_s": "step time, s",
}
"""Metrics of the newest step that are printed, where the step has them."""
EVENTS_SHOWN = 5
DAY_AND_TIME = "%d %b %H:%M"


def runs_table(runs: Sequence[Run], now: float) -> Table:
    """Return a table with one row per run; now is in seconds since 1970."""
    heads = ("run", "job", "state", "step", "started", "duration", "run directory")
    table = Table(*heads, box=None)
    for run in runs:
        began = time.strftime(DAY_AND_TIME, time.localtime(run.began)) if run.began else ""
        lasted = _duration(run, now)
        table.add_row(run.name, run.job_id, run.state, run.step, began, lasted, run.run_dir)
    if not runs:
        table.add_row("none", *[""] * (len(heads) - 1))
    return table


def _duration(run: Run, now: float) -> str:
    return format_duration((run.ended or now) - run.began) if run.began else ""


def print_remote_status(run: Run, lines: Sequence[str], now: float, console: Console) -> None:
    """Print the status of a run on a cluster, in any state.

    Args:
        lines: last lines of its output, if it has no status.
        now: seconds since 1970.
    """
    status = run.status()
    if status and not run.is_over:
        print_status(status, run.run_dir, console)
        return
    step = f"step {run.step}" if run.step else ""
    head = (run.run_dir, run.job_id, run.state, step, _duration(run, now))
    console.print(" | ".join(part for part in head if part), highlight=False, markup=False)
    if status:
        _print_end(status, console)
        if run.state == "failed" and not status.is_over:
            lines = [
                f"{run.message.partition(',')[0]}: the run may continue without its job process"
            ]
    elif run.ray_status == "PENDING":
        lines = [run.message]
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False)
    if run.state in ("stopped", "failed"):
        console.print(
            f"`irlign logs {run.job_id}` prints its output; {RESUMES}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def print_status(status: Status, run_dir: Path | str, console: Console) -> None:
    """Print progress, workers, newest metrics and last events of a run."""
    console.print(f"{run_dir} | {status_line(status)}", highlight=False, markup=False)
    console.print(_workers(status))
    _print_end(status, console)


def _print_end(status: Status, console: Console) -> None:
    """Print what remains of interest when a run is over."""
    if metrics := _metrics(status):
        console.print(metrics)
    if status.start_s:
        parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in status.start_s.items())
        console.print(f"  the start took: {parts}", markup=False, highlight=False)
    for event in status.events[-EVENTS_SHOWN:]:
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
