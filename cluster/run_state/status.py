"""The status of a run, as `irlign status` shows it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class WorkerStatus(NamedTuple):
    """The status of one worker."""

    name: str
    state: str
    version: str
    num_served: int


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
    phase: str = "starting workers"
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
