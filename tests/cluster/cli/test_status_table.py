import io
from pathlib import Path

from rich.console import Console

from cluster.cli.status_table import print_status, runs_table
from cluster.jobs.submission import Run
from cluster.run_state.status import Status, WorkerStatus

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
    begun = Status("starting", "loading the data", 0.0, 0, 0, [], False, None, {}, ())
    assert printed(begun)[2] == "none"
    assert printed(begun._replace(error="no [room]"))[-1] == "no [room]"


def test_no_time_left_is_printed_without_a_step_or_after_the_end():
    for changes in ({"last_step": {}}, {"is_over": True}, {"iteration": 50}):
        assert not any("left" in line for line in printed(STATUS._replace(**changes)))


def test_runs_are_a_row_each():
    run = Run("a-2", "a", "/runs/a", "RUNNING", 1000.0, 0.0, {})
    over = run._replace(job_id="a-1", status="FAILED", ended=1060.0)
    pending = run._replace(job_id="b-1", name="b", status="PENDING", began=0.0)
    lines = printed(runs_table([run, over, pending], now=1600.0))
    assert lines[0] == "run job status started duration run directory"
    assert lines[1].startswith("a a-2 RUNNING ")
    assert lines[1].endswith(" 10 min 00 s /runs/a")
    assert lines[2].endswith(" 1 min 00 s /runs/a")
    assert lines[3] == "b b-1 PENDING /runs/a"
    assert printed(runs_table([], now=0.0))[1] == "none"
