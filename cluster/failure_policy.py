"""Restart, retry or stop? Pure decisions: what happened goes in, what to do comes out."""

from enum import Enum
from typing import NamedTuple

MAX_ATTEMPTS = 4
"""A request that took down this many workers is given up: it, not they, is the likely cause."""
MAX_CONSECUTIVE_LOSSES = 5
"""Workers of one kind lost in a row, none of which did any work: starting more will not help."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Decision(Enum):
    """What to do about a failure."""

    RETRY = "retry"
    STOP = "stop"


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
