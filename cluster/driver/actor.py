"""The driver as a Ray actor: starts the fleets and the learner, and is the run's remote interface.

The actor is named and detached, and restarts without limit: any process that knows the run's name
can connect to it, and when its process dies, the next one resumes the run from its manifest. Fleets
and learner are its children and end with it.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from actors.errors import InvalidInputError
from actors.messages import LearnerStart, LearnerTask, Published
from alignment.data.dataset_protocols import ComparisonData, Data
from cluster.config.namespaces import DRIVER, namespace
from cluster.config.run_config import RunConfig
from cluster.config.worker_counts import job_sizes, resized
from cluster.driver.checkpoints import RunRecord
from cluster.driver.driver import Driver, RunWorkers
from cluster.driver.metrics_export import RunExporter
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.scorer import Scorer
from cluster.driver.stopping import StopRequestedError, unless_stopped
from cluster.fleet.fleet import FleetFailedError, Reports
from cluster.fleet.run_fleets import RunFleets, start_fleets
from cluster.fleet.scaling import PAUSED, FleetScaler
from cluster.learner.rank_failures import RankFailure, RepeatedFailures
from cluster.learner.task_queue import LearnerTaskQueue
from cluster.resources.availability import most_free, nodes
from cluster.resources.placement import reserved_cpus
from cluster.run_state.data_digests import (
    changed_data,
    data_digests,
    read_digests,
    refuse_changed_data,
)
from cluster.run_state.lifecycle import num_iterations
from cluster.run_state.manifest import RunTakenOverError, load_manifest
from cluster.run_state.status import STARTING, Progress, Status
from cluster.telemetry.log_labels import label_logs
from cluster.telemetry.trackers import Trackers

logger = logging.getLogger(__name__)
CONCURRENT_CALLS = 1000
EVENTS_SHOWN = 20
"""Newest events in a status: more than happen between two requests of it."""
WORKERS_SHOWN = 4
"""Workers named in the phase of a start."""
NOTICE_S = 60.0
"""Time without learner ranks after which the free resources are told."""
EXPORT_EVERY_S = 2.0
LINGER_S = 60.0
"""The actor of a run that is over exits when no status was requested for this long. Processes that
follow a run request its status more often."""


def _import_and_load(config: RunConfig, run_dir: Path) -> tuple[type, Data, ComparisonData | None]:
    """Import what needs torch, and load the data, while the workers are starting.

    These imports are not at the top, since every process that calls the actor imports this module.

    Returns:
        The class of the learner's host, the demonstrations, and the comparisons if there are some.

    Raises:
        InvalidInputError: if the data are not those that the run was started or resumed with.
    """
    from cluster.config.datasets import load_data  # noqa: PLC0415
    from cluster.learner.ray_train_host import RayTrainHost  # noqa: PLC0415

    data = load_data(config)
    refuse_changed_data(run_dir, changed_data(read_digests(run_dir), data_digests(config, data)))
    return RayTrainHost, *data


class DriverActor:
    """The actor that runs a Driver. Its methods are the run's remote interface."""

    def __init__(self, config_json: str, run_dir: str) -> None:
        """Start or resume the run; status reports an error that occurs later."""
        self._config = RunConfig.model_validate_json(config_json)
        self._run_dir = Path(run_dir)
        label_logs(self._config.name, DRIVER)
        self._fleets: RunFleets | None = None
        self._driver: Driver | None = None
        self._scaler: FleetScaler | None = None
        self._error: str | None = None
        self._stop = asyncio.Event()
        self._learner_failures = RepeatedFailures()
        self._no_ranks_since, self._are_ranks_missed = time.monotonic(), False
        self._status_requested_at = time.monotonic()
        self._last_step: Mapping[str, float] = {}
        self._exporter = RunExporter(self._config.name)
        self._loop = asyncio.get_event_loop()
        self._trackers = Trackers(self._event_of_thread)
        manifest = load_manifest(self._run_dir, self._config.name)
        self._task_queue = LearnerTaskQueue(manifest.attempt, self._config.placement.timeout_s)
        self._record = RunRecord(self._run_dir, manifest)
        self._progress = Progress(
            phase="loading the data",
            phase_began=time.monotonic(),
            iteration=manifest.iteration,
            num_iterations=num_iterations(self._config, manifest),
        )
        self._running = asyncio.get_event_loop().create_task(self._run())
        self._watching = asyncio.get_event_loop().create_task(self._watch())

    def __repr__(self) -> str:
        """Return the name that Ray's dashboard and logs show."""
        return f"driver of {self._config.name}"

    async def _run(self) -> None:
        try:
            self._record.claim()
            sized = resized(self._config, self._record.manifest.target_workers)
            self._num_at_start = job_sizes(sized)
            self._fleets = start_fleets(
                sized,
                self._run_dir,
                Reports(self._event, self._worker_started),
                self._repair_weights,
            )
            began = time.monotonic()
            loading = asyncio.to_thread(_import_and_load, self._config, self._run_dir)
            learner_host, data, comparisons = await unless_stopped(self._stop, loading)
            self._record.started("data", time.monotonic() - began)
            learner: Any = ray.remote(learner_host).options(num_cpus=0, max_restarts=-1)
            self._learner = learner.remote(
                self._config, self._run_dir, DRIVER, namespace(self._config.name)
            )
            self._driver = self._new_driver(self._fleets, data, comparisons)
            self._trackers.open(
                self._config.trackers, self._config, self._run_dir, self._record.manifest.iteration
            )
            if self._stop.is_set():  # stop was called while there was no driver yet
                self._driver.request_stop()
            await self._driver.run()
        except RunTakenOverError as error:
            self._end(error)
        except StopRequestedError:
            self._record.end("stopped", self._iteration)
            self._progress.enter("stopped", "")
        except Exception as error:
            logger.exception("the run failed")
            self._error = f"{type(error).__name__}: {error}"
            if self._record.manifest.ending is None:  # it failed before the driver ran
                self._record.end("failed", self._iteration, error=self._error)
        finally:
            await self._close()

    def _new_driver(
        self, fleets: RunFleets, data: Data, comparisons: ComparisonData | None
    ) -> Driver:
        folder = self._run_dir / "discriminator"
        scorer = Scorer(fleets.scorers, data, self._config.objective.level, folder)
        batches = PreferenceBatches(self._config, data, comparisons)
        workers = RunWorkers(fleets.rollout, scorer, self._task_queue, batches)
        driver = Driver(self._config, data, workers, self._record)
        driver.on_step, driver.on_metric = self._end_step, self._log_metric
        self._scaler = FleetScaler(
            fleets.all(),
            scorer.share_weights,
            self._config.autoscale,
            self._note_sizes,
            self._record.manifest.target_workers,
        )
        return driver

    async def _close(self) -> None:
        self._scaler = None  # a run that is over is not paused
        await self._task_queue.close()
        fleets = self._fleets.all() if self._fleets else []
        closing = [fleet.close() for fleet in fleets]
        await asyncio.gather(*closing, asyncio.to_thread(self._trackers.close))

    async def _watch(self) -> None:
        """Export the status; stop the run when its lease ends; exit once the run is over.

        A job process that follows the run ends this actor itself, unless it was killed.
        """
        lease_s = self._config.placement.lease_s
        while not self._running.done() or time.monotonic() - self._status_requested_at < LINGER_S:
            await asyncio.sleep(EXPORT_EVERY_S)
            self._export_status()
            self._report_missing_ranks()
            silence_s = time.monotonic() - self._status_requested_at
            if lease_s is not None and silence_s > lease_s and not self._stop.is_set():
                self._event(
                    f"the run stops: its status was not requested for {silence_s:.0f} s, more than "
                    f"placement.lease_s = {lease_s:g}"
                )
                await self.stop()
        ray.kill(ray.get_actor(DRIVER, namespace=namespace(self._config.name)))

    @property
    def _iteration(self) -> int:
        return (self._driver.progress if self._driver else self._progress).iteration

    def _export_status(self) -> None:
        if self._driver and self._fleets:
            progress = self._driver.progress
            self._exporter.status(
                step=(progress.iteration, progress.num_iterations),
                fleets=self._fleets.all(),
                prompts=self._driver.draw_counts(),
                num_events=len(self._record.manifest.events),
                is_paused=self._scaler is not None and self._scaler.is_paused,
            )

    def _end(self, error: RunTakenOverError) -> None:
        """End this process, since another driver has claimed the run meanwhile."""
        logger.error("%s", error)
        os._exit(1)

    def _event(self, what: str, **changes: object) -> None:
        logger.warning(what, extra={"step": self._iteration})
        try:
            self._record.event(what, **changes)
        except RunTakenOverError as error:
            self._end(error)

    def _event_of_thread(self, what: str) -> None:
        self._loop.call_soon_threadsafe(self._event, what)

    def _worker_started(self, name: str, seconds: float) -> None:
        kind, _, number = name.rpartition("-")
        if int(number) >= self._num_at_start[kind]:  # a replacement, or the fleet has grown
            self._event(f"{name} started in {seconds:.1f} s")
            return
        try:
            self._record.started(kind, seconds)
        except RunTakenOverError as error:
            self._end(error)

    def _report_missing_ranks(self) -> None:
        """Tell once that no learner rank has started for long, and once that they have."""
        if self._driver is None or self._task_queue.has_ranks or self._running.done():
            if self._are_ranks_missed:
                self._event("the learner ranks have started")
            self._no_ranks_since, self._are_ranks_missed = time.monotonic(), False
            return
        silence_s = time.monotonic() - self._no_ranks_since
        if self._are_ranks_missed or silence_s < NOTICE_S:
            return
        self._are_ranks_missed = True
        learner, placement = self._config.learner, self._config.placement
        cpus = reserved_cpus(learner.cpus_per_rank, shares_cpus=placement.phases_share_cpus)
        wanted = {"CPU": cpus, "GPU": learner.gpus_per_rank}
        labels = (placement.node_labels.get("learner") or {}).items()
        allowed = [node for node in nodes() if labels <= node.labels.items()]
        each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        self._event(
            f"no learner rank has started for {silence_s:.0f} s; each of {learner.num_ranks} needs "
            f"{each}, and free on one node are at most {most_free(wanted, allowed) or 'none'}"
        )

    async def _repair_weights(self, damage: Exception) -> None:
        self._event(f"{damage}; the learner publishes them again")
        await self._task_queue.republish()

    def _note_sizes(self, what: str, requested: Mapping[str, int]) -> None:
        self._event(what, target_workers=requested)

    def _end_step(self, metrics: Mapping[str, float]) -> None:
        self._last_step = metrics
        if self._fleets and self._driver:
            self._exporter.step(metrics, self._fleets.rollout)
            self._trackers.log(self._driver.progress.iteration, metrics)
        if self._scaler and self._driver and self._driver.progress.stage == "on_policy":
            self._scaler.after_step(metrics)

    def _log_metric(self, metrics: Mapping[str, float]) -> None:
        """Give the trackers what evaluation.metric has measured; it belongs to no step."""
        if metrics and self._driver:
            self._trackers.log(self._driver.progress.iteration, metrics)

    # ---- called by the commands

    async def status(self) -> Status:
        """Return the status of the run."""
        self._status_requested_at = time.monotonic()
        fleets = self._fleets.all() if self._fleets else []
        workers = [worker for fleet in fleets for worker in fleet.status()]
        is_over = self._running.done()
        progress = self._driver.progress if self._driver else self._progress
        is_paused = self._scaler is not None and self._scaler.is_paused and not is_over
        phase = PAUSED if is_paused else progress.phase
        if progress.phase == STARTING and not is_over:
            changing = [f"{worker.name} {worker.state}" for worker in workers if worker.is_new]
            phase = ", ".join([phase, *changing[:WORKERS_SHOWN]])
        if self._stop.is_set() and not is_over:
            phase = f"stopping: {phase}"
        manifest = self._record.manifest
        return Status(
            progress.stage,
            phase,
            time.monotonic() - progress.phase_began,
            progress.iteration,
            progress.num_iterations,
            workers,
            is_over,
            self._error,
            self._last_step,
            [f"{event.time_s:.0f} s: {event.what}" for event in manifest.events[-EVENTS_SHOWN:]],
            len(manifest.events),
            manifest.start_s,
        )

    async def stop(self) -> None:
        """Finish the current step, write a checkpoint, and end the run; see Driver.request_stop."""
        self._stop.set()
        if self._scaler:
            self._scaler.end_pause()
        if self._driver:
            self._driver.request_stop()

    async def scale(self, target_sizes: dict[str, int]) -> list[str]:
        """Give fleets these target sizes, now and after a restart; return a sentence for each.

        0 rollout workers pause the run.

        Args:
            target_sizes: by kind; the caller checks that the run has these kinds.

        Raises:
            InvalidInputError: if the run is still starting, is ending, or if a fleet has failed.
        """
        if self._scaler is None:
            raise InvalidInputError("the run is still loading its data; try again in a moment")
        if self._stop.is_set() or self._running.done():
            raise InvalidInputError("the run is ending, so it cannot be scaled")
        try:
            return await self._scaler.scale(target_sizes)
        except FleetFailedError as error:
            raise InvalidInputError(f"the run cannot be scaled: {error}") from error

    # ---- called by the learner's ranks and their host

    async def learner_start(self, rank: int, world_size: int) -> LearnerStart:
        """Add a rank to the current worker group."""
        return await self._task_queue.start(rank, world_size)

    async def learner_task(
        self, attempt: int, rank: int, world_size: int, index: int
    ) -> LearnerTask | None:
        """Return a rank's share of a task, or None if there is no such task yet."""
        return await self._task_queue.next_task(attempt, rank, world_size, index)

    async def learner_finished(
        self, attempt: int, index: int, metrics: Mapping[str, float]
    ) -> None:
        """Set the metrics of a task that is done."""
        await self._task_queue.finished(attempt, index, metrics)

    async def published(self, published: Published) -> None:
        """Announce new weights to the rollout workers."""
        if self._driver:
            self._driver.published(published)

    async def learner_progress(self) -> int:
        """Return the number of optimizer steps taken so far, over all worker groups."""
        return self._task_queue.num_steps

    async def learner_lost(self, failure: RankFailure, pause_s: float) -> bool:
        """Note that the worker group was lost; return whether it is to be restarted.

        An error that repeats word for word, without a new step between, ends the run.
        """
        if self._learner_failures.is_repeated(failure, self._iteration):
            await self._task_queue.fail(
                f"the learner failed twice with the same error: {failure.reason}"
            )
            return False
        self._task_queue.lost(failure.reason)
        self._event(f"the learner was lost ({failure.reason}); it restarts in {pause_s:.1f} s")
        return True

    async def learner_failed(self, reason: str) -> None:
        """End the run with this error of the learner."""
        await self._task_queue.fail(reason)
