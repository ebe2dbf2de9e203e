"""Exports the metrics and the status of a run to Ray's metrics."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.fleet.fleet import Fleet
from cluster.telemetry.metric_catalog import PHASES, REWARD, STEP_METRICS
from cluster.telemetry.ray_metrics import RAYS, Exporter, MetricClasses

WORKER_STATES = ("waiting", "starting", "syncing", "serving", "draining")


class RunExporter:
    """Exports the metrics of each step, and the status between steps."""

    def __init__(self, run: str, classes: MetricClasses = RAYS) -> None:
        self._exporter = Exporter(run, classes)
        self._rollout_busy_s, self._step_ended = 0.0, time.monotonic()

    def step(self, metrics: Mapping[str, float], rollout: Fleet) -> None:
        """Export the metrics of a step, and how far its phases overlapped.

        Args:
            metrics: as in metrics.jsonl; those that are not in the catalog are not exported.
        """
        for name, value in metrics.items():
            if name in STEP_METRICS:
                self._exporter.put(name, value)
            elif name.startswith(REWARD):
                source = name.removeprefix(REWARD)
                metric = "irlign_reward_errors" if source.endswith("_errors") else "irlign_reward"
                self._exporter.put(metric, value, source=source.removesuffix("_errors"))
        now, busy_s = time.monotonic(), rollout.busy_s
        worked_s, lasted_s = busy_s - self._rollout_busy_s, now - self._step_ended
        self._rollout_busy_s, self._step_ended = busy_s, now
        if step_s := metrics.get("time/step_s"):
            phases_s = sum(metrics.get(f"time/{phase}_s", 0.0) for phase in PHASES)
            learning_s = metrics.get("time/learning_s", 0.0)
            self._exporter.put("irlign_overlap", phases_s / step_s)
            self._exporter.put("irlign_learner_idle", max(1.0 - learning_s / step_s, 0.0))
            if rollout.target_size and lasted_s > 0:
                share = worked_s / (rollout.target_size * lasted_s)
                self._exporter.put("irlign_rollout_efficiency", min(share, 1.0))

    def status(
        self,
        *,
        step: tuple[int, int],
        fleets: Sequence[Fleet],
        prompts: Mapping[str, int],
        num_events: int,
        is_paused: bool,
    ) -> None:
        """Export the status of the run.

        Args:
            prompts: number of draws by state, as the ledger counts them.
        """
        put = self._exporter.put
        put("irlign_step", step[0])
        put("irlign_steps_planned", step[1])
        put("irlign_events", num_events)
        put("irlign_is_paused", is_paused)
        put("irlign_running_prompts", prompts.get("running", 0))
        put("irlign_buffered_prompts", prompts.get("sampled", 0))
        for fleet in fleets:
            states = Counter(worker.state for worker in fleet.status())
            for state in WORKER_STATES:
                put("irlign_workers", states[state], kind=fleet.kind, state=state)
