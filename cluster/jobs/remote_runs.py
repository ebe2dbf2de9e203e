"""The runs of a cluster as its job API shows them, and requests to them, from any machine.

Everything passes through the dashboard's port and token. A run's job process keeps its status in
the metadata of its job, and takes requests that arrive as small packages; see job_record.py.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from actors.errors import InvalidInputError
from cluster.jobs.dashboard import Dashboard
from cluster.run_state.status import STAGES_IN_WORDS, Status, status_from_json

RUN, RUN_DIR = "irlign_run", "irlign_run_dir"
"""Metadata keys of a job that is a run."""
STAGE, STEP = "irlign_stage", "irlign_step"
"""Metadata keys of a run that has begun: its stage, and its step as "12 of 40"."""
STATUS, REPLIES = "irlign_status", "irlign_replies"
"""Metadata keys of a run that has begun: its status, and its replies by id of request, in JSON."""
SCALE, END_NOW = "scale", "end_now"
"""Keys of a request: the new numbers of workers, and whether to end at once."""
OVER = ("STOPPED", "SUCCEEDED", "FAILED")
RESUMES = (
    "`irlign submit` with the same job resumes it from its newest checkpoint, or joins it if it "
    "continues without its job process"
)
REPLY_S = 120.0
"""Timeout of a request. A run replies within a second, unless it adds a discriminator worker, which
waits for the weights of the first worker."""
POLL_S = 0.1


class Run(NamedTuple):
    """A run as a job of the job API."""

    job_id: str
    name: str
    run_dir: str
    """Run directory on the cluster."""
    ray_status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    began: float
    """Seconds since 1970; 0 before the start."""
    ended: float
    """Seconds since 1970; 0 before the end."""
    message: str
    """Ray's message about the job; of a failed one, the last lines of its output."""
    metadata: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self.ray_status in OVER

    @property
    def has_status(self) -> bool:
        """Whether its driver has run."""
        return STATUS in self.metadata

    @property
    def step(self) -> str:
        """The step, such as "12 of 40"; "" before the first."""
        return self.metadata.get(STEP, "")

    @property
    def state(self) -> str:
        """One of pending, starting, running, stopped, succeeded, failed.

        To Ray, a job that a stop ended gracefully has succeeded if the stop came from elsewhere.
        """
        is_unfinished = self.metadata.get(STAGE) != STAGES_IN_WORDS["finished"]
        if self.ray_status == "RUNNING" and not self.step:
            return "starting"
        if self.ray_status == "SUCCEEDED" and self.has_status and is_unfinished:
            return "stopped"
        return self.ray_status.lower()

    def status(self) -> Status | None:
        """Return the newest status; None before the first.

        Raises:
            InvalidInputError: if another version of irlign wrote it.
        """
        return status_from_json(self.metadata[STATUS]) if self.has_status else None


def runs(dashboard: Dashboard) -> list[Run]:
    """Return all runs of a cluster, the newest first."""
    jobs = [_as_run(job) for job in dashboard.get("/api/jobs/") if RUN in (job["metadata"] or {})]
    return sorted(jobs, key=lambda run: run.began or time.time(), reverse=True)


def _as_run(job: Mapping[str, Any]) -> Run:
    return Run(
        job_id=job["submission_id"],
        name=job["metadata"][RUN],
        run_dir=job["metadata"][RUN_DIR],
        ray_status=job["status"],
        began=(job["start_time"] or 0) / 1000,
        ended=(job["end_time"] or 0) / 1000,
        message=job["message"] or "",
        metadata=job["metadata"],
    )


def find_run(dashboard: Dashboard, name: str) -> Run:
    """Return the newest job of a run by the name of the run, or one of its jobs by its id."""
    known = runs(dashboard)
    for run in known:
        if name in (run.name, run.job_id):
            return run
    names = ", ".join(sorted({run.name for run in known})) or "none"
    raise InvalidInputError(f"the cluster has no run {name}; it has: {names}")


def current(dashboard: Dashboard, run: Run) -> Run:
    """Return the run as it is now."""
    return _as_run(dashboard.get(f"/api/jobs/{run.job_id}"))


def run_logs(dashboard: Dashboard, run: Run, *, follow: bool = False) -> Iterator[str]:
    """Yield the output of a run, and with follow its further output until it ends."""
    path = f"/api/jobs/{run.job_id}/logs"
    if follow:
        yield from dashboard.follow(f"{path}/tail")
    else:
        yield dashboard.get(path)["logs"]


def stop_run(dashboard: Dashboard, run: Run, *, now: bool) -> None:
    """Stop a run after its current step, with a checkpoint.

    Ray sends SIGTERM to the job process, which passes it on to the driver.

    Args:
        now: end at once; steps since the newest checkpoint are lost.

    Raises:
        InvalidInputError: if the run is over.
    """
    refuse_if_over(run)
    dashboard.post(f"/api/jobs/{run.job_id}/stop")
    if now:
        _send(dashboard, run, {END_NOW: True})


def scale_run(dashboard: Dashboard, run: Run, sizes: Mapping[str, int]) -> list[str]:
    """Change the numbers of workers of an active run, and return a sentence for each kind.

    Raises:
        InvalidInputError: if the run refuses, has not begun, is over, or does not reply.
    """
    refuse_if_over(run)
    if not run.has_status:
        raise InvalidInputError(
            f"{run.job_id} is {run.state}; scale it once `irlign status {run.name}` shows a stage"
        )
    return _reply(dashboard, run, _send(dashboard, run, {SCALE: sizes}))


def refuse_if_over(run: Run) -> None:
    """Raise InvalidInputError if a run is over."""
    if run.is_over:
        step = f" at step {run.step}" if run.step else ""
        raise InvalidInputError(
            f"{run.job_id} is over: {run.state}{step}. `irlign logs {run.job_id}` prints its output"
            + ("" if run.state == "succeeded" else f"; {RESUMES}")
        )


def request_prefix(job_id: str) -> str:
    """Return what the names of the packages begin with that are requests to a job.

    No id of a job contains an equals sign, so no prefix begins with that of another job.
    """
    return f"irlign-request={job_id}="


def _send(dashboard: Dashboard, run: Run, request: Mapping[str, object]) -> str:
    """Send a request to a run and return its id."""
    request_id = uuid4().hex
    package = f"{request_prefix(run.job_id)}{request_id}.zip"
    dashboard.put(f"/api/packages/gcs/{package}", json.dumps(request).encode())
    return request_id


def _reply(dashboard: Dashboard, run: Run, request_id: str) -> list[str]:
    """Wait for the reply to a request."""
    deadline = time.monotonic() + REPLY_S
    while time.monotonic() < deadline:
        run = current(dashboard, run)
        replies = json.loads(run.metadata.get(REPLIES, "{}"))
        if request_id in replies:
            reply = replies[request_id]
            if "error" in reply:
                raise InvalidInputError(reply["error"])
            lines: list[str] = reply["lines"]
            return lines
        refuse_if_over(run)
        time.sleep(POLL_S)
    raise InvalidInputError(
        f"{run.job_id} did not reply for {REPLY_S:.0f} s; see `irlign status {run.name}`, and try "
        "again"
    )
