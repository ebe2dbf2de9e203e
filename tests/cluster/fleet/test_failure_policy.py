import pytest

from cluster.fleet.failure_policy import (
    MAX_ATTEMPTS,
    MAX_CONSECUTIVE_LOSSES,
    MAX_FAILED_CHECKPOINTS,
    Decision,
    RepeatedErrors,
    after_failed_checkpoint,
    after_failed_request,
    after_failed_rewards,
    after_lost_worker,
    reaches_power_of_ten,
    same_text,
)


def test_pauses_double_until_the_crash_loop_is_ended():
    restarts = [after_lost_worker(losses) for losses in range(1, MAX_CONSECUTIVE_LOSSES + 1)]
    assert [restart.pause_s for restart in restarts[:-1]] == [0.5, 1.0, 2.0, 4.0]
    assert {restart.decision for restart in restarts[:-1]} == {Decision.RETRY}
    assert restarts[-1].decision is Decision.STOP


def test_a_request_is_tried_a_bounded_number_of_times():
    decisions = [after_failed_request(attempts) for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert decisions == [Decision.RETRY] * (MAX_ATTEMPTS - 1) + [Decision.STOP]


def test_a_run_that_cannot_save_its_work_stops_after_a_bounded_number_of_tries():
    decisions = [after_failed_checkpoint(n) for n in range(1, MAX_FAILED_CHECKPOINTS + 1)]
    assert decisions == [Decision.RETRY] * (MAX_FAILED_CHECKPOINTS - 1) + [Decision.STOP]


@pytest.mark.parametrize(
    ("on_error", "num_failed", "decision"),
    [
        ("drop", 1, Decision.DROP),
        ("drop", 3, Decision.DROP),
        ("drop", 4, Decision.STOP),  # no prompt would be left
        ("drop", 0, Decision.STOP),  # which prompts failed is not known
        ("stop", 1, Decision.STOP),
    ],
)
def test_prompts_without_a_reward_are_dropped_if_the_job_says_so_and_some_prompts_remain(
    on_error, num_failed, decision
):
    assert after_failed_rewards(on_error, num_failed, num_prompts=4) is decision


def test_a_growing_count_is_reported_at_powers_of_ten():
    reported = [count for count in range(1, 2000) if reaches_power_of_ten(count - 1, count)]
    assert reported == [1, 10, 100, 1000]
    assert reaches_power_of_ten(8, 12)
    assert reaches_power_of_ten(0, 3)
    assert not reaches_power_of_ten(3, 3)
    assert not reaches_power_of_ten(0, 0)


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        ("at 0x7f1c", "at 0x7f2d", True),
        ("pid 12 of 10.0.0.1:80", "pid 7 of 10.0.0.22:8081", True),
        ("2026-01-02 03:04:05,678 bad", "2026-01-02 03:09:05,001 bad", True),
        ("no /tmp/ray/session_1/x", "no /tmp/ray/session_2/y", True),
        ("head size 16", "head size 32", False),
        ("prompt 3 has no reward", "prompt 4 has no reward", False),
    ],
)
def test_two_errors_are_the_same_but_for_addresses_processes_times_and_temporary_files(
    first, second, are_same
):
    assert (same_text(first) == same_text(second)) == are_same


def test_an_error_is_repeated_by_a_worker_that_started_after_its_first_occurrence():
    errors = RepeatedErrors()
    assert not errors.is_repeated("E", 0, 3)
    assert not errors.is_repeated("E", 2, 4)  # started before the first one failed
    assert not errors.is_repeated("F", 3, 4)
    assert errors.is_repeated("E", 3, 4)
    errors.clear()
    assert not errors.is_repeated("E", 4, 5)
