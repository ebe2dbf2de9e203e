"""The queue from which the learner's ranks pull the tasks that the driver submits.

The driver submits whole tasks; every rank pulls its share of each task, in the same order. An
attempt numbers the worker group between two starts of the ranks. When a worker group is replaced,
every task of the old one ends with WorkerGroupRestartedError, and the driver returns to the
checkpoint from which the new worker group starts.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from actors.messages import (
    AuxiliaryBatch,
    Evaluate,
    LearnerStart,
    LearnerTask,
    OnPolicyStep,
    OptimizerStep,
    PreferenceStep,
    Publish,
    SaveCheckpoint,
    SftStep,
    Stop,
)
from alignment.mdp.trajectories import Trajectories, group_starts

LONGEST_POLL_S = 20.0
"""A rank that waits longer for a task gets None and pulls again, which keeps its calls short."""


class WorkerGroupRestartedError(RuntimeError):
    """The worker group was replaced, for the reason given; its tasks are not done."""


class LearnerFailedError(RuntimeError):
    """The learner keeps failing, or is too slow; the message holds the last error."""


class SupersededError(RuntimeError):
    """The rank belongs to a replaced worker group and must end."""


def share(task: LearnerTask, rank: int, world_size: int) -> LearnerTask:
    """Return a rank's part of a task: every world_size-th group. Counts stay those of all ranks."""
    match task:
        case SftStep() | Evaluate():
            rows = _rows_of_rank(task.trajectories, rank, world_size)
            return replace(task, trajectories=task.trajectories.select(rows))
        case OnPolicyStep():
            batch = task.trajectories
            rows = _rows_of_rank(batch, rank, world_size)
            states = task.teacher_states
            return replace(
                task,
                trajectories=batch.select(rows),
                discriminator_logits=batch.select_values(task.discriminator_logits, rows),
                rewards=task.rewards[rows],
                teacher_states=None if states is None else batch.select_values(states, rows),
                auxiliary=task.auxiliary and _auxiliary_share(task.auxiliary, rank, world_size),
            )
        case PreferenceStep():
            return replace(task, auxiliary=_auxiliary_share(task.auxiliary, rank, world_size))
        case SaveCheckpoint() | Publish() | Stop():
            return task


def _rows_of_rank(trajectories: Trajectories, rank: int, world_size: int) -> np.ndarray:
    """Return the rows [row] of every world_size-th group."""
    starts = group_starts(trajectories)
    ends = np.append(starts, len(trajectories))[1:]
    mine = [
        np.arange(start, end)
        for start, end in zip(starts[rank::world_size], ends[rank::world_size], strict=True)
    ]
    return np.concatenate(mine) if mine else np.zeros(0, np.int64)


def _auxiliary_share(auxiliary: AuxiliaryBatch, rank: int, world_size: int) -> AuxiliaryBatch:
    rows = _rows_of_rank(auxiliary.comparisons.trajectories, rank, world_size)

    def part(trajectories: Trajectories) -> Trajectories:
        return trajectories.select(_rows_of_rank(trajectories, rank, world_size))

    return auxiliary._replace(
        comparisons=auxiliary.comparisons.select(rows),
        demonstrations=part(auxiliary.demonstrations),
        mismatched=part(auxiliary.mismatched),
    )


