"""The commands that start, inspect, resize and stop runs on a cluster.

A run is given by its directory if that is on this machine, else by its name on a cluster.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from ray.job_submission import JobSubmissionClient
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.cli.options import AcceptChangedData, JobPath, Overrides, line_console, table_console
from cluster.cli.status_table import print_status, runs_table
from cluster.config.job_file import load_job
from cluster.jobs import submission
from cluster.jobs.control import parse_sizes, scale_run, status_of, stop_run
from cluster.jobs.submission import Run

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of the cluster's dashboard, such as http://head:8265. Default: "
        "RAY_API_SERVER_ADDRESS, or port 8265 of this machine.",
    ),
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Run directory on this machine, or name of a run on a cluster."
    ),
]
POLL_S = 1.0
STOP_WAIT_S = 2000.0
"""Longer than the half hour after which Ray kills a job process that has not stopped."""


def submit(
    job: JobPath,
    overrides: Overrides = None,
    address: Address = None,
    run_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Run directory there. Default: ~/irlign-runs/NAME."),
    ] = None,
    accept_changed_data: AcceptChangedData = False,
) -> None:
    """Train a policy on a cluster, or resume it there. Uploads this code and the job's files."""
    config = load_job(job, overrides or ())
    client = submission.connect(address)
    run = submission.submit_run(
        config, job, client, run_dir, accept_changed_data=accept_changed_data
    )
    name, where = run.name, submission.dashboard_address(address)
    console = line_console()
    console.print(f"Submitted {run.job_id}, with run directory {run.run_dir} on the cluster")
    console.print(f"  {where}/#/jobs/{run.job_id}")
    console.print(f"  irlign status {name} | irlign logs {name} --follow | irlign stop {name}")


def list_runs(address: Address = None) -> None:
    """List the runs of a cluster."""
    client = submission.connect(address)
    table_console().print(runs_table(submission.runs(client), time.time()))


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run directory on this machine, or name of a run on a cluster. Default: all runs.",
        ),
    ] = None,
    address: Address = None,
) -> None:
    """Print the progress, workers, metrics and last events of a run."""
    if run is None:
        list_runs(address)
        return
    if _is_here(run, address):
        print_status(status_of(Path(run)), Path(run), table_console())
        return
    client, job = _find(run, address)
    if job.is_over:
        raise InvalidInputError(
            f"{job.job_id} is over: {job.status}. `irlign logs {run}` prints its output; `irlign "
            "submit` with the same job resumes it from its newest checkpoint"
        )
    _run_there(client, job, "status")


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run on a cluster.")],
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")
    ] = False,
) -> None:
    """Print the output of a run on a cluster."""
    client, job = _find(run, address)
    for text in submission.job_logs(client, job, follow=follow):
        Console().print(text, end="", markup=False, highlight=False, soft_wrap=True)


def stop(
    run: RunName,
    address: Address = None,
    now: Annotated[
        bool, typer.Option("--now", help="End at once; steps since the newest checkpoint are lost.")
    ] = False,
) -> None:
    """Stop a run after the current step, with a checkpoint from which it can resume."""
    console = line_console()
    if _is_here(run, address):
        console.print(stop_run(Path(run), now=now))
        return
    client, job = _find(run, address)
    _run_there(client, job, "stop", *(["--now"] if now else []))
    with Console(stderr=True).status(f"waiting for {job.job_id} to end (Ctrl-C stops waiting)"):
        deadline = time.monotonic() + STOP_WAIT_S
        while not (job := _find(job.job_id, address)[1]).is_over:
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"{job.job_id} did not end in {STOP_WAIT_S / 60.0:.0f} minutes; see irlign "
                    f"status {run}, or end it with irlign stop {run} --now"
                )
            time.sleep(POLL_S)
    console.print(f"{job.job_id}: {job.status}")


def scale(
    run: RunName,
    sizes: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND=N...", help="New numbers of workers, such as rollout=4 discriminator=2."
        ),
    ],
    address: Address = None,
) -> None:
    """Change the numbers of workers of an active run. rollout=0 pauses it."""
    target_sizes = parse_sizes(sizes)
    if _is_here(run, address):
        for line in scale_run(Path(run), target_sizes):
            line_console().print(line)
        return
    client, job = _find(run, address)
    _run_there(client, job, "scale", *sizes)


def _is_here(run: str, address: str | None) -> bool:
    return address is None and ("/" in run or Path(run).is_dir())


def _find(run: str, address: str | None) -> tuple[JobSubmissionClient, Run]:
    client = submission.connect(address)
    return client, submission.find_run(client, run)


def _run_there(client: JobSubmissionClient, job: Run, name: str, *arguments: str) -> None:
    """Run a command about the run on its cluster, and print its output."""
    with Console(stderr=True).status(f"waiting for {job.job_id} on the cluster"):
        text = submission.run_command(client, job, name, submission.RUN_DIR, *arguments)
    line_console().print(text)
