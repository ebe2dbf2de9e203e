from cluster.failure_policy import (
    MAX_ATTEMPTS,
    MAX_CONSECUTIVE_LOSSES,
    Decision,
    after_failed_request,
    after_lost_worker,
)


def test_pauses_double_until_the_crash_loop_is_ended():
    restarts = [after_lost_worker(losses) for losses in range(1, MAX_CONSECUTIVE_LOSSES + 1)]
    assert [restart.pause_s for restart in restarts[:-1]] == [0.5, 1.0, 2.0, 4.0]
    assert {restart.decision for restart in restarts[:-1]} == {Decision.RETRY}
    assert restarts[-1].decision is Decision.STOP


def test_a_request_is_tried_a_bounded_number_of_times():
    decisions = [after_failed_request(attempts) for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert decisions == [Decision.RETRY] * (MAX_ATTEMPTS - 1) + [Decision.STOP]
