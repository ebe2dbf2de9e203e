"""Hands a run's figures to Ray, which exports them to Prometheus from every node.

What is exported under which name, and what it says, is in cluster/metric_catalog.py.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray.util import metrics as ray_metrics

from actors.protocols import Published, RolloutResult
from cluster.fleet import Fleet
from cluster.metric_catalog import FIGURES, REWARD, STEP_METRICS, Metric, gauge_name
from cluster.telemetry import PHASES

WORKER_STATES = ("waiting", "starting", "syncing", "serving", "draining")


class MetricClasses(NamedTuple):
    """What figures are set on: Ray's own, which export them but cannot be read back."""

    gauge: type[ray_metrics.Gauge] = ray_metrics.Gauge
    counter: type[ray_metrics.Counter] = ray_metrics.Counter


RAYS = MetricClasses()


class Exporter:
    """Sets figures under the names of the catalog, all with the tag run."""

    def __init__(self, run: str, classes: MetricClasses = RAYS) -> None:
        self._run, self._classes = run, classes
        self._made: dict[str, Any] = {}

    def put(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge, or add to a counter; the catalog says which it is."""
        if name not in self._made:
            metric = FIGURES.get(name) or Metric(STEP_METRICS[name])
            exported = name if name in FIGURES else gauge_name(name)
            make = self._classes.counter if metric.kind == "counter" else self._classes.gauge
            self._made[name] = make(
                exported, description=metric.description, tag_keys=("run", *metric.tags)
            )
        made, all_tags = self._made[name], {"run": self._run, **tags}
        if isinstance(made, ray_metrics.Gauge):
            made.set(value, tags=all_tags)
        elif value > 0:
            made.inc(value, tags=all_tags)


class RunExporter:
    """Exports what the driver knows of its run."""

    def __init__(self, run: str, classes: MetricClasses = RAYS) -> None:
        self._exporter = Exporter(run, classes)
        self._rollout_busy_s, self._step_ended = 0.0, time.monotonic()

    def step(self, metrics: Mapping[str, float], rollout: Fleet) -> None:
        """Export a step's figures, and how well its phases overlapped.

        Args:
            metrics: of the step, as in metrics.jsonl; names that the catalog lacks are not
                exported.
            rollout: the fleet that sampled.
        """
        for name, value in metrics.items():
            if name in STEP_METRICS:
                self._exporter.put(name, value)
            elif name.startswith(REWARD):
                source = name.removeprefix(REWARD)
                figure = "irlign_reward_errors" if source.endswith("_errors") else "irlign_reward"
                self._exporter.put(figure, value, source=source.removesuffix("_errors"))
        now, busy_s = time.monotonic(), rollout.busy_s
        worked_s, lasted_s = busy_s - self._rollout_busy_s, now - self._step_ended
        self._rollout_busy_s, self._step_ended = busy_s, now
        if step_s := metrics.get("time/step_s"):
            phases_s = sum(metrics.get(f"time/{phase}_s", 0.0) for phase in PHASES)
            learning_s = metrics.get("time/learning_s", 0.0)
            self._exporter.put("irlign_overlap", phases_s / step_s)
            self._exporter.put("irlign_learner_idle", max(1.0 - learning_s / step_s, 0.0))
            if rollout.wanted and lasted_s > 0:
                share = worked_s / (rollout.wanted * lasted_s)
                self._exporter.put("irlign_rollout_efficiency", min(share, 1.0))

    def standing(
        self,
        *,
        step: tuple[int, int],
        fleets: Sequence[Fleet],
        prompts: Mapping[str, int],
        num_events: int,
        is_paused: bool,
    ) -> None:
        """Export where the run stands now.

        Args:
            step: iterations done, and how many there will be.
            fleets: of the run.
            prompts: how many are running and sampled, as the ledger counts them.
            num_events: so far.
            is_paused: whether there shall be no rollout workers.
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


class WorkerExporter:
    """Exports what one worker does, from its own process, so that its curves end with it."""

    def __init__(self, run: str, worker: str, classes: MetricClasses = RAYS) -> None:
        self._exporter, self._worker = Exporter(run, classes), worker

    def done(self, method: str, seconds: float, args: Sequence[Any], result: Any) -> None:  # noqa: ANN401
        """Count a call of the worker.

        Args:
            method: that was called.
            seconds: it took, waiting for other calls included.
            args: of the call.
            result: what it returned.
        """
        put = self._exporter.put
        put("irlign_worker_busy_seconds", seconds, worker=self._worker, method=method)
        if isinstance(result, RolloutResult):
            tokens = float(result.trajectories.response_lengths.sum())
            put("irlign_worker_tokens", tokens, worker=self._worker)
        if args and isinstance(args[0], Published):
            put("irlign_sync_seconds", seconds, worker=self._worker)
            put("irlign_sync_bytes", _size(args[0].path), worker=self._worker)


def _size(path: str) -> int:
    """Return a file's size in bytes, 0 if newer weights have replaced it meanwhile."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
