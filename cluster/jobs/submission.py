"""Submits runs as jobs of a Ray cluster, from any machine that reaches its dashboard."""

import logging
import os
import re
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from ray.job_submission import JobSubmissionClient

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.jobs import package
from cluster.jobs.dashboard import ADDRESS, Dashboard
from cluster.jobs.remote_runs import RUN, RUN_DIR, Run, find_run, runs

RUNS_DIR = "~/irlign-runs"
"""Default parent of run directories on the cluster, which expands the ~."""
STOP_WAIT_S = 1800
"""Time for the current step and its checkpoint, after which `ray job stop` kills the process."""
HEAD_REPORTS_S = 15.0
"""Time in which a new cluster reports how its head node was started."""
AGENT_S, NO_AGENT = 60.0, "No available agent"
"""Time in which a new cluster starts the agent that runs jobs, and Ray's error until then."""
POLL_S = 0.3
PLAIN = re.compile(r"[\w@%+=:,./~-]+")
"""Words that a shell takes as they are, apart from a ~ in front, which both the shell and irlign
expand."""


def submit_run(
    config: RunConfig,
    job_path: Path,
    dashboard: Dashboard,
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
    earlier = [run for run in runs(dashboard) if run.name == name]
    if running := [run for run in earlier if not run.is_over]:
        raise InvalidInputError(
            f"{name} is running as job {running[0].job_id}; stop it with `irlign stop {name}`, or "
            "give the new run another name with --set name=NAME"
        )
    place = run_dir or f"{RUNS_DIR}/{name}"
    with tempfile.TemporaryDirectory(prefix="irlign-") as package_dir:
        package.fill_package(config, job_path, Path(package_dir))
        package.write_command(Path(package_dir), _interpreter(dashboard))
        job_id = _submit_job(
            _client(dashboard),
            entrypoint=entrypoint(name, place, accept_changed_data=accept_changed_data),
            submission_id=_free_id(dashboard, name),
            runtime_env={
                "working_dir": package_dir,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            },
            metadata={RUN: name, RUN_DIR: place, "job_name": f"irlign {name}"},
        )
    return find_run(dashboard, job_id)


def entrypoint(name: str, run_dir: str, *, accept_changed_data: bool = False) -> str:
    """Return the command that runs a job in its package; the Jobs page shows it."""
    words = ["train", f"{name}.yaml", "--run-dir", run_dir]
    words += ["--accept-changed-data"] if accept_changed_data else []
    quoted = [word if PLAIN.fullmatch(word) else shlex.quote(word) for word in words]
    return f"./{package.COMMAND} {' '.join(quoted)}"


def _client(dashboard: Dashboard) -> JobSubmissionClient:
    """Return Ray's client, which packs and uploads a working directory."""
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ[ADDRESS] = dashboard.url  # it takes this before the address that it is given
    return JobSubmissionClient(dashboard.url, headers=dashboard.headers or None)


def _interpreter(dashboard: Dashboard) -> str:
    """Return the path of Python in the workers of the head node.

    The python on the PATH of a job's shell may be another one, without Ray.
    """
    deadline = time.monotonic() + HEAD_REPORTS_S
    while time.monotonic() < deadline:
        for node in dashboard.get("/nodes?view=summary")["data"]["summary"]:
            for argument in node.get("cmdline", ()) if node["raylet"].get("isHeadNode") else ():
                if argument.startswith("--python_worker_command="):
                    return shlex.split(argument.partition("=")[2])[0]
        time.sleep(POLL_S)
    return "python"


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


def _free_id(dashboard: Dashboard, name: str) -> str:
    taken = {job["submission_id"] for job in dashboard.get("/api/jobs/")}
    number = 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