class LearnerTaskQueue:
    """Owns the tasks of the current worker group, in one event loop.

    The driver calls wait_for_worker_group, submit and set_checkpoint; the ranks call start,
    next_task and finished.
    """

    def __init__(self, attempt: int, timeout_s: float) -> None:
        """Make a queue without a worker group.

        Args:
            attempt: of the last worker group of this run, -1 if there was none; the next one's is
                larger by 1.
            timeout_s: the deadline for a worker group to be complete, and for a task to be done.
        """
        self.attempt = attempt
        self._timeout_s = timeout_s
        self._checkpoint: str | None = None
        self._started_from: str | None = None
        self._present: set[int] = set()
        self._world_size = 0
        self._tasks: list[LearnerTask] = []
        self._results: list[asyncio.Future[dict[str, float]]] = []
        self._changed = asyncio.Condition()
        self._num_worker_groups = 0
        self._restart_reason = self._loss = ""
        self._is_lost = False
        """Why the worker group before the current one was lost; "" if it was not."""
        self._num_steps = 0
        self._is_complete, self._stop_requested = False, False
        self._driver_attempt: int | None = None
        self._failure: LearnerFailedError | None = None
        self._republishing: asyncio.Future[dict[str, float]] | None = None

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken so far, over all worker groups."""
        return self._num_steps

    def set_checkpoint(self, checkpoint: str | None) -> None:
        """Set the folder from which the next worker group starts; None for the initial model."""
        self._checkpoint = checkpoint

    async def start(self, rank: int, world_size: int) -> LearnerStart:
        """Join the current worker group, or a new one if the current one has this rank already."""
        async with self._changed:
            is_other = world_size != self._world_size  # the current one never became complete
            if (
                self._num_worker_groups == 0
                or self._is_complete
                or rank in self._present
                or is_other
            ):
                self._begin_worker_group(
                    f"{self._world_size} ranks were replaced by {world_size}" if is_other else ""
                )
                self._world_size = world_size
            attempt = self.attempt
            self._present.add(rank)
            self._is_lost = False
            if len(self._present) == world_size:
                self._is_complete, self._started_from = True, self._checkpoint
            self._changed.notify_all()

            def is_decided() -> bool:
                return self._is_complete or self.attempt != attempt

            await asyncio.wait_for(self._changed.wait_for(is_decided), self._timeout_s)
        self._check(attempt)
        return LearnerStart(attempt, self._started_from)

    @property
    def has_ranks(self) -> bool:
        """Whether ranks of the current worker group have a process, as far as is known."""
        return bool(self._present) and not self._is_lost

    def lost(self, reason: str) -> None:
        """Note why the worker group was lost, before the next one starts."""
        self._loss, self._is_lost = reason, True

    def _begin_worker_group(self, reason: str) -> None:
        self._num_worker_groups += 1
        self.attempt += 1
        self._present, self._tasks, self._is_complete = set(), [], False
        self._restart_reason, self._loss = self._loss or reason or "the ranks started again", ""
        self._fail_all(WorkerGroupRestartedError(self._restart_reason))

    def _fail_all(self, error: Exception) -> None:
        results, self._results = self._results, []
        for result in results:
            if not result.done():
                result.set_exception(error)

    def _check(self, attempt: int) -> None:
        if attempt != self.attempt:
            raise SupersededError(
                f"worker group {attempt} was replaced by worker group {self.attempt}"
            )

    async def fail(self, reason: str) -> None:
        """End every task, submitted now or later, with LearnerFailedError."""
        self._failure = LearnerFailedError(reason)
        self._fail_all(self._failure)
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """Give the ranks Stop as their next task."""
        self._stop_requested = True
        async with self._changed:
            self._changed.notify_all()

    async def wait_for_worker_group(self) -> int:
        """Wait for a complete worker group that started from the newest checkpoint.

        One that started from an older checkpoint, while the newest was being written, is replaced.
        Tasks are accepted for this worker group only.

        Raises:
            LearnerFailedError: if the learner failed, or does not start in time.
        """
        async with self._changed:
            ready = self._changed.wait_for(
                lambda: self._has_current_worker_group() or self._failure
            )
            try:
                await asyncio.wait_for(ready, self._timeout_s)
            except TimeoutError as error:
                slow = f"no learner started within placement.timeout_s = {self._timeout_s:g} s"
                raise LearnerFailedError(f"{slow}; raise it if loading takes longer") from error
        if self._failure:
            raise self._failure
        self._driver_attempt = self.attempt
        return self.attempt

    def _has_current_worker_group(self) -> bool:
        if self._is_complete and self._started_from != self._checkpoint:
            self._begin_worker_group("it had started from an older checkpoint")
            self._changed.notify_all()
        return self._is_complete

    async def submit(self, task: LearnerTask) -> dict[str, float]:
        """Have all ranks do a task, after those submitted before, and return the learner's metrics.

        Raises:
            WorkerGroupRestartedError: if the worker group that wait_for_worker_group returned was
                replaced.
            LearnerFailedError: if the learner failed, or is too slow.
        """
        result: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()
        async with self._changed:
            # Checked under the lock: the learner may be lost while this waits for it.
            if self._failure:
                raise self._failure
            if self._driver_attempt != self.attempt:
                raise WorkerGroupRestartedError(self._restart_reason)
            self._tasks.append(task)
            self._results.append(result)
            self._changed.notify_all()
        try:
            return await asyncio.wait_for(result, self._timeout_s)
        except TimeoutError as error:
            raise LearnerFailedError(
                f"the learner did not finish {type(task).__name__} in {self._timeout_s:.0f} s; "
                "raise placement.timeout_s if it needs more"
            ) from error

    async def republish(self) -> None:
        """Have the current weights published again; concurrent calls share one task.

        Raises:
            WorkerGroupRestartedError: if the worker group was replaced; the next one publishes when
                it starts.
        """
        if self._republishing is None or self._republishing.done():
            self._republishing = asyncio.ensure_future(self.submit(Publish()))
        await asyncio.shield(self._republishing)

    async def next_task(
        self, attempt: int, rank: int, world_size: int, index: int
    ) -> LearnerTask | None:
        """Return a rank's share of a task, or None if there is no such task yet.

        Raises:
            SupersededError: if the rank's worker group was replaced.
        """
        self._check(attempt)

        def is_decided() -> bool:
            has_task = len(self._tasks) > index or self._stop_requested
            return has_task or self.attempt != attempt

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_decided), LONGEST_POLL_S)
            except TimeoutError:
                return None
        self._check(attempt)
        if len(self._tasks) <= index:
            return Stop()
        return share(self._tasks[index], rank, world_size)

    async def finished(self, attempt: int, index: int, metrics: Mapping[str, float]) -> None:
        """Set the metrics of a task that is done; a second call for it changes nothing."""
        self._check(attempt)
        if not self._results[index].done():
            self._results[index].set_result(dict(metrics))
            self._num_steps += isinstance(self._tasks[index], OptimizerStep)
        if index:  # every rank has fetched that one by now: free its memory
            self._tasks[index - 1] = Stop()
