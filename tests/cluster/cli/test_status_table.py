import io
from pathlib import Path

from rich.console import Console

from cluster.cli.status_table import print_remote_status, print_status, runs_table
from cluster.jobs.remote_runs import STAGE, STEP, Run
from cluster.jobs.remote_runs import STATUS as STATUS_KEY
from cluster.run_state.status import STAGES_IN_WORDS, Status, WorkerStatus, status_to_json

STATUS = Status(
    stage="on_policy",
    phase="sampling",
    phase_s=4.0,
    iteration=20,
    num_iterations=50,
    workers=[WorkerStatus("rollout-0", "serving", "v17", 12)],
    is_over=False,
    error=None,
    last_step={"learner/loss": 0.25, "time/step_s": 20.0, "rollout/staleness": 1.0},
    events=["12 s: rollout-1 was lost"],
)


def printed(thing):
    text = io.StringIO()
    console = Console(file=text, width=150)
    if isinstance(thing, Status):
        print_status(thing, Path("runs/a"), console)
    else:
        console.print(thing)
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_status_has_progress_workers_metrics_and_events():
    assert printed(STATUS) == [
        "runs/a | 2/2 on-policy | step 20 of 50 | sampling, 4 s | about 10 min 00 s left",
        "worker state weights requests served",
        "rollout-0 serving v17 12",
        "newest step",
        "loss 0.25",
        "staleness of tokens, steps 1",
        "step time, s 20",
        "12 s: rollout-1 was lost",
    ]


def test_a_run_that_is_starting_or_has_failed_can_be_printed_too():
    begun = Status("starting", "loading the data", 5.0, 0, 9, [], False, None, {}, ())
    assert printed(begun)[0] == "runs/a | starting | loading the data, 5 s"
    started = begun._replace(start_s={"data": 3.0, "rollout": 41.25})
    assert printed(started)[-1] == "the start took: data 3.0 s, rollout 41.2 s"
    assert printed(begun)[2] == "none"
    assert printed(begun._replace(error="no [room]"))[-1] == "no [room]"


def test_no_time_left_is_printed_without_a_step_or_after_the_end():
    for changes in ({"last_step": {}}, {"is_over": True}, {"iteration": 50}):
        assert not any("left" in line for line in printed(STATUS._replace(**changes)))


def a_run(ray_status, status=None, **fields):
    metadata = {}
    if status:
        metadata = {
            STAGE: STAGES_IN_WORDS[status.stage],
            STEP: f"{status.iteration} of {status.num_iterations}",
            STATUS_KEY: status_to_json(status),
        }
    run = Run("a-2", "a", "/runs/a", ray_status, 1000.0, 0.0, "", metadata)
    return run._replace(**fields)


def test_runs_are_a_row_each():
    run = a_run("RUNNING", STATUS)
    over = a_run("FAILED", STATUS, job_id="a-1", ended=1060.0)
    pending = a_run("PENDING", job_id="b-1", name="b", began=0.0)
    lines = printed(runs_table([run, over, pending], now=1600.0))
    assert lines[0] == "run job state step started duration run directory"
    assert lines[1].startswith("a a-2 running 20 of 50 ")
    assert lines[1].endswith(" 10 min 00 s /runs/a")
    assert lines[2].endswith(" 1 min 00 s /runs/a")
    assert lines[3] == "b b-1 pending /runs/a"
    assert printed(runs_table([], now=0.0))[1] == "none"


def printed_remote(run, lines=()):
    text = io.StringIO()
    print_remote_status(run, lines, 1060.0, Console(file=text, width=150))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_run_on_a_cluster_is_printed_as_one_on_this_machine():
    assert printed_remote(a_run("RUNNING", STATUS)) == [
        line.replace("runs/a", "/runs/a") for line in printed(STATUS)
    ]


def test_a_run_that_has_not_begun_says_what_it_waits_for():
    pending = a_run("PENDING", message="It may be waiting for [resources].")
    assert printed_remote(pending) == [
        "/runs/a | a-2 | pending | 1 min 00 s",
        "It may be waiting for [resources].",
    ]
    assert printed_remote(a_run("RUNNING"), ["60 s | waiting for resources"]) == [
        "/runs/a | a-2 | starting | 1 min 00 s",
        "60 s | waiting for resources",
    ]


def test_a_run_that_is_over_says_how_and_at_which_step():
    resumes = "`irlign logs a-2` prints its output; `irlign submit` with the same job resumes"
    failed = a_run("FAILED", STATUS._replace(is_over=True, error="no [room]"))
    first, *rest, error, remedy = printed_remote(failed)
    assert first == "/runs/a | a-2 | failed | step 20 of 50 | 1 min 00 s"
    assert "12 s: rollout-1 was lost" in rest
    assert error == "no [room]"
    assert remedy.startswith(resumes)
    refused = printed_remote(a_run("FAILED"), ["the run needs 8 GPUs"])
    assert refused[:2] == ["/runs/a | a-2 | failed | 1 min 00 s", "the run needs 8 GPUs"]
    killed = "Job entrypoint command failed with exit code 137, last available logs (truncated):\n"
    *_, reason, remedy = printed_remote(a_run("FAILED", STATUS, message=killed))
    assert reason == (
        "Job entrypoint command failed with exit code 137: the run may continue without its job "
        "process"
    )
    assert remedy.endswith("or joins it if it continues without its job process")
    stopped = printed_remote(a_run("STOPPED", STATUS))
    assert stopped[0].startswith("/runs/a | a-2 | stopped | step 20 of 50")
    assert stopped[-1].startswith(resumes)
    finished = STATUS._replace(stage="finished", iteration=50, is_over=True, events=())
    done = printed_remote(a_run("SUCCEEDED", finished))
    assert done[0].startswith("/runs/a | a-2 | succeeded | step 50 of 50")
    assert not any("irlign submit" in line for line in done)
