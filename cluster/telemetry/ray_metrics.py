"""Exports metrics through Ray, which serves them to Prometheus on every node.

Their names and meanings are in cluster/telemetry/metric_catalog.py.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ray.util import metrics as ray_metrics

from actors.messages import Published, RolloutResult
from cluster.telemetry.metric_catalog import (
    RUN_METRICS,
    STEP_METRICS,
    Metric,
    gauge_name,
)


class MetricClasses(NamedTuple):
    """Ray's metric classes, or those of a test that can be read back."""

    gauge: type[ray_metrics.Gauge] = ray_metrics.Gauge
    counter: type[ray_metrics.Counter] = ray_metrics.Counter


RAYS = MetricClasses()


class Exporter:
    """Sets metrics under the names of the catalog, all with the tag run."""

    def __init__(self, run: str, classes: MetricClasses = RAYS) -> None:
        self._run, self._classes = run, classes
        self._made: dict[str, Any] = {}

    def put(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge or add to a counter, as the catalog has it."""
        if name not in self._made:
            metric = RUN_METRICS.get(name) or Metric(STEP_METRICS[name])
            exported = name if name in RUN_METRICS else gauge_name(name)
            make = self._classes.counter if metric.kind == "counter" else self._classes.gauge
            self._made[name] = make(
                exported, description=metric.description, tag_keys=("run", *metric.tags)
            )
        made, all_tags = self._made[name], {"run": self._run, **tags}
        if isinstance(made, ray_metrics.Gauge):
            made.set(value, tags=all_tags)
        elif value > 0:
            made.inc(value, tags=all_tags)


class WorkerExporter:
    """Exports the metrics of one worker from its own process, so that its curves end with it."""

    def __init__(self, run: str, worker: str, classes: MetricClasses = RAYS) -> None:
        self._exporter, self._worker = Exporter(run, classes), worker

    def done(self, method: str, seconds: float, args: Sequence[Any], result: Any) -> None:  # noqa: ANN401
        """Record a call of the worker; seconds include waiting for other calls."""
        put = self._exporter.put
        put("irlign_worker_busy_seconds", seconds, worker=self._worker, method=method)
        if isinstance(result, RolloutResult):
            tokens = float(result.trajectories.response_lengths.sum())
            put("irlign_worker_tokens", tokens, worker=self._worker)
        if args and isinstance(args[0], Published):
            put("irlign_sync_seconds", seconds, worker=self._worker)
            put("irlign_sync_bytes", _size(args[0].path), worker=self._worker)


def _size(path: str) -> int:
    """Return the size of a file in bytes; 0 if newer weights have replaced it."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
