"""Runs as jobs of a Ray cluster, from any machine that reaches its dashboard.

All calls use Ray's job API over HTTP, with Ray's token. A command that needs the run's driver, such
as `irlign scale`, runs on the cluster as a small job of its own, and its output is returned.
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
"""Environment variable of Ray with the address of the dashboard."""
LOCAL = "http://127.0.0.1:8265"
RUN, RUN_DIR = "irlign_run", "irlign_run_dir"
"""Metadata keys of a job that is a run."""
COMMAND = "irlign_command"
"""Metadata key of a job that runs a command about a run."""
RUNS_DIR = "~/irlign-runs"
"""Default parent of run directories on the cluster, which expands the ~."""
STOP_WAIT_S = 1800
"""Time for the current step and its checkpoint, after which `ray job stop` kills the process."""
COMMAND_S = 180.0
"""Deadline of a command that runs on the cluster."""
HEAD_REPORTS_S = 15.0
"""Time in which a new cluster reports how its head node was started."""
AGENT_S, NO_AGENT = 60.0, "No available agent"
"""Time in which a new cluster starts the agent that runs jobs, and Ray's error until then."""
POLL_S = 0.3
CODE_SOURCES = ("working_dir", "py_modules")
"""Entries of a job's runtime environment that may hold this code; the image may hold it instead."""
ENTRYPOINT_LINE = "Running entrypoint for job"
"""Last line of a job's log before the output of the job itself."""


class Run(NamedTuple):
    """A run as a job of the job API."""

    job_id: str
    name: str
    run_dir: str
    """Run directory on the cluster."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    began: float
    """Seconds since 1970; 0 before the start."""
    ended: float
    """Seconds since 1970; 0 before the end."""
    runtime_env: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return JobStatus(self.status).is_terminal()


def dashboard_address(address: str | None) -> str:
    """Return the given address of a dashboard, or that of the environment or of this machine."""
    return (address or os.environ.get(ADDRESS) or LOCAL).rstrip("/")


def connect(address: str | None) -> JobSubmissionClient:
    """Connect to the job API of a cluster.

    Args:
        address: address of its dashboard, such as http://head:8265; None reads the environment.

    Raises:
        InvalidInputError: if the dashboard does not respond, or the token is missing or wrong.
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
        problem = "refused the token" if token else "requires a token"
        raise InvalidInputError(
            f"the cluster at {url} {problem}; set RAY_AUTH_TOKEN, or copy ~/.ray/auth_token "
            "from the head node"
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise InvalidInputError(
            f"no Ray dashboard responds at {url}; start a cluster with `ray start --head`, or give "
            f"the address of its dashboard by --address or {ADDRESS}"
        ) from error


def _token() -> str | None:
    """Return the token from the places where Ray looks for it, or None."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None


def interpreter(client: JobSubmissionClient) -> str:
    """Return the path of Python in the workers of the head node.

    The python on the PATH of a job's shell may be another one, without Ray.
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


def submit_run(
    config: RunConfig,
    job_path: Path,
    client: JobSubmissionClient,
    run_dir: str | None,
    *,
    accept_changed_data: bool = False,
) -> Run:
    """Start or resume a run on a cluster; return its job, whose process starts later.

    Args:
        run_dir: run directory on the cluster; None is RUNS_DIR/NAME.
        accept_changed_data: whether to resume on other data than the run was trained on.

    Raises:
        InvalidInputError: if the run is already active, or its data are too large to be uploaded.
    """
    name = config.name
    earlier = [run for run in runs(client) if run.name == name]
    if running := [run for run in earlier if not run.is_over]:
        raise InvalidInputError(
            f"{name} is running as job {running[0].job_id}; stop it with `irlign stop {name}`, or "
            "give the new run another name with --set name=NAME"
        )
    place = run_dir or f"{RUNS_DIR}/{name}"
    with tempfile.TemporaryDirectory(prefix="irlign-") as package_dir:
        package.fill_package(config, job_path, Path(package_dir))
        job_id = _submit_job(
            client,
            entrypoint=f"exec {shlex.quote(interpreter(client))} -m cluster.cli.run_package "
            + shlex.quote(place)
            + (" --accept-changed-data" if accept_changed_data else ""),
            submission_id=_free_id(client, name),
            runtime_env={
                "working_dir": package_dir,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            },
            metadata={RUN: name, RUN_DIR: place},
        )
    return _as_run(client.get_job_info(job_id))


def _submit_job(
    client: JobSubmissionClient,
    *,
    timeout_s: float = AGENT_S,
    **job: Any,  # noqa: ANN401  # arguments of submit_job
) -> str:
    """Submit a job once the cluster has an agent for it: a new head starts its agent last."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if NO_AGENT not in str(error):
                raise
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"the cluster accepted no job for {timeout_s:.0f} s ({NO_AGENT}); see the logs "
                    "of the Ray head, and submit again once its agent runs"
                ) from error
        time.sleep(POLL_S)


def _free_id(client: JobSubmissionClient, name: str) -> str:
    taken = {job.submission_id for job in client.list_jobs()}
    number = 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def runs(client: JobSubmissionClient) -> list[Run]:
    """Return all runs of a cluster, the newest first."""
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


def find_run(client: JobSubmissionClient, name: str) -> Run:
    """Return the newest job of a run by the name of the run, or one of its jobs by its id."""
    known = runs(client)
    for run in known:
        if name in (run.name, run.job_id):
            return run
    names = ", ".join(sorted({run.name for run in known})) or "none"
    raise InvalidInputError(f"the cluster has no run {name}; it has: {names}")


def run_command(client: JobSubmissionClient, run: Run, *arguments: str) -> str:
    """Run `irlign ARGUMENTS` on the cluster and return its output.

    Args:
        arguments: the command and its arguments, with RUN_DIR for the directory of the run.

    Raises:
        InvalidInputError: if the command failed, with its output, or did not end in time.
    """
    words = shlex.join(run.run_dir if word == RUN_DIR else word for word in arguments)
    job_id = _submit_job(
        client,
        entrypoint=f"exec {shlex.quote(interpreter(client))} -m cluster.cli.main {words}",
        runtime_env={
            name: run.runtime_env[name] for name in CODE_SOURCES if name in run.runtime_env
        },
        submission_id=_free_id(client, f"{run.name}-{arguments[0]}"),
        metadata={COMMAND: run.name},
    )
    deadline = time.monotonic() + COMMAND_S
    while not (job := client.get_job_info(job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            client.stop_job(job_id)
            raise InvalidInputError(
                f"`irlign {words}` did not end in {COMMAND_S:.0f} s on the cluster; see job "
                f"{job_id}"
            )
        time.sleep(POLL_S)
    text = _output(client.get_job_logs(job_id))
    if job.status != JobStatus.SUCCEEDED:
        raise InvalidInputError(text or f"`irlign {words}` failed on the cluster: {job.message}")
    return text


def _output(log: str) -> str:
    """Return the output of a job without the lines that Ray prints first."""
    before, begins, after = log.partition(ENTRYPOINT_LINE)
    return (after.partition("\n")[2] if begins else before).strip()


def job_logs(client: JobSubmissionClient, run: Run, *, follow: bool) -> Iterator[str]:
    """Yield the output of a job, and with follow its further output until it ends."""
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
