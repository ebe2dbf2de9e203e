"""How many workers of each kind a run has: by its job file, as asked for since, or as it needs."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cluster.config.run_config import AutoscaleConfig
from cluster.config.worker_counts import DISCRIMINATOR, ROLLOUT
from cluster.fleet.autoscaler import AutoscalerState, advise, step_times
from cluster.fleet.fleet import Fleet

PAUSED = "paused: no rollout workers"
"""The phase of a run whose rollout fleet was scaled to 0."""


class FleetScaler:
    """Owns the sizes of a run's fleets once they are hired."""

    def __init__(
        self,
        fleets: Sequence[Fleet],
        share_weights: Callable[[], Awaitable[None]],
        autoscale: AutoscaleConfig | None,
        note: Callable[[str, Mapping[str, int]], None],
        asked: Mapping[str, int],
    ) -> None:
        """Take over fleets of the right sizes.

        Args:
            fleets: of the run, the rollout fleet among them.
            share_weights: announces the newest weights of the training discriminator.
            autoscale: limits of the rollout fleet; None leaves its size to people.
            note: told of each change, with all sizes that differ from the job file's.
        """
        self._fleets = {fleet.kind: fleet for fleet in fleets}
        self._share_weights, self._note = share_weights, note
        self._limits, self._asked = autoscale, dict(asked)
        self._autoscaler, self._work_s = AutoscalerState(), 0.0

    @property
    def is_paused(self) -> bool:
        """Whether there shall be no rollout workers."""
        return self._fleets[ROLLOUT].wanted == 0

    async def ask(self, wanted: Mapping[str, int]) -> list[str]:
        """Give fleets these sizes. Starting and leaving go on when this returns.

        Returns:
            A sentence for each kind.

        Raises:
            FleetFailedError: if a fleet has given up.
        """
        if wanted.get(DISCRIMINATOR, 0) > 1 and self._fleets[DISCRIMINATOR].wanted == 1:
            # While there was one it shared nothing, so a new one would begin with old weights.
            await self._share_weights()
        return [self._resize(kind, number) for kind, number in wanted.items()]

    def resume_to_stop(self) -> None:
        """Let a paused run finish the step under way; started again, it has its job's size."""
        if self.is_paused:
            self._asked.pop(ROLLOUT, None)
            self._fleets[ROLLOUT].scale(1)
            text = "a worker was started to finish the step under way, since the run shall stop"
            self._note(text, dict(self._asked))

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Let the rollout fleet follow the learner's appetite, if it shall.

        Args:
            metrics: of a step of stage 2, with its times.
        """
        fleet = self._fleets[ROLLOUT]
        work_s, self._work_s = fleet.busy_s - self._work_s, fleet.busy_s
        if self._limits is None or self.is_paused or not fleet.is_settled:
            return  # a step during which workers came or left tells nothing of either size
        now_s = time.monotonic()
        advice = advise(
            self._autoscaler,
            step_times(metrics, work_s),
            size=fleet.wanted,
            now_s=now_s,
            limits=self._limits,
        )
        self._autoscaler = advice.state
        if advice.size != fleet.wanted:
            self._resize(ROLLOUT, advice.size, advice.reason)

    def _resize(self, kind: str, number: int, reason: str = "") -> str:
        fleet = self._fleets[kind]
        before = fleet.wanted
        if number == before:
            return f"{kind} stays at {number}"
        fleet.scale(number)
        self._asked[kind] = number
        if kind == ROLLOUT:
            self._autoscaler = AutoscalerState((), time.monotonic())
        if kind == ROLLOUT and number == 0:
            reason = "the run is paused"
        elif kind == ROLLOUT and before == 0:
            reason = "the run goes on"
        text = f"{kind} scaled from {before} to {number}" + (f": {reason}" if reason else "")
        self._note(text, dict(self._asked))
        return text
