"""What a job process writes into its record, and what it takes from requests."""

import json
from concurrent.futures import Future

import pytest
from ray._private import ray_constants
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY, JobInfoStorageClient

from cluster.jobs import job_record
from cluster.jobs.job_record import KEEP_REPLIES, JobRecord, own_job
from tests.cluster.jobs.test_remote_runs import STATUS
from tests.fakes.ray_dashboard import job


class CountingStore:
    def __init__(self, **fields):
        self.job, self.packages, self.num_writes = job("a-1", **fields), {}, 0

    def record(self, _job_id):
        return json.loads(json.dumps(self.job))

    def put_record(self, _job_id, record):
        self.job = record
        self.num_writes += 1

    def take_packages(self, _prefix):
        taken, self.packages = self.packages, {}
        return taken


@pytest.fixture
def store():
    return CountingStore(metadata={"mine": "kept"})


def record_of(store, clock=lambda: 0.0):
    return JobRecord("a-1", "a", "/home/a", store, clock)


def done(*lines):
    future = Future()
    future.set_result([*lines])
    return future


def ask(store, number):
    store.packages[f"irlign-request=a-1={number}.zip"] = b"{}"


def test_other_fields_are_kept_and_a_finished_job_is_not_changed(store):
    record_of(store).show(STATUS)
    assert store.job["entrypoint"] == "./irlign"
    assert store.job["metadata"]["mine"] == "kept"
    before = dict(store.job)
    for status in ("FAILED", "STOPPED", "SUCCEEDED"):
        store.job = before | {"status": status, "message": "Job failed."}
        record_of(store).show(STATUS)
        assert store.job["message"] == "Job failed."
    assert store.num_writes == 1


def test_a_status_is_written_once_a_second_and_at_the_end(store):
    now = [0.0]
    record = record_of(store, lambda: now[0])
    for now[0] in (0.0, 0.3, 0.9, 1.0, 1.2):
        record.show(STATUS)
    assert store.num_writes == 2
    record.show(STATUS._replace(is_over=True))
    assert store.num_writes == 3


def test_a_reply_is_written_at_once_and_the_oldest_are_dropped(store):
    record = record_of(store)
    for number in range(KEEP_REPLIES + 2):
        ask(store, number)
        record.serve(lambda _request: done("scaled"))
        record.show(STATUS)
    assert store.num_writes == KEEP_REPLIES + 2
    replies = json.loads(store.job["metadata"]["irlign_replies"])
    assert list(replies) == [str(number) for number in range(2, KEEP_REPLIES + 2)]
    assert replies["9"] == {"lines": ["scaled"]}


def test_a_request_that_takes_long_does_not_hold_up_the_next(store):
    record, slow = record_of(store), Future()
    ask(store, "slow")
    record.serve(lambda _request: slow)
    ask(store, "fast")
    record.serve(lambda _request: done("fast"))
    record.show(STATUS)
    assert list(json.loads(store.job["metadata"]["irlign_replies"])) == ["fast"]
    slow.set_result(["slow"])
    record.serve(lambda _request: done())
    record.show(STATUS)
    assert list(json.loads(store.job["metadata"]["irlign_replies"])) == ["fast", "slow"]


def test_a_package_that_is_no_request_is_an_error_of_its_sender(store):
    store.packages["irlign-request=a-1=1.zip"] = b"PK"
    record = record_of(store)
    record.serve(lambda _request: done())
    record.show(STATUS)
    assert "error" in json.loads(store.job["metadata"]["irlign_replies"])["1"]


def test_the_names_are_those_of_ray(monkeypatch):
    assert JobInfoStorageClient.JOB_DATA_KEY_PREFIX == job_record.RECORD_KEY
    assert ray_constants.KV_NAMESPACE_JOB == job_record.RECORDS
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    assert own_job() is None
    config = {"metadata": {JOB_ID_METADATA_KEY: "a-1"}}
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(config))
    assert own_job() == "a-1"
