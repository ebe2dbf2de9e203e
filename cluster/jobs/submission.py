"""Runs as jobs of a Ray cluster, from any machine that reaches its dashboard.

Everything goes through Ray's job API over HTTP, with Ray's token. What only the run's driver knows
is asked on the cluster: a command such as `irlign scale` is sent there as a small job of its own,
and what it prints comes back.
"""

import asyncio
import logging
import os
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.jobs import package

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Ray's variable for the address of the dashboard."""
LOCAL = "http://127.0.0.1:8265"
RUN, RUN_DIR = "irlign_run", "irlign_run_dir"
"""Metadata of a job that is a run."""
COMMAND = "irlign_command"
"""Metadata of a job that only asks a run something."""
RUNS_DIR = "~/irlign-runs"
"""Where runs go on the cluster if nothing else is asked for; the cluster expands it."""
STOP_WAIT_S = 1800
"""How long `ray job stop` waits for the step under way and its checkpoint, before it kills."""
ANSWER_S = 180.0
"""A command that was sent to the cluster has answered by then."""
HEAD_REPORTS_S = 15.0
"""A cluster that has just begun knows by then how its head was started."""
POLL_S = 0.3
SHIPPED = ("working_dir", "py_modules")
"""Of a job's runtime environment, where this package may be; absent if the image has it."""
ENTRYPOINT_LINE = "Running entrypoint for job"
"""After this line of a job's log comes what the job itself prints."""


class Run(NamedTuple):
    """A job that is a run, as the job API knows it."""

    job_id: str
    name: str
    run_dir: str
    """On the cluster."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    began: float
    """Seconds since 1970; 0 if it has not begun."""
    ended: float
    """Seconds since 1970; 0 if it has not ended."""
    runtime_env: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return JobStatus(self.status).is_terminal()


def dashboard_address(address: str | None) -> str:
    """Return the dashboard's address: as given, of the environment, or of this machine."""
    return (address or os.environ.get(ADDRESS) or LOCAL).rstrip("/")


