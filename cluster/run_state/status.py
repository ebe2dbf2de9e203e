"""The status of a run, as `irlign status` shows it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from actors.errors import InvalidInputError


class WorkerStatus(NamedTuple):
    """The status of one worker."""

    name: str
    state: str
    version: str
    num_served: int

    @property
    def is_new(self) -> bool:
        """Whether it has not started yet."""
        return self.state in ("waiting", "starting")


STARTING = "starting workers"
"""Phase until all learner ranks have a process."""
Stage = Literal["starting", "sft", "discriminator_warm_up", "on_policy", "finished", "stopped"]


STAGES_IN_WORDS = {
    "starting": "starting",
    "sft": "1/2 SFT",
    "discriminator_warm_up": "2/2 discriminator warm-up",
    "on_policy": "2/2 on-policy",
    "finished": "finished",
    "stopped": "stopped",
}


@dataclass
class Progress:
    """The stage, the phase and the iteration of a run."""

    stage: Stage = "starting"
    phase: str = STARTING
    phase_began: float = 0.0
    """Start of the phase on the monotonic clock."""
    iteration: int = 0
    num_iterations: int = 0

    def enter(self, stage: Stage, phase: str) -> None:
        """Set the stage, and the phase in it."""
        self.stage = stage
        self.show(phase)

    def show(self, phase: str) -> None:
        """Set the phase, and when it began."""
        self.phase, self.phase_began = phase, time.monotonic()


class Status(NamedTuple):
    """The status of a run."""

    stage: str
    phase: str
    phase_s: float
    """Seconds in this phase so far."""
    iteration: int
    num_iterations: int
    workers: list[WorkerStatus]
    is_over: bool
    """Whether the run is finished, stopped or failed."""
    error: str | None
    last_step: Mapping[str, float]
    """Metrics of the newest step; empty before the first."""
    events: Sequence[str]
    """The newest events of the run, each with its time, the newest last."""
    num_events: int = 0
    """Number of events of the run so far."""
    start_s: Mapping[str, float] = {}
    """Seconds that each part of the newest start took, so far."""

    @classmethod
    def starting(cls, phase: str) -> "Status":
        """Return the status of a run without workers."""
        return cls("starting", phase, 0.0, 0, 0, [], False, None, {}, ())


def status_to_json(status: Status) -> str:
    """Return a status as JSON, as status_from_json reads it."""
    workers = [worker._asdict() for worker in status.workers]
    return json.dumps({**status._asdict(), "workers": workers})


def status_from_json(text: str) -> Status:
    """Return the status that status_to_json wrote.

    Raises:
        InvalidInputError: if another version of irlign, with other fields, wrote it.
    """
    try:
        fields = json.loads(text)
        return Status(**{**fields, "workers": [WorkerStatus(**each) for each in fields["workers"]]})
    except TypeError as error:
        raise InvalidInputError(
            "the run was submitted by another version of irlign; use that one to inspect it, or "
            f"look at the Jobs page of Ray's dashboard ({error})"
        ) from error
