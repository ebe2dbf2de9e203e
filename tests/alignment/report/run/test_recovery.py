import pytest

from alignment.report.run.recovery import PromptAccount, Recovery, prompt_account, recoveries
from alignment.report.run_files import read_run

LEDGER = {
    "num_draws": 1036,
    "trained_draws": 1020,
    "dropped_draws": {"its reward failed": 3, "it was truncated": 1},
    "unfinished_draws": [1024, 1026, 1027, 1028, 1029, 1030, 1031, 1032, 1033, 1034, 1035, 1036],
}


def row(step, time_s, stage="on_policy"):
    return {"step": step, "stage": stage, "time_s": time_s}


def recoveries_in(write_run, rows, *events):
    """Recoveries of a run with these metrics and these (time, event)."""
    written = [{"time_s": time_s, "what": what} for time_s, what in events]
    return recoveries(read_run(write_run(metrics=rows, manifest={"events": written})))


def test_an_event_is_timed_to_the_next_step_and_between_the_steps_around_it(write_run):
    rows = [row(4, 10.0), row(5, 20.0), row(6, 50.5), row(7, 60.0)]
    assert recoveries_in(write_run, rows, (25.5, "lost")) == [Recovery("lost", 25.5, 5, 25.0, 30.5)]


def test_events_before_one_step_are_each_timed_to_it_in_their_order(write_run):
    rows = [row(1, 8.0), row(2, 16.0)]
    assert recoveries_in(write_run, rows, (10.0, "first"), (12.0, "second"), (10.0, "third")) == [
        Recovery("first", 10.0, 1, 6.0, 8.0),
        Recovery("second", 12.0, 1, 4.0, 8.0),
        Recovery("third", 10.0, 1, 6.0, 8.0),
    ]


def test_an_event_after_the_last_step_has_no_next_one(write_run):
    assert recoveries_in(write_run, [row(1, 8.0)], (9.0, "lost")) == [
        Recovery("lost", 9.0, 1, None, None)
    ]


def test_before_the_first_step_time_counts_from_the_start_of_the_run(write_run):
    rows = [row(0, 4.0, "sft"), row(1, 8.0, "sft")]  # step 0 only evaluates
    assert recoveries_in(write_run, rows, (3.0, "lost")) == [Recovery("lost", 3.0, 0, 5.0, 8.0)]


def test_without_metrics_no_step_is_known(write_run):
    assert recoveries_in(write_run, None, (3.0, "lost")) == [Recovery("lost", 3.0, 0, None, None)]


def test_a_step_of_the_discriminators_warm_up_is_a_step(write_run):
    rows = [row(2, 8.0, "sft"), row(3, 9.0, "discriminator_warm_up"), row(4, 20.0)]
    assert recoveries_in(write_run, rows, (8.5, "lost")) == [Recovery("lost", 8.5, 2, 0.5, 1.0)]


def test_steps_that_are_repeated_count_as_time_until_the_next_step(write_run):
    rows = [row(5, 50.0), row(6, 95.0), row(7, 105.0)]
    assert recoveries_in(write_run, rows, (80.0, "the learner")) == [
        Recovery("the learner", 80.0, 5, 15.0, 45.0)
    ]


def test_a_step_within_the_rounding_of_an_events_time_came_before_it(write_run):
    # Recorded at 20.049, right after the step, and written as 20.0.
    rows = [row(1, 20.045), row(2, 30.0), row(3, 40.125)]
    assert recoveries_in(write_run, rows, (20.0, "disk full"), (40.0, "lost")) == [
        Recovery("disk full", 20.0, 1, 10.0, 30.0 - 20.045),
        Recovery("lost", 40.0, 2, 0.125, 10.125),
    ]


@pytest.mark.parametrize("events", [None, "odd", [], ["odd", {"what": "x"}, {"time_s": "noon"}]])
def test_events_that_cannot_be_read_are_left_out(write_run, events):
    assert recoveries(read_run(write_run(manifest={"events": events}))) == []


def test_every_prompt_is_accounted_for(write_run):
    account = prompt_account(read_run(write_run(manifest=LEDGER)))
    dropped = {"its reward failed": 3, "it was truncated": 1}
    assert account == PromptAccount(1036, 1020, dropped, 12)
    assert account.adds_up
    assert str(account) == (
        "1,036 prompts drawn: 1,020 trained on, "
        "4 dropped (its reward failed: 3, it was truncated: 1), 12 in progress"
    )
    assert str(PromptAccount(5, 5, {}, 0)) == (
        "5 prompts drawn: 5 trained on, 0 dropped, 0 in progress"
    )


@pytest.mark.parametrize("trained", [1019, 1021])
def test_a_prompt_lost_or_trained_on_twice_does_not_add_up(write_run, trained):
    run = read_run(write_run(manifest={**LEDGER, "trained_draws": trained}))
    assert not prompt_account(run).adds_up


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        {"num_draws": 5, "unfinished_draws": []},
        {**LEDGER, "dropped_draws": [4]},
        {**LEDGER, "num_draws": "many"},
        {**LEDGER, "num_draws": 0},
    ],
)
def test_a_manifest_without_counts_has_no_account(write_run, manifest):
    assert prompt_account(read_run(write_run(manifest=manifest))) is None
