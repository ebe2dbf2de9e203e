"""The job of a run in Ray's job API, from inside its job process.

Ray keeps a record of each job in the key-value store of the GCS, and the dashboard serves it. While
a job process runs, only that process changes its record: Ray's supervisor writes it before the
process starts and after it has ended. So the job process can keep the run's status there.

Requests come the other way: the dashboard stores an uploaded package in the same key-value store,
where the job process finds it by its name.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayTaskError
from ray.experimental import internal_kv

from actors.errors import InvalidInputError
from cluster.jobs.progress import status_line
from cluster.jobs.remote_runs import (
    OVER,
    REPLIES,
    RUN,
    RUN_DIR,
    STAGE,
    STATUS,
    STEP,
    request_prefix,
)
from cluster.run_state.status import STAGES_IN_WORDS, Status, status_to_json

WRITE_S = 1.0
"""Time between two writes of a status."""
KEEP_REPLIES = 8
RECORDS, RECORD_KEY = b"job", "_ray_internal_job_info_"
"""Ray's namespace of the records of jobs, and what the key of a record begins with."""
PACKAGE_KEY = "gcs://"
"""Beginning of the key of an uploaded package."""


class Store(Protocol):
    """The key-value store of the GCS."""

    def record(self, job_id: str) -> dict[str, Any] | None:
        """Return the record of a job; None if there is none."""
        ...

    def put_record(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Replace the record of a job."""
        ...

    def take_packages(self, prefix: str) -> dict[str, bytes]:
        """Remove the packages whose names begin so, and return their contents."""
        ...


class GcsStore:
    """The key-value store of the cluster that this process is connected to."""

    def record(self, job_id: str) -> dict[str, Any] | None:
        """Return the record of a job; None if there is none."""
        text = internal_kv._internal_kv_get(RECORD_KEY + job_id, namespace=RECORDS)
        return dict(json.loads(text)) if text else None

    def put_record(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Replace the record of a job."""
        content = json.dumps(record)
        internal_kv._internal_kv_put(RECORD_KEY + job_id, content, namespace=RECORDS)

    def take_packages(self, prefix: str) -> dict[str, bytes]:
        """Remove the packages whose names begin so, and return their contents."""
        found = {}
        for key in internal_kv._internal_kv_list(PACKAGE_KEY + prefix):
            found[key.decode().removeprefix(PACKAGE_KEY)] = internal_kv._internal_kv_get(key)
            internal_kv._internal_kv_del(key)
        return found


Start = Callable[[Mapping[str, Any]], "Future[list[str]]"]
"""Starts what a request asks for; its result are sentences for the user."""


class JobRecord:
    """Shows the status of a run in its job's record, and replies to requests there."""

    def __init__(
        self,
        job_id: str,
        run: str,
        run_dir: str,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id, self._run, self._run_dir = job_id, run, run_dir
        self._store, self._clock = store, clock
        self._pending: dict[str, Future[list[str]]] = {}
        self._replies: dict[str, dict[str, object]] = {}
        self._has_news, self._written_at = True, -WRITE_S

    def serve(self, start: Start) -> None:
        """Start new requests, and keep the replies to those that are done for the next show."""
        prefix = request_prefix(self._job_id)
        for name, content in self._store.take_packages(prefix).items():
            request_id = name.removeprefix(prefix).removesuffix(".zip")
            try:
                self._pending[request_id] = start(json.loads(content))
            except (InvalidInputError, ValueError) as error:
                self._reply(request_id, {"error": str(error)})
        for request_id in [each for each, future in self._pending.items() if future.done()]:
            future = self._pending.pop(request_id)
            failure = future.exception()
            reply: dict[str, object]
            reply = {"error": _sentence(failure)} if failure else {"lines": future.result()}
            self._reply(request_id, reply)

    def _reply(self, request_id: str, reply: dict[str, object]) -> None:
        self._replies[request_id] = reply
        for oldest in list(self._replies)[:-KEEP_REPLIES]:
            del self._replies[oldest]
        self._has_news = True

    def show(self, status: Status) -> None:
        """Write the status and the replies, at most every WRITE_S without news."""
        now = self._clock()
        if not (self._has_news or status.is_over or now - self._written_at >= WRITE_S):
            return
        self._has_news, self._written_at = False, now
        record = self._store.record(self._job_id)
        if record is None or record["status"] in OVER:  # Ray has given this process up
            return
        record["message"] = status_line(status)
        record["metadata"] = {
            **(record["metadata"] or {}),
            RUN: self._run,
            RUN_DIR: self._run_dir,
            STAGE: STAGES_IN_WORDS[status.stage],
            STATUS: status_to_json(status),
            REPLIES: json.dumps(self._replies),
        }
        if status.num_iterations:
            record["metadata"][STEP] = f"{status.iteration} of {status.num_iterations}"
        self._store.put_record(self._job_id, record)


def _sentence(failure: BaseException) -> str:
    """Return the sentence of an error of the driver, without Ray's traceback."""
    if isinstance(failure, RayActorError):
        return "the driver of the run does not reply; it may be restarting, so try again"
    return str(failure.cause if isinstance(failure, RayTaskError) else failure)


def own_job() -> str | None:
    """Return the id of the job of the job API that this process is; None if it is none."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    job_id: str | None = (config.get("metadata") or {}).get("job_submission_id")
    return job_id


def own_record(run: str, run_dir: str) -> JobRecord | None:
    """Return the record of this process's job; None if it is no job of the job API."""
    job_id = own_job()
    return JobRecord(job_id, run, run_dir, GcsStore()) if job_id else None
