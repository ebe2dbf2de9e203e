"""Why a worker group of Ray Train ended: the first cause among what its ranks report."""

import re
from typing import NamedTuple

from ray.exceptions import RayError

from actors.errors import one_line
from cluster.fleet.failure_policy import same_text
from cluster.fleet.ray_worker import cause_of

CONSEQUENCE = re.compile(
    r"gloo|nccl|connection (closed|reset)|broken pipe|socket (closed|timeout)|TCPStore", re.I
)
"""Errors of a rank that lost the connection to another one, which has the cause."""


class RankFailure(NamedTuple):
    """The failure of a worker group."""

    reason: str
    is_of_program: bool
    """Whether the code of a rank raised an error; False if a process was lost or stopped."""


def rank_failure(error: Exception) -> RankFailure:
    """Return the cause of an error of TorchTrainer.fit."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    # Ray Train's WorkerHealthCheckFailedError holds why a rank's process does not reply.
    lost = {
        rank: getattr(failure, "health_check_failure", failure)
        for rank, failure in failures.items()
        if hasattr(failure, "health_check_failure") or isinstance(failure, RayError)
    }
    for rank, failure in lost.items():
        return RankFailure(f"rank {rank} was lost: {cause_of(failure)}", is_of_program=False)
    for rank, failure in failures.items():
        if not CONSEQUENCE.search(str(failure)):
            return RankFailure(f"rank {rank}: {one_line(failure)}", is_of_program=True)
    for rank, failure in failures.items():
        return RankFailure(f"rank {rank}: {one_line(failure)}", is_of_program=False)
    return RankFailure(cause_of(error), is_of_program=False)


class RepeatedFailures:
    """Recognizes an error of the learner's code that repeats and that no step gets past."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def is_repeated(self, failure: RankFailure, step: int) -> bool:
        """Note a failure, and return whether it is the second one without a new step between.

        The steps since the newest checkpoint are repeated first, so finished steps say nothing.

        Args:
            step: steps of the run done when the worker group failed.
        """
        if not failure.is_of_program:
            return False
        text = same_text(failure.reason)
        before, self._steps[text] = self._steps.get(text), step
        return before is not None and step <= before
