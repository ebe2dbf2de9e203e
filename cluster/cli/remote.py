"""The commands that start, inspect, resize and stop runs on a cluster.

A run is given by its directory if that is on this machine, else by its name on a cluster.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.cli.options import AcceptChangedData, JobPath, Overrides, line_console, table_console
from cluster.cli.status_table import print_remote_status, print_status, runs_table
from cluster.jobs import remote_runs
from cluster.jobs.dashboard import Dashboard
from cluster.jobs.remote_runs import Run

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
POLL_S = 0.5
LAST_LINES = 5
"""Lines of output that the status of a starting or failed run shows."""


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
    from cluster.config.job_file import load_job  # noqa: PLC0415
    from cluster.jobs.submission import submit_run  # noqa: PLC0415 - Ray takes seconds

    config = load_job(job, overrides or ())
    dashboard = Dashboard(address)
    run = submit_run(config, job, dashboard, run_dir, accept_changed_data=accept_changed_data)
    console, name = line_console(), run.name
    console.print(f"Submitted {run.job_id}, with run directory {run.run_dir} on the cluster")
    console.print(f"  {dashboard.url}/#/jobs/{run.job_id}")
    console.print(f"  irlign status {name} | irlign logs {name} --follow | irlign stop {name}")


def list_runs(address: Address = None) -> None:
    """List the runs of a cluster."""
    table_console().print(runs_table(remote_runs.runs(Dashboard(address)), time.time()))


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
    elif _is_here(run, address):
        from cluster.jobs.control import status_of  # noqa: PLC0415 - Ray takes seconds

        print_status(status_of(Path(run)), Path(run), table_console())
    else:
        dashboard, job = _find(run, address)
        lines = [] if job.has_status or job.ray_status == "PENDING" else _last(dashboard, job)
        print_remote_status(job, lines, time.time(), table_console())


def _last(dashboard: Dashboard, job: Run) -> list[str]:
    """Return the last lines that a run without a status printed."""
    return "".join(remote_runs.run_logs(dashboard, job)).strip().splitlines()[-LAST_LINES:]


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run on a cluster.")],
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until the run ends.")
    ] = False,
) -> None:
    """Print the output of a run on a cluster."""
    dashboard, job = _find(run, address)
    for text in remote_runs.run_logs(dashboard, job, follow=follow):
        Console().print(text, end="", markup=False, highlight=False, soft_wrap=True)


def stop(
    run: RunName,
    address: Address = None,
    now: Annotated[
        bool, typer.Option("--now", help="End at once; steps since the newest checkpoint are lost.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when a run on a cluster has ended.")
    ] = False,
) -> None:
    """Stop a run after the current step, with a checkpoint from which it can resume."""
    console = line_console()
    if _is_here(run, address):
        from cluster.jobs.control import stop_run  # noqa: PLC0415 - Ray takes seconds

        console.print(stop_run(Path(run), now=now))
        return
    dashboard, job = _find(run, address)
    remote_runs.stop_run(dashboard, job, now=now)
    if wait:
        with Console(stderr=True).status(f"waiting for {job.job_id} to end (Ctrl-C stops waiting)"):
            while not (job := remote_runs.current(dashboard, job)).is_over:
                time.sleep(POLL_S)
        console.print(f"{job.job_id}: {job.state}{f' at step {job.step}' if job.step else ''}")
    elif now:
        console.print(f"{job.job_id} ends now; it can resume from its newest checkpoint")
    else:
        console.print(
            f"{job.job_id} stops after the current step, with a checkpoint; `irlign status {run}` "
            "shows when it has ended"
        )


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
    from cluster.config.worker_counts import parse_sizes  # noqa: PLC0415 - pydantic models

    target_sizes = parse_sizes(sizes)
    if _is_here(run, address):
        from cluster.jobs.control import scale_run  # noqa: PLC0415 - Ray takes seconds

        lines = scale_run(Path(run), target_sizes)
    else:
        dashboard, job = _find(run, address)
        with Console(stderr=True).status(f"waiting for {job.job_id}"):
            lines = remote_runs.scale_run(dashboard, job, target_sizes)
    for line in lines:
        line_console().print(line)


def _is_here(run: str, address: str | None) -> bool:
    return address is None and ("/" in run or Path(run).is_dir())


def _find(run: str, address: str | None) -> tuple[Dashboard, Run]:
    dashboard = Dashboard(address)
    return dashboard, remote_runs.find_run(dashboard, run)
