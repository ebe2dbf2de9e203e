"""Stage 2 as a pipeline of two coroutines: one samples and scores steps, the other learns them.

How far the first may run ahead is the ledger's to say. With max_staleness_steps = 0 nothing leaves
before the step before is learned, so the two take turns: the strictly on-policy loop is not another
loop, only a shorter leash.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np

from actors.messages import OnPolicyStep, OptimizerStep, PreferenceStep
from alignment.learning_rate import constant_rate
from alignment.mdp.trajectories import EMPTY, group_starts, no_scores
from cluster.config.run_config import RunConfig
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.prompt_ledger import DrawState
from cluster.driver.rollout_metrics import rollout_metrics
from cluster.driver.sampler import SampledStep, Sampler
from cluster.driver.scorer import Scorer, Scores
from cluster.fleet.failure_policy import reaches_power_of_ten
from cluster.learner.task_queue import LearnerTaskQueue

EndStep = Callable[[dict[str, float]], Awaitable[bool]]
"""Is told a step's metrics; False ends the stage early."""


class ScoredStep(NamedTuple):
    """A step that waits to be learned."""

    sampled: SampledStep
    scores: Scores


class Imitation:
    """Runs the discriminator's warm-up and the policy's steps of stage 2.

    stage = Imitation(config, (sampler, scorer, task queue), batches, show_phase, on_event)
    metrics = await stage.warm_up_step(0)
    await stage.steps(first_version=60, first=0, count=100, end_step=note)
    stage.close()
    """

    def __init__(
        self,
        config: RunConfig,
        workers: tuple[Sampler, Scorer, LearnerTaskQueue],
        batches: PreferenceBatches,
        show_phase: Callable[[str], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._objective, self._batches = config.objective, batches
        self._samples, self._is_rewarded = config.has_rollouts, config.has_policy_gradient
        self._ranks_rollouts = config.ranks_rollouts
        self._sampler, self._scorer, self._task_queue = workers
        self._show_phase, self._on_event = show_phase, on_event
        self._steps_done = 0
        self._no_step_ends = asyncio.Event()
        self._no_step_ends.set()
        self._preparing = "sampling"
        self._producer: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Forget what is under way."""
        if self._producer:
            self._producer.cancel()
        self._sampler.close()

    def _settle(self, sampled: SampledStep) -> None:
        self._sampler.trained(sampled.draws)
        self._steps_done += 1

    def _prepares(self, phase: str) -> None:
        """Show what is being done for the next step, now and after the learner's turns."""
        self._preparing = phase
        self._show_phase(phase)

    async def _sample(self, step: int) -> tuple[SampledStep, dict[str, float]]:
        self._prepares("sampling")
        self._sampler.advance(self._steps_done)
        began = time.monotonic()
        sampled = await self._sampler.step()
        waited_s = time.monotonic() - max(began, self._sampler.advanced_at)
        return sampled, rollout_metrics(sampled, waited_s, step)

    async def warm_up_step(self, index: int) -> dict[str, float]:
        """Sample one step and train only the discriminator on it: update number index."""
        sampled, metrics = await self._sample(0)
        metrics.pop("rollout/staleness")
        self._show_phase("training the discriminator")
        ranked = self._batches.for_discriminator(index)
        metrics |= await self._scorer.update(sampled.trajectories, ranked)
        self._settle(sampled)
        return metrics

    async def _prepare(
        self, first: int, count: int, update: int, out: "asyncio.Queue[ScoredStep | Exception]"
    ) -> None:
        try:
            for step in range(first, first + count):
                ranked = self._batches.for_discriminator(update + step - first)
                sampled, metrics = await self._sample(step)
                await self._no_step_ends.wait()  # a checkpoint of a step knows nothing of the next
                self._prepares("training the discriminator")
                metrics |= await self._scorer.update(sampled.trajectories, ranked)
                self._prepares("scoring")
                scores = await self._scorer.score(sampled.trajectories)
                scores = scores._replace(metrics=metrics | scores.metrics)
                await out.put(self._without_failures(ScoredStep(sampled, scores)))
        except Exception as error:  # handed to whoever waits for the step
            await out.put(error)

    def _without_failures(self, prepared: ScoredStep) -> ScoredStep:
        """Drop prompts without a reward; the discriminator, which needs none, has learned them."""
        (draws, batch, sampling_s), scores = prepared
        if not scores.failures:
            return prepared
        dropped = [draw for draw in draws if draw.prompt_id in scores.failures]
        ledger = self._sampler.ledger
        before = ledger.counts()[DrawState.DROPPED.value]
        ledger.move(dropped, DrawState.DROPPED, "its reward failed")
        count = before + len(dropped)
        if reaches_power_of_ten(before, count):
            last = scores.failures[dropped[-1].prompt_id]
            self._on_event(f"dropped for want of a reward so far: {count}; the last: {last}")
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
    ) -> None:
        """Take this many policy steps.

        Args:
            first_version: optimizer steps done so far.
            first: steps of this stage done so far, for the learning rate.
            num_warm_ups: updates of the discriminator before the first of this stage.
            end_step: told the metrics of each step; returns False to stop early.

        Raises:
            WorkerGroupRestartedError: if the learner had to begin again.
        """
        queue: asyncio.Queue[ScoredStep | Exception] = asyncio.Queue(maxsize=1)
        if self._samples:
            self._producer = asyncio.ensure_future(
                self._prepare(first_version, count, num_warm_ups + first, queue)
            )
        for index in range(count):
            prepared = await queue.get() if self._samples else None
            if isinstance(prepared, Exception):
                raise prepared
            metrics = await self._learn(prepared, first_version + index, first + index)
            if prepared:
                self._settle(prepared.sampled)
                self._sampler.advance(self._steps_done)
            self._no_step_ends.clear()
            if not await end_step(metrics):
                return
            self._no_step_ends.set()
            self._show_phase(self._preparing)

    async def _learn(
        self, prepared: ScoredStep | None, version: int, index: int
    ) -> dict[str, float]:
        """Take one policy step; without anything sampled it learns only what is beside."""
        rollouts = prepared.sampled.trajectories if prepared else EMPTY
        rewards = prepared.scores.rewards if prepared else None
        auxiliary = self._batches.auxiliary(index, rollouts, rewards)
        learning_rate = constant_rate(self._objective.learning_rate, index)
        task: OptimizerStep
        if prepared and self._is_rewarded:
            scores = prepared.scores
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
            )
        else:
            assert auxiliary
            task = PreferenceStep(version, learning_rate, auxiliary)
        self._show_phase("learning")
        began = time.monotonic()
        metrics = await self._task_queue.submit(task)
        learning_s = time.monotonic() - began
        sampled = prepared.scores.metrics if prepared else {}
        if auxiliary and self._ranks_rollouts:
            num_prompts = len(group_starts(rollouts))
            num_decided = len(auxiliary.comparisons)
            sampled["rollout/undecided_fraction"] = 1.0 - num_decided / max(num_prompts, 1)
        return sampled | metrics | {"time/learning_s": learning_s}
