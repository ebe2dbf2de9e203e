"""The commands that start, watch and end runs on a cluster.

A run is named by its directory where that is here, else by its name on a cluster.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from ray.job_submission import JobSubmissionClient
from rich.console import Console
from rich.markup import escape

from actors.errors import InvalidInputError
from cluster.cli.options import JobPath, Overrides
from cluster.cli.status_table import show, table_of_runs
from cluster.config.job_file import load_job
from cluster.jobs import submission
from cluster.jobs.control import parse_sizes, status_of
from cluster.jobs.control import scale as scale_here
from cluster.jobs.control import stop as stop_here
from cluster.jobs.submission import Run

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Dashboard of the cluster, such as http://head:8265; RAY_API_SERVER_ADDRESS, or this "
        "machine's, if not given.",
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory here, or name of a run on a cluster.")
]
POLL_S = 1.0
STOP_WAIT_S = 2000.0
"""Ray ends a job process that has not ended half an hour after it was asked to."""
REPORT_WIDTH = 120
"""Of what is printed where there is no terminal to ask, such as on the cluster."""


def submit(
    job: JobPath,
    overrides: Overrides = None,
    address: Address = None,
    run_dir: Annotated[
        str | None,
        typer.Option(help="On the cluster; ~/irlign-runs/NAME there if not given.", metavar="DIR"),
    ] = None,
) -> None:
    """Run a job on a cluster, or go on with it there. Ships this package and the job's files."""
    config = load_job(job, overrides or ())
    client = submission.connect(address)
    run = submission.submit(config, job, client, run_dir)
    name, where = run.name, submission.dashboard_address(address)
    say = Console(soft_wrap=True, highlight=False).print
    say(f"{run.job_id} is submitted; its run directory on the cluster is {run.run_dir}")
    say(f"  {where}/#/jobs/{run.job_id}")
    say(f"  irlign status {name} | irlign logs {name} --follow | irlign stop {name}")


def list_runs(address: Address = None) -> None:
    """List the runs that a cluster knows of."""
    client = submission.connect(address)
    _report_console().print(table_of_runs(submission.runs(client), time.time()))


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Run directory here, or name; all runs without one."),
    ] = None,
    address: Address = None,
) -> None:
    """Say how far a run is, what its workers do, and what happened to it last."""
    if run is None:
        list_runs(address)
        return
    if _is_here(run, address):
        show(status_of(Path(run)), Path(run), _report_console())
        return
    client, job = _find(run, address)
    if job.is_over:
        raise InvalidInputError(
            f"{job.job_id} is over: {job.status}. `irlign logs {run}` shows what it said; "
            "`irlign submit` of its job goes on from its newest checkpoint"
        )
    _print_answer(client, job, "status")


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run on a cluster.")],
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Print what a run's job has said."""
    client, job = _find(run, address)
    for text in submission.logs(client, job, follow=follow):
        Console().print(text, end="", markup=False, highlight=False, soft_wrap=True)


def stop(
    run: RunName,
    address: Address = None,
    now: Annotated[
        bool, typer.Option("--now", help="Lose what was done since the newest checkpoint.")
    ] = False,
) -> None:
    """End a run after the step under way, with a checkpoint from which it can go on."""
    say = Console(soft_wrap=True, highlight=False).print
    if _is_here(run, address):
        say(stop_here(Path(run), now=now))
        return
    client, job = _find(run, address)
    _print_answer(client, job, "stop", *(["--now"] if now else []))
    with Console(stderr=True).status(f"waiting for {job.job_id} to end (Ctrl-C waits no more)"):
        deadline = time.monotonic() + STOP_WAIT_S
        while not (job := _find(job.job_id, address)[1]).is_over:
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"{job.job_id} has not ended {STOP_WAIT_S / 60.0:.0f} minutes after it was "
                    f"asked to; see irlign status {run}, or end it with irlign stop {run} --now"
                )
            time.sleep(POLL_S)
    say(f"{job.job_id}: {job.status}")


def scale(
    run: RunName,
    sizes: Annotated[
        list[str], typer.Argument(metavar="KIND=N...", help="Such as rollout=4 discriminator=2.")
    ],
    address: Address = None,
) -> None:
    """Change how many workers a running job has. rollout=0 pauses it."""
    wanted = parse_sizes(sizes)
    if _is_here(run, address):
        for line in scale_here(Path(run), wanted):
            Console().print(line, highlight=False, soft_wrap=True)
        return
    client, job = _find(run, address)
    _print_answer(client, job, "scale", *sizes)


def add_to(app: typer.Typer) -> None:
    """Make these functions commands."""
    for function in (submit, status, logs, scale, stop):
        app.command()(function)
    app.command("list")(list_runs)


def _is_here(run: str, address: str | None) -> bool:
    return address is None and ("/" in run or Path(run).is_dir())


def _find(run: str, address: str | None) -> tuple[JobSubmissionClient, Run]:
    client = submission.connect(address)
    return client, submission.find(client, run)


def _print_answer(client: JobSubmissionClient, job: Run, name: str, *arguments: str) -> None:
    """Do a command where the run is, and print what it says there."""
    with Console(stderr=True).status(f"asking {job.job_id} on the cluster"):
        text = submission.command(client, job, name, submission.RUN_DIR, *arguments)
    Console().print(escape(text), highlight=False, soft_wrap=True)


def _report_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=REPORT_WIDTH)
