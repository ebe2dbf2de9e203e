"""Commands about runs against a dashboard, with the job process of the run at its other side."""

import threading
import time
from concurrent.futures import Future

import pytest

from actors.errors import InvalidInputError
from cluster.jobs.dashboard import Dashboard
from cluster.jobs.job_record import JobRecord
from cluster.jobs.remote_runs import (
    RUN,
    RUN_DIR,
    find_run,
    request_prefix,
    run_logs,
    runs,
    scale_run,
    stop_run,
)
from cluster.run_state.status import Status, WorkerStatus
from tests.fakes.ray_dashboard import FakeDashboard

IDENTITY = {RUN: "a", RUN_DIR: "~/a"}
STATUS = Status(
    stage="on_policy",
    phase="sampling",
    phase_s=4.0,
    iteration=20,
    num_iterations=50,
    workers=[WorkerStatus("rollout-0", "serving", "v17", 12)],
    is_over=False,
    error=None,
    last_step={"time/step_s": 20.0},
    events=["12 s: rollout-1 was lost"],
)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with FakeDashboard() as server:
        yield server


@pytest.fixture
def dashboard(server):
    return Dashboard(server.address)


def record_of(server, job_id="a-1"):
    return JobRecord(job_id, "a", "/home/a", server)


def test_jobs_of_others_are_no_runs_and_the_newest_is_found_first(server, dashboard):
    server.add("other")
    server.add("a-1", metadata=IDENTITY, status="FAILED", start=1)
    server.add("b-1", metadata={RUN: "b", RUN_DIR: "~/b"}, start=2)
    server.add("a-2", metadata=IDENTITY, start=3)
    assert [run.job_id for run in runs(dashboard)] == ["a-2", "b-1", "a-1"]
    assert find_run(dashboard, "a").job_id == "a-2"
    assert find_run(dashboard, "a-1").state == "failed"
    with pytest.raises(InvalidInputError, match="the cluster has no run c; it has: a, b"):
        find_run(dashboard, "c")


def test_the_status_arrives_as_the_job_process_shows_it(server, dashboard):
    server.add("a-1", metadata=IDENTITY)
    assert find_run(dashboard, "a").state == "starting"
    assert find_run(dashboard, "a").status() is None
    record_of(server).show(STATUS)
    run = find_run(dashboard, "a")
    assert (run.state, run.step, run.run_dir) == ("running", "20 of 50", "/home/a")
    assert run.status() == STATUS
    assert run.message == "2/2 on-policy | step 20 of 50 | sampling, 4 s | about 10 min 00 s left"


@pytest.mark.parametrize(
    ("ray_status", "stage", "state"),
    [
        ("PENDING", None, "pending"),
        ("RUNNING", None, "starting"),
        ("RUNNING", "on_policy", "running"),
        ("STOPPED", "on_policy", "stopped"),
        ("SUCCEEDED", "on_policy", "stopped"),
        ("SUCCEEDED", "finished", "succeeded"),
        ("SUCCEEDED", None, "succeeded"),
        ("FAILED", "on_policy", "failed"),
    ],
)
def test_a_run_has_one_state(server, dashboard, ray_status, stage, state):
    server.add("a-1", metadata=IDENTITY)
    if stage:
        record_of(server).show(STATUS._replace(stage=stage))
    server.jobs["a-1"]["status"] = ray_status
    assert find_run(dashboard, "a").state == state


def test_a_run_of_another_version_says_so(server, dashboard):
    server.add("a-1", metadata=IDENTITY | {"irlign_status": '{"workers": [], "mood": 1}'})
    with pytest.raises(InvalidInputError, match="submitted by another version of irlign"):
        find_run(dashboard, "a").status()


def serve(record, start, is_done):
    """Serve as a job process does, on another thread."""

    def poll():
        while not is_done.is_set():
            record.serve(start)
            record.show(STATUS)
            time.sleep(0.01)

    thread = threading.Thread(target=poll)
    thread.start()
    return thread


def test_a_request_to_scale_gets_the_reply_of_the_run(server, dashboard):
    server.add("a-1", metadata=IDENTITY)
    record, is_done, asked = record_of(server), threading.Event(), []
    record.show(STATUS)

    def start(request):
        asked.append(request)
        if request["scale"]["rollout"] < 0:
            raise InvalidInputError("rollout=-1: at least 0")
        done = Future()
        if request["scale"]["rollout"] > 8:
            done.set_exception(InvalidInputError("the run is ending"))
        else:
            done.set_result(["rollout scaled from 1 to 2"])
        return done

    thread = serve(record, start, is_done)
    try:
        run = find_run(dashboard, "a")
        assert scale_run(dashboard, run, {"rollout": 2}) == ["rollout scaled from 1 to 2"]
        for number, message in ((-1, "rollout=-1: at least 0"), (9, "the run is ending")):
            with pytest.raises(InvalidInputError, match=message):
                scale_run(dashboard, run, {"rollout": number})
    finally:
        is_done.set()
        thread.join()
    assert asked == [{"scale": {"rollout": number}} for number in (2, -1, 9)]
    assert server.packages == {}


def test_what_has_not_begun_or_is_over_is_not_scaled(server, dashboard):
    server.add("a-1", metadata=IDENTITY)
    with pytest.raises(InvalidInputError, match="a-1 is starting; scale it once `irlign status a`"):
        scale_run(dashboard, find_run(dashboard, "a"), {"rollout": 2})
    record_of(server).show(STATUS)
    run = find_run(dashboard, "a")
    server.jobs["a-1"]["status"] = "FAILED"  # the job process dies before it replies
    with pytest.raises(InvalidInputError, match="a-1 is over: failed at step 20 of 50"):
        scale_run(dashboard, run, {"rollout": 2})
    with pytest.raises(InvalidInputError, match="is over"):
        stop_run(dashboard, find_run(dashboard, "a"), now=False)
    server.jobs["a-1"]["status"] = "SUCCEEDED"
    server.jobs["a-1"]["metadata"]["irlign_stage"] = "finished"
    with pytest.raises(InvalidInputError, match=r"succeeded at step 20 of 50.*prints its output$"):
        stop_run(dashboard, find_run(dashboard, "a"), now=False)
    assert server.stopped == []


def test_requests_to_one_job_do_not_reach_a_job_with_a_longer_name(server, dashboard):
    for job_id in ("a-1", "a-1--b-1", "a-1.b-1", "a-1_b-1"):
        server.add(job_id, metadata={RUN: job_id, RUN_DIR: "~/a"})
        stop_run(dashboard, find_run(dashboard, job_id), now=True)
    assert len(server.packages) == 4
    assert len(server.take_packages(request_prefix("a-1"))) == 1


def test_a_stop_goes_through_ray_and_now_to_the_run_too(server, dashboard):
    server.add("a-1", metadata=IDENTITY)
    stop_run(dashboard, find_run(dashboard, "a"), now=False)
    assert (server.stopped, server.packages) == (["a-1"], {})
    stop_run(dashboard, find_run(dashboard, "a"), now=True)
    assert server.stopped == ["a-1"] * 2
    assert [*server.packages.values()] == [b'{"end_now": true}']


def test_the_output_is_that_of_the_job(server, dashboard):
    server.add("a-1", metadata=IDENTITY)
    server.logs["a-1"] = "step 1\nstep 2\n"
    assert [*run_logs(dashboard, find_run(dashboard, "a"))] == ["step 1\nstep 2\n"]
