"""The number of workers of each kind in an active run: set by users, or by the autoscaler."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cluster.config.run_config import AutoscaleConfig
from cluster.config.worker_counts import DISCRIMINATOR, ROLLOUT
from cluster.fleet.autoscaler import AutoscalerState, advise, step_times
from cluster.fleet.fleet import Fleet

PAUSED = "paused: no rollout workers"
"""The phase of a run whose rollout fleet was scaled to 0."""


class FleetScaler:
    """Changes the target sizes of a run's fleets once they have been started."""

    def __init__(
        self,
        fleets: Sequence[Fleet],
        share_weights: Callable[[], Awaitable[None]],
        autoscale: AutoscaleConfig | None,
        on_change: Callable[[str, Mapping[str, int]], None],
        requested: Mapping[str, int],
    ) -> None:
        """Bind the fleets of a run, the rollout fleet among them.

        Args:
            share_weights: announces the newest weights of the discriminator that is trained.
            autoscale: limits of the rollout fleet's size; None turns the autoscaler off.
            on_change: called with a sentence for each change, and with all requested sizes.
            requested: the sizes that were requested so far in place of the job file's, by kind.
        """
        self._fleets = {fleet.kind: fleet for fleet in fleets}
        self._share_weights, self._on_change = share_weights, on_change
        self._limits, self._requested = autoscale, dict(requested)
        self._autoscaler, self._work_s = AutoscalerState(), 0.0

    @property
    def is_paused(self) -> bool:
        """Whether the target size of the rollout fleet is 0."""
        return self._fleets[ROLLOUT].target_size == 0

    async def scale(self, target_sizes: Mapping[str, int]) -> list[str]:
        """Give fleets these target sizes, by kind, and return a sentence for each.

        Workers start, or drain, after this has returned.

        Raises:
            FleetFailedError: if a fleet has failed.
        """
        if target_sizes.get(DISCRIMINATOR, 0) > 1 and self._fleets[DISCRIMINATOR].target_size == 1:
            # A single worker shares nothing, so a second one would start with old weights.
            await self._share_weights()
        return [self._resize(kind, size) for kind, size in target_sizes.items()]

    def end_pause(self) -> None:
        """Forget a pause, so that a paused run that stops resumes with the size in its job file."""
        if self.is_paused and self._requested.pop(ROLLOUT, None) is not None:
            text = "the paused run stops; it resumes with the rollout workers of its job file"
            self._on_change(text, dict(self._requested))

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Resize the rollout fleet as the autoscaler advises, if the job has one.

        Args:
            metrics: of an on-policy step, with its times.
        """
        fleet = self._fleets[ROLLOUT]
        work_s, self._work_s = fleet.busy_s - self._work_s, fleet.busy_s
        if self._limits is None or self.is_paused or not fleet.has_target_size:
            return  # a step during which the size changed says nothing of either size
        now_s = time.monotonic()
        advice = advise(
            self._autoscaler,
            step_times(metrics, work_s),
            size=fleet.target_size,
            now_s=now_s,
            limits=self._limits,
        )
        self._autoscaler = advice.state
        if advice.size != fleet.target_size:
            self._resize(ROLLOUT, advice.size, advice.reason)

    def _resize(self, kind: str, size: int, reason: str = "") -> str:
        fleet = self._fleets[kind]
        before = fleet.target_size
        if size == before:
            return f"{kind} stays at {size}"
        fleet.scale(size)
        self._requested[kind] = size
        if kind == ROLLOUT:
            self._autoscaler = AutoscalerState((), time.monotonic())
        if kind == ROLLOUT and size == 0:
            reason = "the run is paused"
        elif kind == ROLLOUT and before == 0:
            reason = "the run resumes"
        text = f"{kind} scaled from {before} to {size}" + (f": {reason}" if reason else "")
        self._on_change(text, dict(self._requested))
        return text
