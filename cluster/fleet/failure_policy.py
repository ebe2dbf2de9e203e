"""Restart, retry or stop? Pure decisions: what happened goes in, what to do comes out."""

from enum import Enum
from typing import Literal, NamedTuple

MAX_ATTEMPTS = 4
"""A request that took down this many workers is given up: it, not they, is the likely cause."""
MAX_CONSECUTIVE_LOSSES = 5
"""Workers of one kind lost in a row, none of which did any work: starting more will not help."""
MAX_FAILED_CHECKPOINTS = 3
"""In a row: a run that cannot save its work any more should not go on working for long."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Decision(Enum):
    """What to do about a failure."""

    RETRY = "retry"
    STOP = "stop"
    DROP = "drop"


class Restart(NamedTuple):
    """Whether to replace a lost worker, and after how long."""

    decision: Decision
    pause_s: float


def after_lost_worker(consecutive_losses: int) -> Restart:
    """Decide on a worker's replacement.

    Args:
        consecutive_losses: workers of this kind lost since one last finished a request, this one
            included.

    Returns:
        STOP when it looks like a crash loop; otherwise RETRY after a pause that doubles.
    """
    if consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
        return Restart(Decision.STOP, 0.0)
    pause_s = FIRST_PAUSE_S * 2 ** (consecutive_losses - 1)
    return Restart(Decision.RETRY, min(pause_s, LONGEST_PAUSE_S))


def after_failed_request(attempts: int) -> Decision:
    """Decide on a request whose worker was lost or too slow.

    Args:
        attempts: how often it has been tried.

    Returns:
        RETRY on another worker, or STOP.
    """
    return Decision.RETRY if attempts < MAX_ATTEMPTS else Decision.STOP


def after_failed_checkpoint(consecutive_failures: int) -> Decision:
    """Decide on a checkpoint that could not be written, on a full disk for example.

    Args:
        consecutive_failures: checkpoints that failed since one was last written, this one included.

    Returns:
        RETRY when the next one is due, or STOP.
    """
    return Decision.RETRY if consecutive_failures < MAX_FAILED_CHECKPOINTS else Decision.STOP


def after_failed_rewards(
    on_error: Literal["stop", "drop"], num_failed: int, num_prompts: int
) -> Decision:
    """Decide on prompts of a step whose reward could not be computed.

    It is not tried again: a function of three texts would fail again, and one that asks a service
    knows best when to ask anew. Nor is there a reward to put in its place: 0 would be a judgement.

    Args:
        num_failed: prompts without a reward; 0 if it is not known which.

    Returns:
        DROP the prompts from the step, or STOP the run: if it is set so, if nobody knows what to
        drop, or if nothing would be left, which is a broken reward rather than a bad prompt.
    """
    if on_error == "stop" or num_failed == 0 or num_failed >= num_prompts:
        return Decision.STOP
    return Decision.DROP


def is_worth_telling(count_before: int, count: int) -> bool:
    """Whether a count that grows has reached 1, 10, 100, ...: so that its events stay few."""
    return count > 0 and (count_before == 0 or len(str(count)) > len(str(count_before)))
