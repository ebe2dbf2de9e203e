"""The training loop of a run, from its manifest on. Imports neither Ray nor torch.

A run has three stages. In sft the policy is trained on demonstrations; in discriminator_warm_up
only the discriminator is trained, on samples of the policy; in on_policy every step samples, scores
the samples, trains the discriminator on them, and updates the policy. An iteration is one step of
any stage, so iterations count the discriminator's warm-up as well as optimizer steps.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from actors.errors import DiscriminatorNotReadyError, TrainingDivergedError
from actors.messages import SKIPPED, Evaluate, Publish, Published, SaveCheckpoint, SftStep
from alignment.data.dataset_protocols import Data
from alignment.learning_rate import cosine_rate
from cluster.config.run_config import RunConfig
from cluster.driver.best_policy import BestPolicy
from cluster.driver.checkpoints import RunRecord
from cluster.driver.evaluation import Evaluator
from cluster.driver.metric_evaluation import MetricEvaluation
from cluster.driver.pipeline import OnPolicyPipeline
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.prompt_ledger import DrawTotals
from cluster.driver.rollout_metrics import with_step_time
from cluster.driver.sampler import Draws, Sampler
from cluster.driver.scorer import Scorer
from cluster.driver.stopping import StopRequestedError, unless_a_fleet_fails, unless_stopped
from cluster.driver.warm_up import WarmUp
from cluster.fleet.fleet import Fleet
from cluster.learner.task_queue import LearnerTaskQueue, WorkerGroupRestartedError
from cluster.run_state.manifest import Position, RunTakenOverError
from cluster.run_state.status import STARTING, Progress, Stage

BEST_METRIC = "eval/best_metric"
MAX_SKIPPED_STEPS = 3
"""Steps in a row that may leave the weights as they are before the run ends."""


class RunWorkers(NamedTuple):
    """The workers that the driver directs, and the preference batches that it trains them on."""

    rollout: Fleet
    scorer: Scorer
    task_queue: LearnerTaskQueue
    batches: PreferenceBatches


class Driver:
    """Owns the run: its position, its manifest, and what the workers do next."""

    def __init__(
        self, config: RunConfig, data: Data, workers: RunWorkers, record: RunRecord
    ) -> None:
        """Load the position of the run from its record."""
        self._config, self._data = config, data
        self._rollout, self._scorer, self._task_queue, self._batches = workers
        self.record, self._journal = record, record.journal
        self._evaluator = Evaluator(
            self._rollout, data, config.evaluation.num_prompts, config.rollout.max_sequences
        )
        self._metric = MetricEvaluation(
            config, data, self._evaluator, self._journal, self.record.event
        )
        best = config.evaluation.best
        self._best = BestPolicy(best, record) if best else None
        self._stop, self._has_started = asyncio.Event(), False
        self._num_skipped = 0
        self._measured: dict[str, float] = {}
        self.on_step: Callable[[Mapping[str, float]], None] = lambda _metrics: None
        self.on_metric: Callable[[Mapping[str, float]], None] = lambda _metrics: None
        self.progress = Progress()
        self._load_position()

    @property
    def _num_iterations(self) -> int:
        return self._warm_up.latest_end + self._config.objective.steps

    def request_stop(self) -> None:
        """Finish the current step, write a checkpoint, and return from run.

        What has changed no weights is abandoned: the start, the sampling and scoring of a step, the
        responses to held-out prompts.
        """
        self._stop.set()

    def event(self, what: str, **changes: object) -> None:
        """Add an event to the manifest, and change fields of the manifest with it."""
        self.record.event(what, **changes)

    def draw_counts(self) -> dict[str, int]:
        """Return the number of draws of the on-policy stage in each state."""
        return self._sampler.ledger.counts() if self._sampler else {}

    def published(self, published: Published) -> None:
        """Announce these weights to the rollout workers."""
        self._rollout.announce(published)

    async def run(self) -> bool:
        """Run to the end, or until a stop is requested; return whether the run is finished.

        When the learner restarts, the run returns to the newest checkpoint. A checkpoint of the
        last step is written in either case.
        """
        fleets = [self._rollout, *self._scorer.fleets()]
        try:
            is_finished = await unless_a_fleet_fails(fleets, self._run_to_end())
        except RunTakenOverError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self.record.end("failed", self._iteration, error=text, metrics=self._measured)
            raise
        how: Literal["finished", "stopped"] = "finished" if is_finished else "stopped"
        self.record.end(how, self._iteration)
        self.progress.enter(how, "")
        return is_finished

    async def _run_to_end(self) -> bool:
        await self._restore()
        if self.record.folder:
            self.event(f"the run resumed at step {self._step}")
        while True:
            try:
                return await self._run()
            except WorkerGroupRestartedError as restart:
                lost = f"the learner was restarted at step {self._step} ({restart})"
                await self._restore()
                self.event(f"{lost}; the run continues from step {self._step}")

    def _load_position(self) -> None:
        saved, folder = self.record.manifest, self.record.folder
        self._step, self._iteration = saved.step, saved.iteration
        begin = self._config.sft.steps
        end = saved.warm_up_end if self._config.has_discriminator else begin
        self._warm_up = WarmUp(self._config.discriminator, begin, saved.warm_up_aucs, end)
        self.progress.iteration = self._iteration
        self.progress.num_iterations = self._num_iterations
        self._draws = Draws(self._data.row_of_draw, saved.num_draws, saved.unfinished_draws)
        self._draw_totals = DrawTotals(saved.trained_draws, saved.dropped_draws)
        self._scorer.scales = saved.reward_scales
        self._sampler: Sampler | None = None
        self._task_queue.set_checkpoint(str(folder) if folder else None)

    async def _restore(self) -> None:
        ends = {"before": 0, "after_sft": self._config.sft.steps}
        folder = await self.record.restore(ends | {"after": self._num_iterations})
        self._load_position()
        discriminator = self._scorer.discriminator
        if discriminator and folder and (folder / "discriminator").exists():
            discriminator.announce((self._step, self._task_queue.attempt, folder / "discriminator"))

    async def _run(self) -> bool:
        try:
            await self._start()
            await self._sample_phase("before")
            await self._run_sft()
            if not self._stop.is_set():
                await self._sample_phase("after_sft")
                await self._run_on_policy()
        except StopRequestedError:
            pass
        has_steps = self._iteration > 0 or not self._stop.is_set()
        while has_steps and not self.record.is_at(self._iteration):
            await self._checkpoint()
        try:
            await self._sample_phase("after")
        except StopRequestedError:
            return False
        self.record.save(is_finished=True)
        return True

    async def _start(self) -> None:
        """Wait for the learner and its first publication."""
        began = time.monotonic()
        self.progress.enter("starting", STARTING)
        group = self._task_queue.wait_for_worker_group()
        self.record.save(attempt=await unless_stopped(self._stop, group))
        started = time.monotonic()
        self.progress.show("loading the model and publishing the first weights")
        await unless_stopped(self._stop, self._task_queue.submit(Publish()))
        if not self._has_started:  # later starts are restarts of the learner, which are events
            self.record.started("learner processes", started - began)
            self.record.started("learner model and first weights", time.monotonic() - started)
        self._has_started = True

    async def _run_sft(self) -> None:
        stage = self._config.sft
        if self._iteration < stage.steps:
            self.progress.enter("sft", "learning")
        while self._iteration < stage.steps and not self._stop.is_set():
            self.progress.show("learning")
            self._iteration_began = time.monotonic()
            draws = self._draws.take(stage.prompts_per_step)
            rows = np.asarray([draw.prompt_id for draw in draws], np.int64)
            is_last = self._iteration + 1 == stage.steps
            batch = self._data.demonstrations(rows)
            task = SftStep(
                step=self._step,
                learning_rate=cosine_rate(
                    stage.learning_rate,
                    self._iteration,
                    stage.steps,
                    self.record.manifest.step_changes.get("sft.steps", ()),
                ),
                trajectories=batch,
                num_sequences=len(batch),
                num_action_tokens=int(batch.response_lengths.sum()),
                publish=is_last,
            )
            metrics = await self._task_queue.submit(task)
            metrics["time/learning_s"] = time.monotonic() - self._iteration_began
            self._step += 1
            self._draw_totals = self._draw_totals._replace(
                trained=self._draw_totals.trained + len(draws)
            )
            await self._end_iteration("sft", metrics, ends_stage=is_last)

    async def _run_on_policy(self) -> None:
        if self._iteration >= self._num_iterations:
            return
        self._sampler = self._new_sampler()
        if self.record.folder is None:  # the checkpoint that a discriminator returns to
            await self._checkpoint()
        pipeline = OnPolicyPipeline(
            self._config,
            (self._sampler, self._scorer, self._task_queue),
            self._batches,
            self.progress.show,
            self.event,
            self._stop,
        )
        first = self._iteration
        try:
            self._iteration_began = time.monotonic()
            await self._warm_up_discriminator(pipeline)
            if self._warm_up.end is not None and not self._stop.is_set():
                self._sampler.ledger.set_num_steps(self._num_iterations - first)
                self.progress.enter("on_policy", "sampling")
                await pipeline.steps(
                    first_version=self._step,
                    first=self._iteration - self._warm_up.end,
                    count=self._num_iterations - self._iteration,
                    step_changes=self.record.manifest.step_changes.get("objective.steps", ()),
                    num_warm_ups=self._warm_up.end - self._config.sft.steps,
                    end_step=self._end_on_policy_step,
                )
        finally:
            pipeline.close()
            self._measured = pipeline.measured

    async def _warm_up_discriminator(self, pipeline: OnPolicyPipeline) -> None:
        """Train the discriminator alone until its warm-up ends or a stop is requested.

        Raises:
            DiscriminatorNotReadyError: if it is not ready then, and not_ready is stop.
        """
        warm_up = self._warm_up
        while warm_up.end is None and not self._stop.is_set():
            decision = warm_up.decision(self._iteration)
            if decision is None:
                self.progress.enter("discriminator_warm_up", "sampling")
                metrics = await pipeline.warm_up_step(self._iteration - self._config.sft.steps)
                warm_up.measure(metrics)
                await self._end_iteration("discriminator_warm_up", metrics, ends_stage=False)
                continue
            if not decision.is_ready and self._config.discriminator.not_ready == "stop":
                while not self.record.is_at(self._iteration):
                    await self._checkpoint()
                raise DiscriminatorNotReadyError(decision.sentence)
            warm_up.end = self._iteration
            self.progress.num_iterations = self._num_iterations
            self.event(decision.sentence)

    def _new_sampler(self) -> Sampler:
        return Sampler(
            *(self._rollout, self._draws, self._data, self._config.objective),
            num_steps=self._num_iterations - self._iteration,
            max_sequences=self._config.rollout.max_sequences,
            seed=self._config.seed,
        )

    async def _end_on_policy_step(self, metrics: dict[str, float]) -> bool:
        self._step += 1
        ends_stage = self._iteration + 1 == self._num_iterations
        await self._end_iteration("on_policy", metrics, ends_stage=ends_stage)
        return not self._stop.is_set()

    async def _end_iteration(
        self, stage: Stage, metrics: dict[str, float], *, ends_stage: bool
    ) -> None:
        metrics = with_step_time(metrics, time.monotonic() - self._iteration_began)
        self._iteration += 1
        self.progress.iteration = self._iteration
        if ends_stage or self._iteration % self._config.evaluation.every_steps == 0:
            self.progress.show("evaluating")
            metrics |= await self._evaluate()
            if stage == "on_policy":
                metrics |= await self._best_metric()
        self._journal.metrics(metrics, step=self._iteration, stage=stage)
        self.on_step(metrics)
        self._count_skipped(metrics)
        every = self._config.learner.checkpoint_every_steps
        if ends_stage or self._iteration % every == 0:
            await self._checkpoint()
        await self._keep_best(metrics.get(BEST_METRIC))
        self._iteration_began = time.monotonic()

    def _count_skipped(self, metrics: dict[str, float]) -> None:
        """Make a skipped step an event, and end the run at the last of several in a row."""
        reasons = [reason for name, reason in SKIPPED.items() if name in metrics]
        if not reasons:
            self._num_skipped = 0
            return
        self._num_skipped += 1
        self.event(f"step {self._iteration} was skipped: {reasons[0]}")
        if self._num_skipped == MAX_SKIPPED_STEPS:
            raise TrainingDivergedError(
                f"{MAX_SKIPPED_STEPS} steps in a row, up to step {self._iteration}, changed no "
                f"weights: in the last one {reasons[0]}; look at learner/ and the rewards in "
                "metrics.jsonl, and lower the learning rate or the rewards, or raise "
                "objective.max_mean_log_ratio if responses were rejected"
            )

    async def _evaluate(self) -> dict[str, float]:
        batch = self._evaluator.demonstrations()
        num_tokens = int(batch.response_lengths.sum())
        return await self._task_queue.submit(Evaluate(self._step, batch, num_tokens))

    async def _best_metric(self) -> dict[str, float]:
        """Measure what evaluation.best compares; a stop abandons it, as it needs many responses."""
        if self._best is None:
            return {}
        try:
            responses = await unless_stopped(self._stop, self._evaluator.responses())
        except StopRequestedError:
            return {}
        value = self._best.value(await self._metric.of(responses))
        return {} if value is None else {BEST_METRIC: value}

    async def _keep_best(self, value: float | None) -> None:
        """Keep the policy of this iteration if its metric is the best so far."""
        if self._best is None or value is None or not self._best.is_best(value):
            return
        if not self.record.is_at(self._iteration):
            await self._checkpoint()
        await self._best.keep(self._iteration, value)

    async def _sample_phase(self, phase: str) -> None:
        """Sample responses to the held-out prompts for the report, unless this phase has them.

        Raises:
            StopRequestedError: if a stop is requested; the phase is sampled when the run resumes.
        """
        if phase in self.record.manifest.phases_sampled:
            return
        if phase == "before":
            self.progress.show("evaluating")
            metrics = await unless_stopped(self._stop, self._evaluate())
            self._journal.metrics(metrics, step=0, stage="sft")
        self.progress.show("sampling responses to held-out prompts")
        responses = await unless_stopped(self._stop, self._evaluator.responses())
        self._journal.samples(phase, responses, self._data)
        stage = "on_policy" if self._iteration > self._config.sft.steps else "sft"
        measuring = self._metric.record(phase, responses, step=self._iteration, stage=stage)
        self.on_metric(await unless_stopped(self._stop, measuring))
        if phase == "after_sft" and self._best:
            await self._keep_best(self._best.value(await self._metric.of(responses)))
        if phase == "after_sft" and self._scorer.has_scales:
            sampling = self._evaluator.groups(self._config.objective.group_size)
            groups = await unless_stopped(self._stop, sampling)
            scales = await unless_stopped(self._stop, self._scorer.measure_scales(groups))
            self.record.save(reward_scales=scales)
        self.record.save(phases_sampled=[*self.record.manifest.phases_sampled, phase])

    async def _checkpoint(self) -> None:
        """Write a checkpoint. If it cannot be written, that is an event and the run continues."""
        self.progress.show("writing a checkpoint")

        async def learner_saves(folder: Path) -> None:
            await self._task_queue.submit(SaveCheckpoint(self._step, str(folder)))

        discriminator = self._scorer.discriminator
        folder = await self.record.checkpoint(self._position(), learner_saves, discriminator)
        if folder:
            self._task_queue.set_checkpoint(str(folder))
            if self._iteration == self._config.sft.steps > 0:
                self.record.save(sft_checkpoint=folder.name)
        if folder and discriminator:
            discriminator.announce_from_lead(
                (self._step, self._task_queue.attempt, folder / "discriminator")
            )

    def _position(self) -> Position:
        """Return the position of the run, which accounts for every draw."""
        totals, unfinished = self._draw_totals, self._draws.unfinished()
        if self._sampler:
            totals = totals.plus(self._sampler.ledger)
            unfinished += self._sampler.ledger.unfinished()
        return Position(
            step=self._step,
            iteration=self._iteration,
            num_draws=self._draws.next_number,
            unfinished_draws=sorted(unfinished),
            trained_draws=totals.trained,
            dropped_draws=dict(totals.dropped),
            warm_up_aucs=self._warm_up.aucs,
            warm_up_end=self._warm_up.end if self._config.has_discriminator else None,
            elapsed_s=self._journal.elapsed_s,
        )
