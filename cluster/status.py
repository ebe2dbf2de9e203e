"""What a run tells of itself. Imports little, so that asking is quick."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cluster.roster import MemberStatus


class Status(NamedTuple):
    """What a run is doing, for people."""

    stage: str
    phase: str
    phase_s: float
    """Seconds in this phase so far."""
    iteration: int
    num_iterations: int
    workers: list[MemberStatus]
    is_over: bool
    """Finished, stopped or failed: nothing more will happen."""
    error: str | None
    last_step: Mapping[str, float]
    """Metrics of the newest step; empty before the first."""
    events: Sequence[str]
    """The newest of what happened to the run, each with its time, the newest last."""
