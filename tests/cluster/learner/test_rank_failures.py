import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from cluster.learner.rank_failures import RankFailure, RepeatedFailures, rank_failure

KILLED = RayActorError(
    error_msg="The actor died unexpectedly.\nWorker exit type: SYSTEM_ERROR Worker exit detail: "
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes "
    "include: x"
)
CAUSE = "Worker unexpectedly exits with a connection error code 2. End of file"
CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:77")


@pytest.mark.parametrize(
    ("failures", "reason", "is_of_program"),
    [
        ({1: ValueError("bad\nsecond")}, "rank 1: ValueError: bad / second", True),
        ({0: CLOSED, 1: ZeroDivisionError("x")}, "rank 1: ZeroDivisionError: x", True),
        ({0: CLOSED}, f"rank 0: RuntimeError: {CLOSED}", False),
        (
            {0: CLOSED, 1: WorkerHealthCheckFailedError("no reply", KILLED)},
            f"rank 1 was lost: {CAUSE}",
            False,
        ),
    ],
)
def test_the_cause_is_that_of_the_rank_that_failed_first(failures, reason, is_of_program):
    assert rank_failure(WorkerGroupError("text", failures)) == (reason, is_of_program)


def test_a_rank_that_is_killed_within_a_call_of_the_controller_is_lost():
    assert rank_failure(ControllerError(KILLED)) == (CAUSE, False)


def failure(text, *, is_of_program=True):
    return RankFailure(text, is_of_program)


def test_an_error_repeats_if_no_step_got_past_it():
    failures = RepeatedFailures()
    assert not failures.is_repeated(failure("E at 0x1f"), 7)
    assert failures.is_repeated(failure("E at 0x2f"), 7)


def test_an_error_at_a_later_step_or_of_another_text_is_a_new_one():
    failures = RepeatedFailures()
    assert not failures.is_repeated(failure("E"), 7)
    assert not failures.is_repeated(failure("F"), 7)
    assert not failures.is_repeated(failure("E"), 8)
    assert failures.is_repeated(failure("E"), 8)


def test_lost_ranks_never_count_as_a_repeated_error():
    failures = RepeatedFailures()
    for _ in range(9):
        assert not failures.is_repeated(failure(CAUSE, is_of_program=False), 7)
