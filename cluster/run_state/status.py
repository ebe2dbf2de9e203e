"""Where a run is, for people."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class MemberStatus(NamedTuple):
    """A worker, for people."""

    name: str
    state: str
    version: str
    num_served: int


Stage = Literal["starting", "sft", "discriminator_warm_up", "on_policy", "finished"]


STAGES_IN_WORDS = {
    "starting": "starting",
    "sft": "1/2 SFT",
    "discriminator_warm_up": "2/2 discriminator warm-up",
    "on_policy": "2/2 on-policy",
    "finished": "finished",
}


@dataclass
class Progress:
    """How far a run has come, and what it is doing now."""

    stage: Stage = "starting"
    phase: str = "starting workers"
    phase_began: float = 0.0
    """On the monotonic clock."""
    iteration: int = 0
    num_iterations: int = 0
    is_finished: bool = False

    def enter(self, stage: Stage, phase: str) -> None:
        """Note that a stage begins, or goes on."""
        self.stage = stage
        self.show(phase)

    def show(self, phase: str) -> None:
        """Note what is being done now."""
        self.phase, self.phase_began = phase, time.monotonic()


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
