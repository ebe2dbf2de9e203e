"""The driver as an actor: builds fleets and learner around a Driver, and answers for it.

It is named and detached and restarts for ever: whoever knows the run's name can attach to it, and
after a death it takes the run up again from its manifest. Fleets and learner are its children and
die with it, so nothing is left behind.
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
from cluster.config.worker_counts import resized
from cluster.driver.driver import Driver, Workforce
from cluster.driver.metrics_export import RunExporter
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.scorer import Scorer
from cluster.fleet.fleet import FleetFailedError
from cluster.fleet.run_fleets import RunFleets, start_fleets
from cluster.fleet.scaling import PAUSED, FleetScaler
from cluster.learner.task_queue import LearnerTaskQueue
from cluster.run_state.manifest import RunTakenOverError, load_manifest
from cluster.run_state.status import Status
from cluster.telemetry.log_labels import label_logs
from cluster.telemetry.trackers import Trackers

logger = logging.getLogger(__name__)

CONCURRENT_CALLS = 1000
EVENTS_SHOWN = 5
WATCH_S = 2.0
UNWATCHED_S = 60.0
"""Whoever follows a run asks far more often; a driver at its end waits so long to be asked."""


def _heavy(config: RunConfig) -> tuple[type, Data, ComparisonData | None]:
    """Import torch and its like, and read the data: seconds in which the workers start already.

    Whoever asks an actor imports its module too, so this is not imported with it.

    Returns:
        The learner's class, and the data: demonstrations and preferences.
    """
    from cluster.config.datasets import load_comparisons, load_data  # noqa: PLC0415
    from cluster.learner.ray_train_host import RayTrainHost  # noqa: PLC0415

    return RayTrainHost, load_data(config), load_comparisons(config)


class DriverActor:
    """The actor around a Driver. Its methods are the run's remote interface."""

    def __init__(self, config_json: str, run_dir: str) -> None:
        """Take the run up at once; what goes wrong later is told by status."""
        self._config = RunConfig.model_validate_json(config_json)
        self._run_dir = Path(run_dir)
        label_logs(self._config.name, DRIVER)
        self._fleets: RunFleets | None = None
        self._driver: Driver | None = None
        self._scaler: FleetScaler | None = None
        self._error: str | None = None
        self._is_stopping = False
        self._asked_at = time.monotonic()
        self._last_step: Mapping[str, float] = {}
        self._exporter = RunExporter(self._config.name)
        self._loop = asyncio.get_event_loop()
        self._trackers = Trackers(self._event_of_thread)
        manifest = load_manifest(self._run_dir, self._config.name)
        self._task_queue = LearnerTaskQueue(manifest.attempt, self._config.placement.timeout_s)
        self._manifest = manifest
        self._running = asyncio.get_event_loop().create_task(self._run())
        self._watching = asyncio.get_event_loop().create_task(self._watch())

    def __repr__(self) -> str:
        """Return the name that the dashboard and the logs show."""
        return f"driver of {self._config.name}"

    async def _run(self) -> None:
        try:
            requested = self._manifest.target_workers
            self._fleets = start_fleets(
                resized(self._config, requested), self._run_dir, self._event, self._repair_weights
            )
            learner_host, data, comparisons = await asyncio.to_thread(_heavy, self._config)
            learner: Any = ray.remote(learner_host).options(num_cpus=0, max_restarts=-1)
            self._learner = learner.remote(
                self._config, self._run_dir, DRIVER, namespace(self._config.name)
            )
            scorer = Scorer(
                self._fleets.scorers,
                data,
                self._config.objective.level,
                self._run_dir / "discriminator",
            )
            batches = PreferenceBatches(self._config, data, comparisons)
            workforce = Workforce(self._fleets.rollout, scorer, self._task_queue, batches)
            self._driver = Driver(self._config, self._run_dir, data, workforce, self._manifest)
            self._scaler = FleetScaler(
                self._fleets.all(),
                scorer.share_weights,
                self._config.autoscale,
                self._note_sizes,
                requested,
            )
            self._driver.on_step = self._end_step
            self._trackers.open(
                self._config.trackers, self._config, self._run_dir, self._manifest.iteration
            )
            if self._is_stopping:  # asked for while there was no driver
                await self.stop()
            await self._driver.run()
        except RunTakenOverError as error:
            self._end(error)
        except Exception as error:
            logger.exception("the run failed")
            self._error = f"{type(error).__name__}: {error}"
        finally:
            await self._dismiss()

    async def _dismiss(self) -> None:
        self._scaler = None  # a run that ends is not paused
        await self._task_queue.close()
        fleets = self._fleets.all() if self._fleets else []
        closing = [fleet.close() for fleet in fleets]
        await asyncio.gather(*closing, asyncio.to_thread(self._trackers.close))

    async def _watch(self) -> None:
        """Export where the run stands; stop it if its lease runs out; leave once it is over.

        A job process that follows the run ends this actor itself; one that was killed cannot.
        """
        lease_s = self._config.placement.lease_s
        while not self._running.done() or time.monotonic() - self._asked_at < UNWATCHED_S:
            await asyncio.sleep(WATCH_S)
            self._export_standing()
            silence_s = time.monotonic() - self._asked_at
            if lease_s is not None and silence_s > lease_s and not self._is_stopping:
                self._event(f"nobody has asked after the run for {silence_s:.0f} s; it stops")
                await self.stop()
        ray.kill(ray.get_actor(DRIVER, namespace=namespace(self._config.name)))

    def _export_standing(self) -> None:
        if self._driver and self._fleets:
            progress = self._driver.progress
            self._exporter.standing(
                step=(progress.iteration, progress.num_iterations),
                fleets=self._fleets.all(),
                prompts=self._driver.prompts(),
                num_events=len(self._driver.record.manifest.events),
                is_paused=self._scaler is not None and self._scaler.is_paused,
            )

    def _end(self, error: RunTakenOverError) -> None:
        """End this process: it was thought dead, and has come back too late."""
        logger.error("%s", error)
        os._exit(1)

    def _event(self, what: str, **changes: object) -> None:
        step = self._driver.progress.iteration if self._driver else 0
        logger.warning(what, extra={"step": step})
        try:
            if self._driver:
                self._driver.event(what, **changes)
        except RunTakenOverError as error:
            self._end(error)

    def _event_of_thread(self, what: str) -> None:
        self._loop.call_soon_threadsafe(self._event, what)

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

    # ---- for people

    async def status(self) -> Status:
        """Say what the run is doing."""
        self._asked_at = time.monotonic()
        fleets = self._fleets.all() if self._fleets else []
        workers = [worker for fleet in fleets for worker in fleet.status()]
        is_over = self._running.done()
        if self._driver is None:
            phase = "reading the data"
            return Status("starting", phase, 0.0, 0, 0, workers, is_over, self._error, {}, ())
        progress = self._driver.progress
        is_paused = self._scaler is not None and self._scaler.is_paused and not is_over
        return Status(
            progress.stage,
            PAUSED if is_paused else progress.phase,
            time.monotonic() - progress.phase_began,
            progress.iteration,
            progress.num_iterations,
            workers,
            is_over,
            self._error,
            self._last_step,
            [
                f"{event.time_s:.0f} s: {event.what}"
                for event in self._driver.record.manifest.events[-EVENTS_SHOWN:]
            ],
        )

    async def stop(self) -> None:
        """Finish the step under way, write a checkpoint, and end."""
        self._is_stopping = True
        if self._driver and self._scaler:
            self._driver.request_stop()
            self._scaler.resume_to_stop()

    async def scale(self, wanted: dict[str, int]) -> list[str]:
        """Give fleets these sizes, now and after a restart; 0 rollout workers pause the run.

        Args:
            wanted: workers by kind, checked against the kinds that the run has.

        Returns:
            A sentence for each kind.

        Raises:
            InvalidInputError: if the run is not there yet, is ending, or lost a fleet.
        """
        if self._scaler is None:
            raise InvalidInputError("the run still reads its data; try again in a moment")
        if self._is_stopping or self._running.done():
            raise InvalidInputError("the run is ending, so it cannot be scaled")
        try:
            return await self._scaler.scale(wanted)
        except FleetFailedError as error:
            raise InvalidInputError(f"it cannot be scaled, since {error}") from error

    # ---- for the learner's ranks and their host

    async def learner_start(self, rank: int, world_size: int) -> LearnerStart:
        """Take a rank into the current worker group."""
        return await self._task_queue.start(rank, world_size)

    async def learner_task(
        self, attempt: int, rank: int, world_size: int, index: int
    ) -> LearnerTask | None:
        """Give a rank its share of a task, or None if there is none yet."""
        return await self._task_queue.next_task(attempt, rank, world_size, index)

    async def learner_finished(
        self, attempt: int, index: int, metrics: Mapping[str, float]
    ) -> None:
        """Take note that a task is done."""
        await self._task_queue.finished(attempt, index, metrics)

    async def published(self, published: Published) -> None:
        """Take note of new weights."""
        if self._driver:
            self._driver.published(published)

    async def learner_progress(self) -> int:
        """Return how many optimizer steps the learner has taken, over all its worker groups."""
        return self._task_queue.num_steps

    async def learner_failed(self, reason: str) -> None:
        """Take note that the learner was given up."""
        await self._task_queue.fail(reason)