def connect(address: str | None) -> JobSubmissionClient:
    """Reach a cluster.

    Args:
        address: of its dashboard, such as http://head:8265; None for the one of the environment.

    Returns:
        A client of its job API.

    Raises:
        InvalidInputError: if nobody answers there, or the token is missing or wrong.
    """
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    url = dashboard_address(address)
    if not url.startswith(("http://", "https://")):
        raise InvalidInputError(f"--address {url}: not the address of a dashboard, such as {LOCAL}")
    token = _token()
    os.environ[ADDRESS] = url  # Ray's client takes this before the address that it is given
    try:
        return JobSubmissionClient(
            url, headers={"Authorization": f"Bearer {token}"} if token else None
        )
    except AuthenticationError as error:
        problem = "takes no other token than its own" if token else "asks for a token"
        raise InvalidInputError(
            f"the cluster at {url} {problem}; give it in RAY_AUTH_TOKEN, or in ~/.ray/auth_token "
            "as on the head node"
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise InvalidInputError(
            f"no Ray dashboard answers at {url}; start a cluster with `ray start --head`, or name "
            f"its dashboard by --address or {ADDRESS}"
        ) from error


def _token() -> str | None:
    """Return Ray's token where Ray itself looks for it, or None."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def interpreter(client: JobSubmissionClient) -> str:
    """Return the Python with which the cluster's head runs its workers.

    A job's shell finds the python of its PATH, which need not be the one that has Ray.
    """
    deadline = time.monotonic() + HEAD_REPORTS_S
    while time.monotonic() < deadline:
        nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        for node in nodes:
            for argument in node.get("cmdline", ()) if node["raylet"].get("isHeadNode") else ():
                if argument.startswith("--python_worker_command="):
                    return shlex.split(argument.partition("=")[2])[0]
        time.sleep(POLL_S)
    return "python"


def submit(
    config: RunConfig, job_path: Path, client: JobSubmissionClient, run_dir: str | None
) -> Run:
    """Start a run on a cluster, or go on with one.

    Args:
        config: the checked job, its paths absolute.
        run_dir: on the cluster; None for one of the run's name.

    Returns:
        The job that was made; its process is not up yet.

    Raises:
        InvalidInputError: if the run goes on already, or what it ships is too large.
    """
    name = config.name
    earlier = [run for run in runs(client) if run.name == name]
    if going := [run for run in earlier if not run.is_over]:
        raise InvalidInputError(
            f"{name} is running as job {going[0].job_id}; stop it by `irlign stop {name}`, or give "
            "the new one another name by --set name=NAME"
        )
    place = run_dir or f"{RUNS_DIR}/{name}"
    with tempfile.TemporaryDirectory(prefix="irlign-") as package_dir:
        package.pack(config, job_path, Path(package_dir))
        job_id = client.submit_job(
            entrypoint=f"exec {shlex.quote(interpreter(client))} -m cluster.cli.run_package "
            + shlex.quote(place),
            submission_id=_free_id(client, name),
            runtime_env={
                "working_dir": package_dir,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            },
            metadata={RUN: name, RUN_DIR: place},
        )
    return _as_run(client.get_job_info(job_id))


def _free_id(client: JobSubmissionClient, name: str) -> str:
    taken = {job.submission_id for job in client.list_jobs()}
    number = 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def runs(client: JobSubmissionClient) -> list[Run]:
    """Return all runs that a cluster knows of, the newest first."""
    jobs = [job for job in client.list_jobs() if RUN in (job.metadata or {})]
    return sorted(map(_as_run, jobs), key=lambda run: run.began or time.time(), reverse=True)


def _as_run(job: Any) -> Run:  # noqa: ANN401  # Ray's class has no stubs
    return Run(
        job_id=job.submission_id,
        name=job.metadata[RUN],
        run_dir=job.metadata[RUN_DIR],
        status=str(job.status.value),
        began=(job.start_time or 0) / 1000,
        ended=(job.end_time or 0) / 1000,
        runtime_env=dict(job.runtime_env or {}),
    )


def find(client: JobSubmissionClient, name: str) -> Run:
    """Return the newest job of a run.

    Args:
        name: of the run, or of one of its jobs.

    Returns:
        The job.

    Raises:
        InvalidInputError: if there is none, naming those there are.
    """
    known = runs(client)
    for run in known:
        if name in (run.name, run.job_id):
            return run
    names = ", ".join(sorted({run.name for run in known})) or "none"
    raise InvalidInputError(f"the cluster knows no run {name}; it has: {names}")


def command(client: JobSubmissionClient, run: Run, *arguments: str) -> str:
    """Have `irlign ARGUMENTS RUN_DIR ...` done on the cluster.

    Args:
        run: that the command is about.
        arguments: the command, RUN_DIR standing where the run directory belongs.

    Returns:
        What it printed.

    Raises:
        InvalidInputError: what it printed, if it failed; or if it does not end in time.
    """
    words = shlex.join(run.run_dir if word == RUN_DIR else word for word in arguments)
    job_id = client.submit_job(
        entrypoint=f"exec {shlex.quote(interpreter(client))} -m cluster.cli.main {words}",
        runtime_env={name: run.runtime_env[name] for name in SHIPPED if name in run.runtime_env},
        submission_id=_free_id(client, f"{run.name}-{arguments[0]}"),
        metadata={COMMAND: run.name},
    )
    deadline = time.monotonic() + ANSWER_S
    while not (job := client.get_job_info(job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            client.stop_job(job_id)
            raise InvalidInputError(
                f"`irlign {words}` did not end in {ANSWER_S:.0f} s on the cluster; see job {job_id}"
            )
        time.sleep(POLL_S)
    text = _said(client.get_job_logs(job_id))
    if job.status != JobStatus.SUCCEEDED:
        raise InvalidInputError(text or f"`irlign {words}` failed on the cluster: {job.message}")
    return text


def _said(log: str) -> str:
    """Return what a job printed, without what Ray puts before it."""
    before, begins, after = log.partition(ENTRYPOINT_LINE)
    return (after.partition("\n")[2] if begins else before).strip()


def logs(client: JobSubmissionClient, run: Run, *, follow: bool) -> Iterator[str]:
    """Yield what a run's job has printed, and with follow what it prints until it ends."""
    if not follow:
        yield client.get_job_logs(run.job_id)
        return
    loop = asyncio.new_event_loop()
    try:
        chunks: AsyncIterator[str] = aiter(client.tail_job_logs(run.job_id))
        while (chunk := loop.run_until_complete(anext(chunks, None))) is not None:
            yield chunk
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
