"""Whether to restart, retry, drop or stop after a failure: functions of what happened."""

import re
from enum import Enum
from typing import Literal, NamedTuple

MAX_ATTEMPTS = 4
"""A request that failed on this many workers fails: it, not the workers, is the likely cause."""
MAX_CONSECUTIVE_LOSSES = 5
"""The limit of workers of one kind lost in a row without finishing a request: a crash loop."""
MAX_FAILED_CHECKPOINTS = 3
"""The limit of failed checkpoints in a row, after which the run stops."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Decision(Enum):
    """Reaction to a failure."""

    RETRY = "retry"
    STOP = "stop"
    DROP = "drop"


class Restart(NamedTuple):
    """Whether to replace a lost worker, and after which pause."""

    decision: Decision
    pause_s: float


def after_lost_worker(consecutive_losses: int) -> Restart:
    """Decide on a worker's replacement: RETRY after a pause that doubles, or STOP a crash loop.

    Args:
        consecutive_losses: workers of this kind lost since one last finished a request, this one
            included.
    """
    if consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
        return Restart(Decision.STOP, 0.0)
    pause_s = FIRST_PAUSE_S * 2 ** (consecutive_losses - 1)
    return Restart(Decision.RETRY, min(pause_s, LONGEST_PAUSE_S))


VARIABLE_PARTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"0x[0-9a-fA-F]+",  # addresses
        r"\b[0-9a-f]{12,}\b",  # ids of Ray
        r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)?",
        r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?",
        r"\d{1,3}(?:\.\d{1,3}){3}(?:\]?:\d+)?",  # network addresses and ports
        r"(?i)\b(?:pid|process|thread|port)[ =:]+\d+",
        r"/tmp/\S+",
    )
)
"""What differs between two occurrences of one error."""


def same_text(error: str) -> str:
    """Return an error's text without addresses, ids, times and process numbers."""
    for pattern in VARIABLE_PARTS:
        error = pattern.sub("#", error)
    return error


class RepeatedErrors:
    """Recognizes an error that a replacement repeats word for word: a further one would too.

    Workers that were started before the first occurrence was known count as one with it: a file
    system that fails for a moment fails for all workers at once.
    """

    def __init__(self) -> None:
        self._next_start: dict[str, int] = {}

    def is_repeated(self, error: str, start: int, num_starts: int) -> bool:
        """Note an error, and return whether a worker started after its first occurrence raised it.

        Args:
            start: number of the worker that raised it, in the order of their starts.
            num_starts: number of workers started so far.
        """
        return start >= self._next_start.setdefault(same_text(error), num_starts)

    def clear(self) -> None:
        """Forget all errors, since a worker finished a request."""
        self._next_start.clear()


def after_failed_request(attempts: int) -> Decision:
    """Decide on a request whose worker was lost or too slow: RETRY on another worker, or STOP."""
    return Decision.RETRY if attempts < MAX_ATTEMPTS else Decision.STOP


def after_failed_checkpoint(consecutive_failures: int) -> Decision:
    """Decide on a checkpoint that could not be written, for example because the disk is full.

    RETRY means at the next step at which a checkpoint is due.

    Args:
        consecutive_failures: failed checkpoints since the last one written, this one included.
    """
    return Decision.RETRY if consecutive_failures < MAX_FAILED_CHECKPOINTS else Decision.STOP


def after_failed_rewards(
    on_error: Literal["stop", "drop"], num_failed: int, num_prompts: int
) -> Decision:
    """Decide on prompts of a step whose reward could not be computed.

    There is no retry: a function of three texts would fail again, and one that calls a service has
    retries of its own. No reward is substituted either: a reward of 0 is a value judgement.

    Args:
        num_failed: prompts without a reward; 0 if it is not known which.

    Returns:
        DROP the prompts from the step; or STOP if on_error says so, if the failed prompts are not
        known, or if all prompts failed, which shows a broken reward rather than a bad prompt.
    """
    if on_error == "stop" or num_failed == 0 or num_failed >= num_prompts:
        return Decision.STOP
    return Decision.DROP


def reaches_power_of_ten(count_before: int, count: int) -> bool:
    """Whether a growing count has reached 1, 10, 100, ...; bounds the number of its events."""
    return count > 0 and (count_before == 0 or len(str(count)) > len(str(count_before)))
