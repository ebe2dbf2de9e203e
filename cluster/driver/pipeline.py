"""The on-policy stage as two coroutines: one samples and scores steps, the other trains on them.

The prompt ledger bounds how far the first runs ahead of the second. With max_staleness_steps = 0 no
prompt of a step is handed out before the step before is trained on, so the two alternate: strictly
on-policy training is the same code with a bound of 0.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import numpy as np

from actors.messages import OnPolicyStep, OptimizerStep, PreferenceStep
from alignment.learning_rate import Changes, scheduled_rate
from alignment.mdp.trajectories import EMPTY, group_starts, no_scores
from cluster.config.run_config import RunConfig
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.prompt_ledger import DrawState
from cluster.driver.rollout_metrics import rollout_metrics
from cluster.driver.sampler import SampledStep, Sampler
from cluster.driver.scorer import Scorer, Scores
from cluster.driver.stopping import unless_stopped
from cluster.fleet.failure_policy import reaches_power_of_ten
from cluster.learner.task_queue import LearnerTaskQueue

EndStep = Callable[[dict[str, float]], Awaitable[bool]]
"""Called with the metrics of each step; returns False to end the stage early."""


class ScoredStep(NamedTuple):
    """A step that is ready to be trained on."""

    sampled: SampledStep
    scores: Scores


class OnPolicyPipeline:
    """Runs the discriminator's warm-up and the policy steps of the on-policy stage.

    workers = (sampler, scorer, queue)
    pipeline = OnPolicyPipeline(config, workers, batches, show_phase, on_event, stop)
    metrics = await pipeline.warm_up_step(0)
    await pipeline.steps(first_version=60, first=0, count=100, end_step=end_step)
    pipeline.close()
    """

    def __init__(
        self,
        config: RunConfig,
        workers: tuple[Sampler, Scorer, LearnerTaskQueue],
        batches: PreferenceBatches,
        show_phase: Callable[[str], None],
        on_event: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        """Bind the workers of a run.

        Args:
            stop: once it is set, a step that has changed no weights yet is abandoned.
        """
        self._objective, self._batches = config.objective, batches
        self._warm_up_epochs = config.discriminator.warm_up_epochs
        self._has_rollouts = config.has_rollouts
        self._has_policy_gradient = config.has_policy_gradient
        self._ranks_rollouts = config.ranks_rollouts
        self._sampler, self._scorer, self._task_queue = workers
        self._show_phase, self._on_event = show_phase, on_event
        self._stop, self._steps_done, self._num_unknown = stop, 0, 0
        self.measured: dict[str, float] = {}
        """Metrics of a step that failed, as far as they were measured."""
        self._step_changes: Changes = ()
        self._may_update = asyncio.Event()
        self._may_update.set()
        self._preparation_phase = "sampling"
        self._producer: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Cancel the preparation of the next steps."""
        if self._producer:
            self._producer.cancel()
        self._sampler.close()

    def _finish_step(self, sampled: SampledStep) -> None:
        self._sampler.mark_trained(sampled.draws)
        self._steps_done += 1

    def _show_preparation(self, phase: str) -> None:
        """Show the phase of the next step's preparation, now and whenever the learner is idle."""
        self._preparation_phase = phase
        self._show_phase(phase)

    async def _sample(self, step: int) -> tuple[SampledStep, dict[str, float]]:
        self._show_preparation("sampling")
        self._sampler.advance(self._steps_done)
        began = time.monotonic()
        sampled = await unless_stopped(self._stop, self._sampler.step())
        waited_s = time.monotonic() - max(began, self._sampler.advanced_at)
        return sampled, rollout_metrics(sampled, waited_s, step)

    async def warm_up_step(self, index: int) -> dict[str, float]:
        """Sample one step and train only the discriminator on it: update number index."""
        sampled, metrics = await self._sample(0)
        metrics.pop("rollout/staleness")
        self._show_phase("training the discriminator")
        ranked = self._batches.for_discriminator(index)
        self.measured = metrics
        metrics |= await self._scorer.update(
            sampled.trajectories, ranked, num_epochs=self._warm_up_epochs
        )
        self.measured = {}
        self._finish_step(sampled)
        return metrics

    async def _prepare(
        self, first: int, count: int, update: int, out: "asyncio.Queue[ScoredStep | Exception]"
    ) -> None:
        metrics: dict[str, float] = {}
        try:
            for step in range(first, first + count):
                metrics = {}
                ranked = self._batches.for_discriminator(update + step - first)
                sampled, metrics = await self._sample(step)
                # A checkpoint must not hold a discriminator of the next step.
                await self._may_update.wait()
                # Scored first: a discriminator that has trained on responses has memorized part of
                # what sets them apart, and would reward that.
                self._show_preparation("scoring")
                scoring = self._scorer.score(sampled.trajectories)
                scores = await unless_stopped(self._stop, scoring)
                metrics |= scores.metrics
                self._show_preparation("training the discriminator")
                metrics |= await self._scorer.update(sampled.trajectories, ranked)
                scores = scores._replace(metrics=metrics)
                await out.put(self._drop_failures(ScoredStep(sampled, scores)))
        except Exception as error:  # raised by steps()
            self.measured = metrics
            await out.put(error)

    def _note_unknown_weights(self, metrics: Mapping[str, float]) -> None:
        """Make it an event if logits were corrected by the sampler's log-probabilities."""
        fraction = metrics.get("learner/staleness_unknown_fraction", 0.0)
        before, self._num_unknown = self._num_unknown, self._num_unknown + (fraction > 0.0)
        if reaches_power_of_ten(before, self._num_unknown):
            self._on_event(
                f"in {self._num_unknown} steps so far the learner lacked the weights that sampled "
                f"some tokens ({fraction:.1%} of the newest step): their logits are corrected by "
                "the sampler's log-probabilities, which adds rounding noise to the reward"
            )

    def _drop_failures(self, scored: ScoredStep) -> ScoredStep:
        """Drop the prompts without a reward; the discriminator has trained on all of them."""
        (draws, batch, sampling_s), scores = scored
        if not scores.failures:
            return scored
        dropped = [draw for draw in draws if draw.prompt_id in scores.failures]
        ledger = self._sampler.ledger
        before = ledger.counts()[DrawState.DROPPED.value]
        ledger.move(dropped, DrawState.DROPPED, "its reward failed")
        count = before + len(dropped)
        if reaches_power_of_ten(before, count):
            last = scores.failures[dropped[-1].prompt_id]
            self._on_event(
                f"prompts dropped because their reward failed, so far: {count}; last error: {last}"
            )
        rows = np.flatnonzero(~np.isin(batch.prompt_ids, list(scores.failures)))
        kept = [draw for draw in draws if draw.prompt_id not in scores.failures]
        sampled = SampledStep(kept, batch.select(rows), sampling_s)
        return ScoredStep(sampled, scores.select(batch, rows))

    async def steps(
        self,
        *,
        first_version: int,
        first: int,
        count: int,
        num_warm_ups: int,
        end_step: EndStep,
        step_changes: Changes = (),
    ) -> None:
        """Take count policy steps, or fewer if end_step returns False.

        Args:
            first: steps of this stage done so far; the learning rate depends on it.
            step_changes: earlier numbers of steps of this stage.

        Raises:
            WorkerGroupRestartedError: if the learner's worker group was replaced.
        """
        self._step_changes = step_changes
        queue: asyncio.Queue[ScoredStep | Exception] = asyncio.Queue(maxsize=1)
        if self._has_rollouts:
            self._producer = asyncio.ensure_future(
                self._prepare(first_version, count, num_warm_ups + first, queue)
            )
        for index in range(count):
            scored = await queue.get() if self._has_rollouts else None
            if isinstance(scored, Exception):
                raise scored
            metrics = await self._learn(scored, first_version + index, first + index)
            if scored:
                self._finish_step(scored.sampled)
                self._sampler.advance(self._steps_done)
            self._may_update.clear()
            if not await end_step(metrics):
                return
            self._may_update.set()
            self._show_phase(self._preparation_phase)

    async def _learn(self, scored: ScoredStep | None, version: int, index: int) -> dict[str, float]:
        """Take one policy step: on a scored step, on the auxiliary batch, or on both."""
        rollouts = scored.sampled.trajectories if scored else EMPTY
        rewards = scored.scores.rewards if scored else None
        auxiliary = self._batches.auxiliary_batch(index, rollouts, rewards)
        stage = self._objective
        learning_rate = scheduled_rate(
            stage.learning_rate_schedule,
            stage.learning_rate,
            index,
            stage.steps,
            self._step_changes,
        )
        task: OptimizerStep
        if scored and self._has_policy_gradient:
            scores = scored.scores
            task = OnPolicyStep(
                step=version,
                learning_rate=learning_rate,
                trajectories=rollouts,
                discriminator_logits=scores.discriminator_logits,
                rewards=no_scores(rollouts) if self._ranks_rollouts else scores.rewards,
                num_sequences=len(rollouts),
                num_action_tokens=int(rollouts.response_lengths.sum()),
                teacher_states=scores.teacher_states,
                auxiliary=auxiliary,
                begins_stage=index == 0,
            )
        else:
            assert auxiliary
            task = PreferenceStep(version, learning_rate, auxiliary, begins_stage=index == 0)
        self._show_phase("learning")
        began = time.monotonic()
        sampled = scored.scores.metrics if scored else {}
        try:
            metrics = await self._task_queue.submit(task)
        except Exception:
            self.measured = sampled
            raise
        learning_s = time.monotonic() - began
        self._note_unknown_weights(metrics)
        if auxiliary and self._ranks_rollouts:
            num_prompts = len(group_starts(rollouts))
            num_decided = len(auxiliary.comparisons)
            sampled["rollout/undecided_fraction"] = 1.0 - num_decided / max(num_prompts, 1)
        return sampled | metrics | {"time/learning_s": learning_s}
