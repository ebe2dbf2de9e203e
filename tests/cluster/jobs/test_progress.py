import io

from rich.console import Console

from cluster.jobs.progress import Bar, Lines, StagePace, counted, display
from cluster.run_state.status import Status


def status(stage="on_policy", iteration=3, phase="learning", phase_s=0.0):
    return Status(stage, phase, phase_s, iteration, 10, [], False, None, {}, ())


def test_time_left_follows_the_pace_of_the_stage_under_way():
    now = [0.0]
    pace = StagePace(clock=lambda: now[0])
    assert pace.time_left(status(iteration=2)) == ""  # nothing is known yet
    now[0] = 20.0
    assert pace.time_left(status(iteration=4)) == "about 1 min 00 s left"  # 10 s a step, 6 to go
    now[0] = 220.0
    assert (
        pace.time_left(status(iteration=5)) == "about 6 min 07 s left"
    )  # 220 s / 3 steps, 5 to go
    assert pace.time_left(status(stage="sft", iteration=5)) == ""
    assert pace.time_left(status(stage="starting", iteration=0)) == ""


def test_a_log_gets_a_line_for_every_stage_and_not_for_every_step():
    console = Console(file=io.StringIO(), width=40)
    lines = Lines(console)
    for each in (status(), status(iteration=4), status(stage="finished", iteration=10)):
        lines.update(each)
    printed = console.file.getvalue().splitlines()
    assert len(printed) == 2  # long lines are not wrapped
    assert "2/2 on-policy | step 3 of 10 | learning" in printed[0]
    assert "finished | step 10 of 10" in printed[1]


def test_a_terminal_gets_a_bar_with_stage_step_and_phase():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    bar = display(console)
    assert isinstance(bar, Bar)
    bar.update(status(phase="sampling", phase_s=7.0))
    bar.close()
    printed = console.file.getvalue()
    for text in ("2/2 on-policy", "3/10", "sampling 7 s"):
        assert text in printed


def test_what_is_no_terminal_gets_lines():
    assert isinstance(display(Console(file=io.StringIO())), Lines)


def test_a_terminal_gets_a_bar_of_counted_items():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with counted(console, 10, "responses", "sampling") as update:
        update(3)
        update(4, "scoring")
    printed = console.file.getvalue()
    for text in ("sampling", "scoring", "4/10"):
        assert text in printed


def test_a_log_gets_lines_of_counted_items():
    console = Console(file=io.StringIO(), width=20)
    settings = {"seconds_between_lines": 0.0}
    with counted(console, 10, "responses", "sampling", **settings) as update:
        update(3)
        update(4, "[scoring]")
    printed = console.file.getvalue().splitlines()
    assert printed == ["sampling: 3 of 10 responses", "[scoring]: 4 of 10 responses"]


def test_what_is_new_is_printed_once_and_the_start_shows_its_phase():
    console = Console(file=io.StringIO(), width=40)
    lines = Lines(console, num_events=2)
    begun = status("starting", 0, "starting workers", 7.0)
    first = begun._replace(num_events=3, events=["1 s: a", "2 s: b", "3 s: c"], start_s={"data": 2})
    for each in (first, first, first._replace(start_s={"data": 2, "rollout": 40.25})):
        lines.update(each)
    lines.update(status()._replace(num_events=9, events=["8 s: y", "9 s: z"]))
    printed = [line.partition(" | ")[2] for line in console.file.getvalue().splitlines()]
    assert printed == [
        "started: data, 2.0 s",
        "3 s: c",
        "starting | starting workers 7 s",
        "started: rollout, 40.2 s",
        "4 earlier events are in manifest.json",
        "8 s: y",
        "9 s: z",
        "2/2 on-policy | step 3 of 10 | learning",
    ]


def test_events_are_printed_above_the_bar():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    bar = display(console)
    bar.update(status()._replace(num_events=1, events=["8 s: rollout-0 was lost"]))
    bar.say("stopping")
    bar.close()
    assert "8 s: rollout-0 was lost" in console.file.getvalue()
    assert "stopping" in console.file.getvalue()
